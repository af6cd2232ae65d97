"""The report of a comparison: the table as in the paper's Table 1, plots, and one self-contained HTML page."""

import html
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from wavepos import plots
from wavepos.positions import Wavelet, parse_position
from wavepos.runs import write_text

BLOCKS = {
    "nonoverlapping": "Non-overlapping inference: sequences divided into L_train",
    "whole": "Sequences read whole",
    "sliding": "Sliding windows, moved by half their length",
}

PAPER_TOKENS = 286_000 * 73_728

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>wavepos: train short, read long</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 56rem; }}
h1 {{ font-size: 1.5rem; line-height: 1.2; }}
h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
figure {{ margin: 1rem 0; }}
figure svg {{ width: 100%; height: auto; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; white-space: nowrap; }}
th, td {{ padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }}
th:first-child, td:first-child {{ text-align: left; position: sticky; left: 0; background: #fff; }}
tr.block th {{ text-align: left; font-weight: 600; background: #f3f3f3; }}
td.best {{ font-weight: 700; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>Train on {seq_len} tokens, read {longest}: perplexity of {num_methods} positional methods</h1>
<p>{introduction}</p>
<h2>Perplexity per token</h2>
<div class="wide">{table}</div>
<p>Lower is better; the best of each column is bold. L_train = {seq_len}. {seeds_note}</p>
{figures}
<h2>How it was made</h2>
<dl>{facts}</dl>
</body>
</html>
"""


def write_report(result: dict[str, Any], out: Path) -> list[Path]:
    """Write table.md, plots as SVG and PNG, and report.html into the directory; returns their paths."""
    figures = _figures(result)
    folder = out / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (figure, _) in figures.items():
        write_text(folder / f"{name}.svg", plots.svg(figure))
        temporary = folder / f".{name}.png"
        figure.savefig(temporary, format="png", dpi=150)
        temporary.replace(folder / f"{name}.png")
        written += [folder / f"{name}.svg", folder / f"{name}.png"]
    write_text(out / "table.md", markdown_table(result))
    write_text(out / "report.html", _page(result, figures))
    return [out / "report.html", out / "table.md", *written]


def markdown_table(result: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = [
        f"Perplexity per token, L_train = {result['config']['seq_len']}, {_budget(result)}; {_seeds_note(result)}",
        "",
        "| | " + " | ".join(str(length) for length in result["lengths"]) + " |",
        "|---|" + "---:|" * len(result["lengths"]),
    ]
    for kind, title in BLOCKS.items():
        lines.append(f"| *{title}* |" + " |" * len(result["lengths"]))
        best = _best(result, kind)
        for name, cells in _rows(result, kind).items():
            marked = [f"**{text}**" if value == low else text for (value, text), low in zip(cells, best, strict=True)]
            lines.append(f"| {name} | " + " | ".join(marked) + " |")
    return "\n".join(lines) + "\n"


def console_tables(result: dict[str, Any]) -> Iterator[Table]:
    """The table for a terminal, one part a protocol."""
    for kind, title in BLOCKS.items():
        table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
        table.add_column("read at once", no_wrap=True)
        for length in result["lengths"]:
            table.add_column(str(length), justify="right", no_wrap=True)
        best = _best(result, kind)
        for name, cells in _rows(result, kind).items():
            marked = [f"[bold]{text}" if value == low else text for (value, text), low in zip(cells, best, strict=True)]
            table.add_row(name, *marked)
        yield table


def _rows(result: dict[str, Any], kind: str) -> dict[str, list[tuple[float, str]]]:
    """By method: mean perplexity at each length, and its text, with the seeds' standard deviation."""
    rows: dict[str, list[tuple[float, str]]] = {}
    for name in dict.fromkeys(outcome["name"] for outcome in result["outcomes"]):
        cells = []
        for length in result["lengths"]:
            values = _values(result["outcomes"], name, kind, length)
            mean = statistics.fmean(values)
            spread = f"±{statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append((mean, f"{mean:.1f}{spread}" if mean < 1e5 else f"{mean:.1e}"))
        rows[name] = cells
    return rows


def _values(outcomes: Sequence[dict[str, Any]], name: str, kind: str, length: int) -> list[float]:
    return [
        float("inf") if entry["per_token"] is None else entry["per_token"]
        for outcome in outcomes
        if outcome["name"] == name
        for entry in outcome["perplexities"]
        if entry["kind"] == kind and entry["seq_len"] == length
    ]


def _best(result: dict[str, Any], kind: str) -> list[float]:
    return [min(column) for column in zip(*([v for v, _ in row] for row in _rows(result, kind).values()), strict=True)]


def _figures(result: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Name to figure and caption."""
    outcomes, train_len = result["outcomes"], result["config"]["seq_len"]
    figures = {
        "perplexity": (
            plots.perplexity_against_length(outcomes, train_len, "whole", "Sequences read whole"),
            "Perplexity against the length read. A method that extrapolates stays level or falls.",
        ),
        "perplexity_sliding": (
            plots.perplexity_against_length(outcomes, train_len, "sliding", "Sliding windows"),
            "The same with sliding windows: every token has at least half a window of context, so that a shorter early "
            "part of the sequence does not flatter long ones.",
        ),
        "loss_by_position": (
            plots.loss_by_position(outcomes, train_len),
            "Loss by place in the longest sequences: what comes after the dotted line was never trained.",
        ),
        "learning_curves": (plots.learning_curves(outcomes), "Training loss of each model on the same batches."),
    }
    for outcome in outcomes:
        position = parse_position(outcome["position"]).build(head_dim=64, num_heads=4)
        if isinstance(position, Wavelet):
            figures["wavelets"] = (
                plots.wavelets(position),
                "The fixed table p(δ): what a head may add up for a query.",
            )
            break
    return figures


def _page(result: dict[str, Any], figures: dict[str, tuple[Any, str]]) -> str:
    config = result["config"]
    drawn = "\n".join(
        f"<figure>{plots.svg(figure)}<figcaption>{html.escape(caption)}</figcaption></figure>"
        for figure, caption in figures.values()
    )
    return PAGE.format(
        seq_len=config["seq_len"],
        longest=f"{result['lengths'][-1]:,}",
        num_methods=len(config["methods"]),
        introduction=html.escape(_introduction(result)),
        table=_html_table(result),
        seeds_note=_seeds_note(result),
        figures=drawn,
        facts="".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in _facts(result).items()),
    )


def _html_table(result: dict[str, Any]) -> str:
    lengths = result["lengths"]
    rows = ["<tr><th>tokens read at once</th>" + "".join(f"<th>{length}</th>" for length in lengths) + "</tr>"]
    for kind, title in BLOCKS.items():
        rows.append(f'<tr class="block"><th colspan="{len(lengths) + 1}">{html.escape(title)}</th></tr>')
        best = _best(result, kind)
        for name, cells in _rows(result, kind).items():
            marked = [
                f'<td class="best">{text}</td>' if value == low else f"<td>{text}</td>"
                for (value, text), low in zip(cells, best, strict=True)
            ]
            rows.append(f"<tr><td>{html.escape(name)}</td>{''.join(marked)}</tr>")
    return "<table>" + "".join(rows) + "</table>"


def _introduction(result: dict[str, Any]) -> str:
    first = result["outcomes"][0]
    return (
        f"Small decoder language models of {first['parameters'] / 1e6:.1f} million parameters, alike but for their "
        f"positional method, were trained on {result['config']['corpus']} ({_budget(result)}), and read "
        f"{result['scored_tokens']:,} tokens of held-out text. At so small a budget the order of the methods says how "
        f"quickly each is learned: the paper trains about "
        f"{_rounded(PAPER_TOKENS / first['train_tokens'])} times longer."
    )


def _budget(result: dict[str, Any]) -> str:
    tokens = result["outcomes"][0]["train_tokens"]
    return f"{result['steps']} updates of {tokens // result['steps']:,} tokens each"


def _rounded(value: float) -> str:
    return f"{float(f'{value:.1g}'):,.0f}"


def _seeds_note(result: dict[str, Any]) -> str:
    seeds = result["config"]["seeds"]
    return "One seed." if seeds == 1 else f"Mean and standard deviation of {seeds} seeds."


def _facts(result: dict[str, Any]) -> dict[str, str]:
    made = result["environment"]
    seconds = sum(outcome["train_seconds"] for outcome in result["outcomes"])
    return {
        "command": made["command"],
        "commit": made["commit"] or "not a checkout",
        "hardware": made["gpu"] or f"{made['cpu']}, {made['threads']} threads",
        "versions": ", ".join([f"python {made['python']}", *(f"{k} {v}" for k, v in made["packages"].items())]),
        "training time": f"{seconds:.0f} s for {len(result['outcomes'])} models",
        "tokenizer": result["config"]["tokenizer"],
    }
