"""The report of any runs: tables as the paper's Table 1, paired differences, plots; CSV, JSON, Markdown and a page."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from wavepos.experiments import plots, retrieval_report, style
from wavepos.experiments.beside import beside_paper, facts_table
from wavepos.experiments.page import html_page
from wavepos.experiments.tables import (
    BLOCKS,
    Panel,
    columns,
    difference_rows,
    kinds_of,
    marked,
    measurements,
    panel_note,
    panels,
    perplexity_rows,
    short_text,
    summary,
    unit_of,
)
from wavepos.storage import write_json, write_text

PAGE, TABLE, RESULT, CSV = "report.html", "report.md", "report.json", "measurements.csv"


def write_report(result: dict[str, Any], out: Path, reference: dict[str, Any] | None = None) -> list[Path]:
    """Write report.html, report.md, report.json, measurements.csv and plots/ into a directory; returns their paths.

    Args:
        result: as `study_result` and `runs_result` give it.
        out: the directory; made if absent.
        reference: another result, whose range over its seeds is drawn as a band under the lines of equal runs.

    Raises:
        ValueError: no run of it is finished.
    """
    if not result["outcomes"]:
        failed = "; ".join(f"{failure['run']}: {failure['error']}" for failure in result["failures"])
        raise ValueError(f"no run is finished, so there is nothing to report{f' ({failed})' if failed else ''}")
    probes = retrieval_report.is_retrieval(result)
    figures = retrieval_report.figures(result) if probes else plots.figures(result, reference)
    written = [path for name, (figure, _) in figures.items() for path in style.save(figure, out / "plots", name)]
    write_json(out / RESULT, result)
    write_text(out / CSV, csv_text(result))
    write_text(out / TABLE, markdown(result))
    drawn = {name: (style.svg(figure), text) for name, (figure, text) in figures.items()}
    page = retrieval_report.page(result, drawn) if probes else html_page(result, drawn, comparison_lines)
    write_text(out / PAGE, page)
    return [out / PAGE, out / TABLE, out / RESULT, out / CSV, *written]


def read_result(path: Path) -> dict[str, Any]:
    """A result that `write_report` wrote."""
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def csv_text(result: dict[str, Any]) -> str:
    """Every measurement as a line of CSV, with a header."""
    probes = retrieval_report.is_retrieval(result)
    rows = retrieval_report.rows(result) if probes else measurements(result["outcomes"])
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]) if rows else ["method"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def markdown(result: dict[str, Any]) -> str:
    """The whole report in Markdown, without figures."""
    lines = [f"# {result['title']}", ""]
    if retrieval_report.is_retrieval(result):
        return "\n".join([*lines, *retrieval_report.markdown_lines(result)]).rstrip() + "\n"
    for panel in panels(result):
        lines += [f"## {panel.title}", "", panel_note(panel), ""]
        for text in panel.texts:
            lines += [f"### Perplexity {unit_of(text)}: {short_text(text)}", ""]
            lines += [*_markdown_table(panel, text), ""]
            lines += [f"Difference to {result['baseline']}, nats per token (below zero: better)", ""]
            lines += [*_markdown_differences(panel, text, result["baseline"]), ""]
        lines += [*_markdown_summary(panel), "", *comparison_lines(result, panel), ""]
    lines += [f"- Failed: {failure['run']}: {failure['error']}" for failure in result["failures"]]
    lines += [f"- Not finished: {run}" for run in result["unfinished"]]
    lines += [f"- {note}" for note in result["notes"]]
    return "\n".join(lines).rstrip() + "\n"


def comparison_lines(result: dict[str, Any], panel: Panel) -> list[str]:
    """Markdown: our numbers beside the paper's, and facts of the rows, where the study has them."""
    if not panel.texts:
        return []
    lines = list(facts_table(panel, result.get("facts", {})))
    if result.get("published"):
        lines += ["", *beside_paper(panel, result["published"])]
    return lines


def console_tables(result: dict[str, Any]) -> Iterator[Table]:
    """The tables for a terminal, one per protocol and text; of several seeds the spread stands below the mean."""
    if retrieval_report.is_retrieval(result):
        yield from retrieval_report.console_tables(result)
        return
    for panel in panels(result):
        for text in panel.texts:
            for kind in kinds_of(panel, text):
                title = f"{BLOCKS[kind]} ({short_text(text)}, perplexity {unit_of(text)})"
                table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
                table.add_column("read at once")
                found = columns(panel, text, kind)
                for column in found:
                    table.add_column(str(column.length), justify="right")
                for name, cells in perplexity_rows(panel, found).items():
                    narrow = ((cell.replace("±", "\n±"), best) for cell, best in cells)  # for 80 columns
                    table.add_row(name, *(f"[bold]{cell}" if best else cell for cell, best in narrow))
                yield table


def _markdown_table(panel: Panel, text: str) -> Iterator[str]:
    for number, kind in enumerate(kinds_of(panel, text)):
        found = columns(panel, text, kind)
        if number == 0:
            yield "| | " + " | ".join(str(column.length) for column in found) + " |"
            yield "|---|" + "---:|" * len(found)
        yield f"| *{BLOCKS[kind]}* |" + " |" * len(found)
        for name, cells in perplexity_rows(panel, found).items():
            yield f"| {name} | " + " | ".join(map(marked, cells)) + " |"


def _markdown_differences(panel: Panel, text: str, baseline: str) -> Iterator[str]:
    for number, kind in enumerate(kinds_of(panel, text)):
        found = columns(panel, text, kind)
        if number == 0:
            yield "| | " + " | ".join(str(column.length) for column in found) + " |"
            yield "|---|" + "---:|" * len(found)
        yield f"| *{BLOCKS[kind]}* |" + " |" * len(found)
        for name, cells in difference_rows(panel, found, baseline).items():
            yield f"| {name} | " + " | ".join(map(marked, cells)) + " |"


def _markdown_summary(panel: Panel) -> Iterator[str]:
    yield "| | seeds | parameters | tokens | seconds | bits per byte at L_train |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row in summary(panel):
        bits = "–" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.4f}"
        yield (
            f"| {row['method']} | {row['seeds']} | {row['parameters']:,} | {row['train_tokens']:,} | "
            f"{row['train_seconds']:.0f} | {bits} |"
        )
