"""Figures 2, 3, 7 and 8: attention maps, the tokens they always attend to, and windows against heads (section 4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from wavepos.analysis.attention_maps import AttendedToken, AttentionMap
from wavepos.analysis.receptive_field import RowWindows, alibi_window
from wavepos.experiments.style import BLACK, BLUE, GUIDE, RED, WHITE_OF_MAPS, WIDTH, panels, style_of, title
from wavepos.positions.alibi import alibi_slopes

THRESHOLD, TEXT_THRESHOLD = 1e-3, 1e-2
"""Of Fig. 2, 3 and 8, and of Fig. 7."""
PIXELS = 360
"""Side of a map's image; longer maps are pooled by the share of black pairs, shown by its square root, so that a column
one token wide can still be seen."""
PANEL_PIXELS = {1: 360, 2: 360, 3: 210}
"""Side of the image in a panel by panels in a row: no more than a PNG has, for others would be left out."""
COLOURS = LinearSegmentedColormap.from_list("black on yellow", [WHITE_OF_MAPS, BLACK])
LINE_CHARACTERS, LINES_AT_EACH_END = 66, 9
LINE_HEIGHT, TEXT_SIZE, ADVANCE = 0.165, 8.8, 0.60205
"""Of Fig. 7's text: inches, points, and the width of a character of DejaVu Sans Mono in units of its size."""
HEADS_WITH_TEXT = (0, 1, 3)
"""Heads of Fig. 7: the paper's first, second and fourth."""
MOST_COLUMNS = 3
"""Maps side by side; more would be too small to see."""


def maps_by_head(found: AttentionMap, name: str) -> Figure:
    """Fig. 2: the maps of all heads of one method, two in a row, with their black pairs."""
    heads = found.image_HPP.shape[0]
    figure, axes = panels(-(-heads // 2), 2, height=2.55)
    for head, axis in enumerate(axes.flat):
        if head < heads:
            _draw_map(axis, found, head)
            title(axis, f"head {head + 1}: {int(found.black_pairs_H[head]):,} black")
        else:
            axis.set_axis_off()
    figure.suptitle(name, x=0.02, ha="left", fontsize=10)
    _label(figure, found)
    return figure


def maps_by_method(maps: Mapping[str, AttentionMap], heads: Sequence[int] | None = None) -> Figure:
    """Fig. 3 (one head) and 8 (the others): a column for each method, a row for each head; more than three are wrapped.

    Args:
        maps: by method, of equally many heads and of one length.
        heads: from 0; None: all.

    Raises:
        ValueError: no maps, or maps of different lengths or heads.
    """
    if len({(found.length, found.image_HPP.shape[0], found.threshold) for found in maps.values()}) != 1:
        raise ValueError("maps must be of one length, threshold and number of heads, and at least one")
    first = next(iter(maps.values()))
    heads = range(first.image_HPP.shape[0]) if heads is None else heads
    columns = min(len(maps), MOST_COLUMNS)
    rows_each = -(-len(maps) // columns)
    separator = ", " if columns <= 2 else "\n"
    figure, axes = panels(len(heads) * rows_each, columns, height=WIDTH / columns * 0.98 + 0.12)
    for axis in axes.flat:
        axis.set_visible(False)
    for row, head in enumerate(heads):
        for index, (name, found) in enumerate(maps.items()):
            axis = axes[row * rows_each + index // columns, index % columns]
            axis.set_visible(True)
            ticks = (0, found.length) if columns > 2 else None
            _draw_map(axis, found, head, columns, ticks)
            title(axis, f"{name}{separator}head {head + 1}", size=8.5)
    _label(figure, first)
    return figure


def maps_with_text(
    found: AttentionMap, tokens: Sequence[str], attended: Sequence[AttendedToken], heads: Sequence[int] | None = None
) -> Figure:
    """Fig. 7: maps of some heads over the text, whose always attended tokens are coloured.

    Red: in all heads of the model; blue: in some. The middle of a long text is left out.

    Args:
        found: at `TEXT_THRESHOLD`.
        tokens: the text of each key.
        attended: of `attended_tokens`.
        heads: to draw, from 0; None: the first, the second and the fourth, or all of fewer.
    """
    total = found.image_HPP.shape[0]
    if heads is None:
        heads = HEADS_WITH_TEXT if total > max(HEADS_WITH_TEXT) else range(total)
    lines = _lines(tokens, attended, total)
    left, gap = 0.5, 0.3
    side = min(2.1, (WIDTH - left - 0.15 - gap * (len(heads) - 1)) / len(heads))
    tall = 0.3 + side + 0.45 + 0.25 + LINE_HEIGHT * len(lines) + 0.1
    figure, axes = panels(1, len(heads), height=tall)
    figure.set_layout_engine("none")
    for number, head in enumerate(heads):
        axis = axes[0, number]
        place = (left + number * (side + gap), tall - 0.3 - side, side, side)
        axis.set_position([x / whole for x, whole in zip(place, (WIDTH, tall) * 2, strict=True)])
        _draw_map(axis, found, head, max(3, len(heads)), ticks=(0, found.length))
        axis.set_yticks([0, found.length] if number == 0 else [])
        title(axis, f"head {head + 1}", size=8.5)
    top = tall - 0.3 - side - 0.45
    figure.text(0.02, top / tall, _legend(found, attended, total), fontsize=8.0, va="top", color=BLACK)
    _write(figure, lines, top - 0.25)
    return figure


def windows_by_head(windows: Mapping[str, RowWindows]) -> Figure:
    """Section 4 on trained models: the window of each head, beside what ALiBi's slopes alone give.

    Args:
        windows: by method, all at one threshold and of equally many heads.
    """
    first = next(iter(windows.values()))
    heads = np.arange(1, len(first.keys_H) + 1)
    figure, axes = panels(2, 1, height=2.5, sharex=True)
    labels = (f"keys with weight ≥ {first.threshold:g}", f"keys that hold {first.mass:.0%}")
    for axis, label, field in zip(axes[:, 0], labels, ("keys_H", "held_H"), strict=True):
        for name, one in windows.items():
            axis.plot(heads, getattr(one, field), **style_of(name).line(label=name, linewidth=1.5))
        axis.set_yscale("log")
        _plain(axis)
        axis.set_ylabel("keys")
        title(axis, label)
    alone = [alibi_window(slope, first.threshold) for slope in alibi_slopes(len(heads))]
    axes[0, 0].plot(heads, alone, color=GUIDE, linestyle="dotted", linewidth=1.5, label="ALiBi's slopes alone")
    axes[1, 0].set_xticks(heads)
    axes[1, 0].set_xlabel("head")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, fontsize=8.5, frameon=False)
    return figure


def windows_by_slope(windows: Mapping[str, RowWindows], num_heads: int) -> Figure:
    """ALiBi's window against its slope (section 4): measured, and of an endless row without content.

    At 0.01 the curve turns back: where a weight is spread over many keys, none reaches the threshold.

    Args:
        windows: of models with ALiBi, all with that many heads.
        num_heads: H; the slopes follow from it.
    """
    figure, axes = panels(1, 1, height=2.9)
    axis = axes[0, 0]
    curve = np.geomspace(2.0**-9, 2.0**-0.5, 600)
    for threshold, dash in ((THRESHOLD, "dotted"), (TEXT_THRESHOLD, "dashed")):
        keys = [alibi_window(float(slope), threshold) or np.nan for slope in curve]
        axis.plot(curve, keys, color=GUIDE, linestyle=dash, linewidth=1.5, label=f"endless row, ≥ {threshold:g}")
    for name, one in windows.items():
        label = f"{name}, ≥ {one.threshold:g}"
        axis.plot(alibi_slopes(num_heads), one.keys_H, **style_of(name).line(label=label) | {"linestyle": "none"})
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    _plain(axis)
    axis.set_xlabel("slope")
    axis.set_ylabel("keys")
    axis.legend(fontsize=8.5, frameon=False)
    return figure


def _plain(axis: Any) -> None:
    """Plain numbers on a logarithmic axis."""
    for each in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        each(LogFormatter(minor_thresholds=(2.0, 0.5)))
    axis.tick_params(axis="y", which="minor", labelsize=7.5)


def pooled(image: np.ndarray, side: int) -> np.ndarray:
    """A square image of at most that side, each cell the mean of what it covers."""
    size = image.shape[0]
    if size <= side:
        return image
    edges, cells = np.linspace(0.0, size, side + 1), np.arange(size)
    covered = np.minimum(edges[1:, None], cells + 1.0) - np.maximum(edges[:-1, None], cells)
    weights = covered.clip(0.0) * (side / size)
    return np.asarray(weights @ image @ weights.T)


def _draw_map(
    axis: Any, found: AttentionMap, head: int, columns: int = 2, ticks: tuple[int, int] | None = None
) -> None:
    side = PANEL_PIXELS.get(columns, PANEL_PIXELS[3])
    image = pooled(found.image_HPP[head].cpu().numpy(), side)
    extent = (0, found.length, found.length, 0)
    axis.imshow(image, cmap=COLOURS, norm=PowerNorm(0.5, 0.0, 1.0), extent=extent, interpolation="nearest")
    axis.grid(False)
    axis.spines[["left", "bottom"]].set_visible(False)  # they would hide the first key's column
    axis.tick_params(labelsize=7.5)
    if ticks is not None:
        axis.set_xticks(ticks)
        axis.set_yticks(ticks)


def _label(figure: Figure, found: AttentionMap) -> None:
    figure.supxlabel(f"key; black: weight ≥ {found.threshold:g}", fontsize=9)
    figure.supylabel("query", fontsize=9)


def _legend(found: AttentionMap, attended: Sequence[AttendedToken], total: int) -> str:
    everywhere = sum(len(token.heads) == total for token in attended)
    return (
        f"black: weight ≥ {found.threshold:g}; red: always attended to in all {total} heads ({everywhere}), "
        f"blue: in some ({len(attended) - everywhere})"
    )


def _lines(tokens: Sequence[str], attended: Sequence[AttendedToken], total: int) -> list[list[tuple[str, str]]]:
    """The text as lines of (piece, colour), the middle left out."""
    colours = {token.index: RED if len(token.heads) == total else BLUE for token in attended}
    lines: list[list[tuple[str, str]]] = [[]]
    used = 0
    for index, token in enumerate(tokens):
        text = _shown(token)[:LINE_CHARACTERS]
        if used + len(text) > LINE_CHARACTERS and lines[-1]:
            lines.append([])
            used = 0
        colour = colours.get(index, BLACK)
        if lines[-1] and lines[-1][-1][1] == colour == BLACK:
            lines[-1][-1] = (lines[-1][-1][0] + text, BLACK)
        else:
            lines[-1].append((text, colour))
        used += len(text)
    if len(lines) > 2 * LINES_AT_EACH_END:
        middle = [("…", GUIDE)]
        lines = [*lines[:LINES_AT_EACH_END], middle, *lines[-LINES_AT_EACH_END:]]
    return lines


def _shown(token: str) -> str:
    """A token as it can stand in a line."""
    return token.replace("\n", "↵").replace("\t", "→").replace("\r", "")


def _write(figure: Figure, lines: Sequence[Sequence[tuple[str, str]]], top: float) -> None:
    """Lines in a fixed-width face from so many inches on: each piece stands at its column."""
    tall = figure.get_figheight()
    width = ADVANCE * TEXT_SIZE / 72.0 / WIDTH
    for number, line in enumerate(lines):
        column = 0
        for text, colour in line:
            figure.text(
                0.02 + column * width,
                (top - number * LINE_HEIGHT) / tall,
                text,
                color=colour,
                fontsize=TEXT_SIZE,
                family="DejaVu Sans Mono",
                parse_math=False,
                va="top",
                weight="normal" if colour in (BLACK, GUIDE) else "bold",
            )
            column += len(text)
