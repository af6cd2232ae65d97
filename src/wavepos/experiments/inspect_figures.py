"""The figures of `wavepos inspect`: what heads prefer, where they look, and what reaches the prediction."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from wavepos.analysis.inspect import THRESHOLD, Inspection, LayerHeads
from wavepos.analysis.receptive_field import alibi_window
from wavepos.experiments.style import BLACK, GUIDE, legend, panels, title
from wavepos.positions.alibi import alibi_slopes

LOWEST = -12.0
"""Preferences below it are cut off in figures: a weight of e^(−12) is 6 millionths of the nearest key's."""


def inspection_figures(found: Inspection, slopes_of: Sequence[int] = ()) -> dict[str, tuple[Figure, str]]:
    """All figures with their captions.

    Args:
        found: of the model.
        slopes_of: layers whose windows are drawn against ALiBi's slopes: of ALiBi, or started at its recency.
    """
    heads = found.layers[0].mean_distance_H.shape[0]
    figures = {
        "preferences": (
            preferences(found),
            "What each head prefers: its score for a key δ tokens back less that for the query's own place, with q·k "
            "left out. Left: by itself, whatever the text; right: mean over the queries of the text. Dotted: ALiBi's "
            f"slopes for {heads} heads.",
        ),
        "distances": (distances(found), "Mean attention distance of each head, in tokens back (Σ weight · δ)."),
        "beyond": (
            beyond(found),
            "The share of each head's attention that lies at least so many tokens back, mean over the last "
            "queries. Dotted: a head that attends to all keys alike.",
        ),
        "gradient": (
            gradient(found),
            "How much the loss of a text's last token hangs on the token δ back, through all layers: the norm of "
            "the gradient to its embedding, mean in bins that double. Only bins above zero are drawn.",
        ),
    }
    if slopes_of:
        layers = [found.layers[index] for index in slopes_of]
        figures["windows"] = (
            windows_by_slope(layers, heads),
            f"Keys with a weight of at least {THRESHOLD:g} against ALiBi's slope of the head, by layer; line: an "
            "endless row of a head that looks at distance alone.",
        )
    return figures


def preferences(found: Inspection) -> Figure:
    """A row for each layer: own preference at the left, that with the queries of the text at the right."""
    figure, axes = panels(len(found.layers), 2, height=1.75, sharex=True, sharey=True)
    at = np.array(found.distances) + 1
    for layer, row in zip(found.layers, axes, strict=True):
        for axis, curves, what in zip(
            row, (layer.own_HN, layer.of_text_HN), ("by itself", "with the text's queries"), strict=True
        ):
            for head, slope in enumerate(alibi_slopes(len(curves))):
                colour = _colour(head, len(curves))
                axis.plot(at, _cut(-slope * (at - 1)), color=colour, linestyle="dotted", linewidth=0.8)
                axis.plot(at, _cut(curves[head].numpy()), color=colour, linewidth=1.4, label=f"head {head + 1}")
            title(axis, f"layer {layer.layer + 1}, {what}", size=8.5)
            _tokens_back(axis)
    for axis in axes[-1]:
        axis.set_xlabel("tokens back, δ")
    figure.supylabel("score for δ less score for 0", fontsize=9)
    legend(figure, axes[0, 0], columns=4)
    return figure


def distances(found: Inspection) -> Figure:
    """Layers by heads, with the numbers in the cells."""
    values = np.stack([layer.mean_distance_H.numpy() for layer in found.layers])
    layers, heads = values.shape
    figure, axes = panels(1, 1, height=0.8 + 0.34 * layers)
    axis = axes[0, 0]
    norm = mpl.colors.LogNorm(max(0.5, values.min()), max(1.0, values.max(), values.min() + 0.1))
    axis.imshow(np.maximum(values, 0.5), cmap="viridis", norm=norm, aspect="auto")
    axis.grid(False)
    for row, column in np.ndindex(layers, heads):
        dark = float(norm(max(float(values[row, column]), 0.5))) < 0.6
        size = 8.0 if heads <= 12 else 5.5
        text = f"{values[row, column]:.3g}"
        axis.text(column, row, text, ha="center", va="center", fontsize=size, color="white" if dark else BLACK)
    axis.set_xticks(range(heads), [str(head + 1) for head in range(heads)])
    axis.set_yticks(range(layers), [str(layer.layer + 1) for layer in found.layers])
    axis.set_xlabel("head")
    axis.set_ylabel("layer")
    return figure


def beyond(found: Inspection) -> Figure:
    """The share of the attention at least so far back, a panel for each layer."""
    rows = -(-len(found.layers) // 2)
    figure, axes = panels(rows, 2, height=1.9, sharex=True, sharey=True)
    edges = np.array(found.edges[:-1])
    alike = 1.0 - edges / found.length
    for index, axis in enumerate(axes.flat):
        if index >= len(found.layers):
            axis.set_visible(False)
            continue
        mass = found.layers[index].mass_HE.numpy()
        share = mass[:, ::-1].cumsum(1)[:, ::-1]
        axis.plot(edges + 1, alike, color=GUIDE, linestyle="dotted")
        for head in range(len(mass)):
            axis.plot(edges + 1, share[head], color=_colour(head, len(mass)), linewidth=1.4, label=f"head {head + 1}")
        title(axis, f"layer {found.layers[index].layer + 1}", size=8.5)
        _tokens_back(axis)
        axis.set_ylim(0.0, 1.02)
    for axis in axes[-1]:
        axis.set_xlabel("tokens back, at least")
    figure.supylabel("share of the attention", fontsize=9)
    legend(figure, axes[0, 0], columns=4)
    return figure


def gradient(found: Inspection) -> Figure:
    """The gradient's norm against distance."""
    figure, axes = panels(1, 1, height=2.6)
    axis = axes[0, 0]
    norms = np.array(found.binned_gradient())
    edges = np.array(found.edges)
    middle = np.sqrt((edges[:-1] + 1) * edges[1:])
    axis.plot(middle[norms > 0], norms[norms > 0], color=BLACK, marker="o", markersize=4)
    _tokens_back(axis)
    axis.set_yscale("log")
    axis.set_xlabel("tokens back, δ")
    axis.set_ylabel("gradient norm per token")
    return figure


def windows_by_slope(layers: Sequence[LayerHeads], num_heads: int) -> Figure:
    """Windows of heads against the slope that ALiBi gives them, one set of points for each layer."""
    figure, axes = panels(1, 1, height=3.0)
    axis = axes[0, 0]
    curve = np.geomspace(2.0**-9, 2.0**-0.5, 300)
    alone = [alibi_window(float(slope), THRESHOLD) or np.nan for slope in curve]
    axis.plot(curve, alone, color=GUIDE, linestyle="dotted", linewidth=1.5, label="distance alone")
    for index, layer in enumerate(layers):
        axis.plot(
            alibi_slopes(num_heads),
            layer.windows.keys_H,
            color=_colour(index, len(layers)),
            marker="o",
            linestyle="none",
            markersize=4.5,
            label=f"layer {layer.layer + 1}",
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("slope")
    axis.set_ylabel(f"keys with weight ≥ {THRESHOLD:g}")
    legend(figure, axis, columns=4)
    return figure


def _cut(values: Any) -> Any:
    """Values with what lies below the figure left out."""
    return np.where(values >= LOWEST, values, np.nan)


def _colour(index: int, count: int) -> Any:
    return mpl.colormaps["viridis"](0.9 * index / max(1, count - 1))


def _tokens_back(axis: Any) -> None:
    """A logarithmic axis of δ + 1 that says δ, so that 0 stands on it."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value - 1:g}"))


def finite(values: Tensor) -> list[list[float | None]]:
    """Rows of numbers for JSON; −inf is null."""
    return [[value if np.isfinite(value) else None for value in row] for row in values.tolist()]
