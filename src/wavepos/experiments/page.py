"""The report as one self-contained HTML page that a phone can read."""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from markdown_it import MarkdownIt

from wavepos.experiments.tables import (
    BLOCKS,
    Column,
    Panel,
    columns,
    difference_text,
    kinds_of,
    panel_note,
    panels,
    perplexity_text,
    short_text,
    summary,
    unit_of,
    verdict,
)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 60rem; overflow-wrap: break-word; }}
h1 {{ font-size: 1.5rem; line-height: 1.2; }}
h2 {{ font-size: 1.25rem; margin-top: 2.5rem; border-top: 2px solid #1a1a1a; padding-top: .5rem; line-height: 1.25; }}
h3 {{ font-size: 1.05rem; margin-top: 2rem; }}
figure {{ margin: 1rem 0; max-width: 44rem; }}
figure svg {{ width: 100%; height: auto; }}
figcaption {{ font-size: .9rem; color: #444; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }}
th, td {{ padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap;
  vertical-align: top; }}
th:first-child, td:first-child {{ text-align: left; position: sticky; left: 0; background: #fff; white-space: normal;
  min-width: 6.5rem; max-width: 12rem; line-height: 1.25; }}
tr.block th {{ text-align: left; background: #f3f3f3; }}
tr.block th span {{ position: sticky; left: .5rem; white-space: normal; display: inline-block; max-width: 20rem; }}
td.told {{ font-weight: 700; }}
details {{ margin: 1rem 0; }}
summary {{ cursor: pointer; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{title}</h1>
{parts}
<h2>How it was made</h2>
<dl>{facts}</dl>
</body>
</html>
"""


def html_page(
    result: dict[str, Any],
    figures: Mapping[str, tuple[str, str]],
    comparison: Callable[[dict[str, Any], Panel], Sequence[str]],
) -> str:
    """The page of a result.

    Args:
        result: as `study_result` and `runs_result` give it.
        figures: name to SVG element and caption; a name begins with its panel's number.
        comparison: Markdown lines that stand below the tables of a panel.
    """
    found = panels(result)
    parts = [f"<p>{html.escape(_introduction(result, found))}</p>", _remarks(result)]
    for number, panel in enumerate(found):
        parts += [_panel(result, number, panel, figures), markdown_html(comparison(result, panel))]
    return document(result["title"], parts, _facts(result))


def document(title: str, parts: Sequence[str], facts: Mapping[str, str]) -> str:
    """A self-contained page.

    Args:
        title: its heading.
        parts: HTML.
        facts: of how it was made.
    """
    return PAGE.format(
        title=html.escape(title),
        parts="\n".join(parts),
        facts="".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items()),
    )


def markdown_html(lines: Sequence[str]) -> str:
    """Markdown as HTML, its tables in boxes that scroll; HTML in it is shown as text."""
    text: str = MarkdownIt("commonmark", {"html": False}).enable("table").render("\n".join(lines))
    return text.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")


def figure_html(svg: str, caption: str) -> str:
    """An SVG element with its caption."""
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def made_by(made: Mapping[str, Any]) -> dict[str, str]:
    """Command, hardware and versions of an `environment()`, as a page shows them."""
    return {
        "command": made["command"],
        "commit": str(made["commit"]),
        "hardware": _hardware(made),
        "versions": ", ".join([f"python {made['python']}", *(f"{k} {v}" for k, v in made["packages"].items())]),
    }


def _introduction(result: dict[str, Any], found: list[Panel]) -> str:
    sizes = sorted({outcome["parameters"] for outcome in result["outcomes"]})
    span = f"{sizes[0] / 1e6:.1f}" + (f" to {sizes[-1] / 1e6:.1f}" if sizes[-1] / sizes[0] > 1.05 else "")
    return (
        f"Decoder language models of {span} million parameters, alike but for their positional method, were trained "
        f"alike and read at lengths they were not trained on. {len(result['outcomes'])} finished rows of "
        f"{len({outcome['name'] for outcome in result['outcomes']})} methods in {len(found)} "
        f"comparison{'s' if len(found) > 1 else ''}; differences are to {result['baseline']}."
    )


def _remarks(result: dict[str, Any]) -> str:
    remarks = [
        *(f"Failed: {failure['run']}: {failure['error']}" for failure in result["failures"]),
        *([f"Not finished: {' · '.join(result['unfinished'])}."] if result["unfinished"] else []),
        *result["notes"],
    ]
    return "<ul>" + "".join(f"<li>{html.escape(remark)}</li>" for remark in remarks) + "</ul>" if remarks else ""


def _panel(result: dict[str, Any], number: int, panel: Panel, figures: Mapping[str, tuple[str, str]]) -> str:
    baseline = result["baseline"]
    parts = [f"<h2>{html.escape(panel.title)}</h2>", f"<p>{html.escape(panel_note(panel))}</p>"]
    for index, text in enumerate(panel.texts):
        parts.append(f"<h3>Perplexity {unit_of(text)}: {html.escape(short_text(text))}</h3>")
        parts += [f"<p>{html.escape(sentence)}</p>" for sentence in _verdicts(panel, text, baseline)]
        parts.append(f'<div class="wide">{_table(panel, text)}</div>')
        parts += _drawn(figures, f"{number}-{index}-")
        parts.append(
            f"<details><summary>Differences to {html.escape(baseline)}, nats per token</summary>"
            "<p>Below zero: better than it; 0.01 is about 1% of the perplexity. Mean of the differences of equal seeds "
            "± half of the 95% interval; bold where it leaves out zero.</p>"
            f'<div class="wide">{_differences(panel, text, baseline)}</div></details>'
        )
    parts += _drawn(figures, f"{number}-all-")
    parts.append(f'<h3>Cost</h3><div class="wide">{_summary(panel)}</div>')
    return "\n".join(parts)


def _drawn(figures: Mapping[str, tuple[str, str]], start: str) -> list[str]:
    return [figure_html(svg, caption) for name, (svg, caption) in figures.items() if name.startswith(start)]


def _verdicts(panel: Panel, text: str, baseline: str) -> Iterator[str]:
    """Who beats the baseline at the trained and at the longest length, where seeds can tell."""
    if panel.most_seeds < 2 or "whole" not in kinds_of(panel, text):
        return
    found = [column for column in columns(panel, text, "whole") if column.length >= panel.seq_len]
    for column in dict.fromkeys(column.length for column in (found[:1] + found[-1:])):
        told = verdict(panel, next(c for c in found if c.length == column), baseline)
        said = "; ".join(f"{how}: {' · '.join(names)}" for how, names in told.items() if names)
        if said:
            yield f"Read whole at {column:,} tokens, against {baseline}: {said}."


def _table(panel: Panel, text: str) -> str:
    def cell(column: Column, name: str, best: str | None) -> str:
        if name not in column.shown:
            return "<td>–</td>"
        mark = ' class="told"' if name == best else ""
        return f"<td{mark}>{perplexity_text(list(column.shown[name].values()))}</td>"

    rows: list[str] = []
    for kind in kinds_of(panel, text):
        found = columns(panel, text, kind)
        best = [column.best() for column in found]
        rows += [*([] if rows else [_header(found)]), _block(kind, len(found))]
        for name in panel.names:
            cells = "".join(cell(column, name, first) for column, first in zip(found, best, strict=True))
            rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    return "<table>" + "".join(rows) + "</table>"


def _differences(panel: Panel, text: str, baseline: str) -> str:
    def cell(column: Column, name: str) -> str:
        difference = column.difference(name, baseline)
        mark = ' class="told"' if difference is not None and difference.leaves_out_zero else ""
        return f"<td{mark}>{difference_text(difference)}</td>"

    rows: list[str] = []
    for kind in kinds_of(panel, text):
        found = columns(panel, text, kind)
        rows += [*([] if rows else [_header(found)]), _block(kind, len(found))]
        for name in panel.names:
            if name != baseline:
                cells = "".join(cell(column, name) for column in found)
                rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    return "<table>" + "".join(rows) + "</table>"


def _header(found: list[Column]) -> str:
    return "<tr><th>tokens read at once</th>" + "".join(f"<th>{column.length}</th>" for column in found) + "</tr>"


def _block(kind: str, width: int) -> str:
    return f'<tr class="block"><th colspan="{width + 1}"><span>{html.escape(BLOCKS[kind])}</span></th></tr>'


def _summary(panel: Panel) -> str:
    heads = ("", "seeds", "parameters", "tokens", "seconds", "bits per byte")
    rows = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for row in summary(panel):
        bits = "–" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.4f}"
        cells = (
            row["seeds"],
            f"{row['parameters']:,}",
            f"{row['train_tokens']:,}",
            f"{row['train_seconds']:.0f}",
            bits,
        )
        rows.append(f"<tr><td>{html.escape(row['method'])}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return "<table>" + "".join(rows) + "</table>"


def _facts(result: dict[str, Any]) -> dict[str, str]:
    made = made_by(result["environment"])
    first = result["outcomes"][0]
    trained = {outcome["folder"]: outcome for outcome in result["outcomes"]}
    machines = sorted({_hardware(outcome["environment"]) for outcome in trained.values()})
    commits = sorted({str(outcome["environment"]["commit"]) for outcome in trained.values()})
    return {
        "command": made["command"],
        "commits of the runs": ", ".join(commits),
        "hardware": "; ".join(machines),
        "versions": made["versions"],
        "training time": f"{sum(o['train_seconds'] for o in trained.values()):,.0f} s for {len(trained)} models",
        "tokenizer": first["config"]["tokenizer"],
    }


def _hardware(made: Mapping[str, Any]) -> str:
    return str(made["gpu"] or f"{made['cpu']}, {made['threads']} threads")
