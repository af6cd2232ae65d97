"""Plots and tables of a benchmark's result."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.record import Cell
from wavepos.experiments.style import panels, save, style_of

VERDICTS = ("within", "beyond", "failed", "refused")


def write_figures(result: dict[str, Any], path: Path) -> list[Path]:
    """The ratio and the memory against the length as SVG and PNG beside the JSON; the paths written."""
    measured = [cell for cell in result["cells"] if "ratio" in cell]
    if not measured:
        return []
    figures = {"ratio": _grid(measured, "time beside RoPE", _ratio, result)}
    if any("peak_bytes" in cell for cell in measured):
        figures["memory"] = _grid(measured, "peak memory, MiB", _mebibytes, result)
    written = []
    for name, figure in figures.items():
        written += save(figure, path.parent, f"{path.stem}_{name}")
    return written


def verdict_table(result: dict[str, Any]) -> Table:
    """Of the yardstick: how many calls of each method and backend are within the bound, refused, or wrong."""
    table = Table("position", "backend", "within", "beyond", "failed", "refused", "largest error / bound")
    places = dict.fromkeys((cell["position"], cell["backend"]) for cell in result["cells"])
    for position, backend in places:
        cells = [cell for cell in result["cells"] if (cell["position"], cell["backend"]) == (position, backend)]
        counts = [sum(cell["verdict"] == verdict for cell in cells) for verdict in VERDICTS]
        shares = [each["error"] / each["bound"] for cell in cells for each in cell.get("errors", []) if each["bound"]]
        table.add_row(position, backend, *map(str, counts), f"{max(shares):.2f}" if shares else "–")
    return table


def summary_table(result: dict[str, Any]) -> Table:
    """Median ratio to RoPE, one row per method and kind of call, one column per length."""
    lengths = sorted({cell["seq_len"] for cell in result["cells"]})
    table = Table("time beside RoPE", "", *(f"{length:,}" for length in lengths))
    rows: dict[tuple[str, str], dict[int, str]] = {}
    for cell in result["cells"]:
        text = f"{cell['ratio']['median']:.2f}" if "ratio" in cell else "–"
        rows.setdefault((cell["title"], _panel(cell)), {})[cell["seq_len"]] = text
    for (title, panel), found in rows.items():
        table.add_row(title, panel, *(found.get(length, "") for length in lengths))
    return table


def skipped_lines(result: dict[str, Any]) -> list[str]:
    """What was not measured and why, each reason once."""
    lines = {f"{entry['peer']}: {entry['reason']}": None for entry in result.get("left_out", ())}
    for cell in result["cells"]:
        if "skipped" in cell:
            lines[f"{cell['title']}, {cell['seq_len']:,}, {_panel(cell)}: {cell['skipped']}"] = None
    return list(lines)


def _grid(cells: Sequence[Cell], label: str, value: Callable[[Cell], dict[str, float]], result: Any) -> Figure:
    """One panel a kind of call, one line a method, the quartiles shaded."""
    kinds = list(dict.fromkeys(_panel(cell) for cell in cells))
    columns = min(2, len(kinds))
    rows = -(-len(kinds) // columns)
    figure, grid = panels(rows, columns, height=3.0, width=4.2 * columns + 2.0, sharex=True)
    titles = list(dict.fromkeys(cell["title"] for cell in cells))
    for axes, panel in zip(grid.flat, kinds, strict=False):
        axes.set_title(panel, loc="left", fontsize=11)
        for title in titles:
            line = [cell for cell in cells if cell["title"] == title and _panel(cell) == panel]
            _draw(axes, sorted(line, key=lambda cell: cell["seq_len"]), value, title)
        _scale(axes, label, cells)
    for axes in list(grid.flat)[len(kinds) :]:
        axes.set_visible(False)
    handles = {
        text: handle for axes in grid.flat for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", fontsize=8, frameon=False)
    place = result["environment"]["gpu"] if result["config"]["device"] != "cpu" else result["environment"]["cpu"]
    figure.suptitle(f"{result['benchmark']} on {place}", x=0.01, ha="left", fontsize=12)
    return figure


def _draw(axes: Any, line: list[Cell], value: Callable[[Cell], dict[str, float]], title: str) -> None:
    if not line:
        return
    x = [cell["seq_len"] for cell in line]
    values = [value(cell) for cell in line]
    look = style_of(title)
    axes.plot(x, [v["median"] for v in values], **look.line(linewidth=1.5, label=title))
    axes.fill_between(x, [v["lower"] for v in values], [v["upper"] for v in values], color=look.colour, alpha=0.15)


def _scale(axes: Any, label: str, cells: Sequence[Cell]) -> None:
    ticks = sorted({cell["seq_len"] for cell in cells})
    axes.set_xscale("log", base=2)
    low, high = axes.get_ylim()
    if high > 2.0 * low:  # else no power of two may lie in between, and the axis would bear no number
        axes.set_yscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick // 1024}k" if tick % 1024 == 0 else str(tick) for tick in ticks])
    axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda number, _: f"{number:g}"))
    axes.set_xlabel("tokens")
    axes.set_ylabel(label)


def _panel(cell: Cell) -> str:
    return f"{cell['dtype']}, {cell['pass']}"


def _ratio(cell: Cell) -> dict[str, float]:
    ratio: dict[str, float] = cell["ratio"]
    return ratio


def _mebibytes(cell: Cell) -> dict[str, float]:
    return dict.fromkeys(("median", "lower", "upper"), cell["peak_bytes"] / 2**20)
