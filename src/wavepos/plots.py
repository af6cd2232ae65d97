"""Plots of a comparison, as matplotlib figures and as SVG text."""

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from wavepos import Wavelet

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "font.size": 11.0,
    "svg.hashsalt": "wavepos",
    "svg.fonttype": "path",
}
COLOURS = ("#7f7f7f", "#d55e00", "#009e73", "#0072b2", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
DASHES = ("solid", "solid", "solid", "solid", "solid", "dashed", "dashed", "dashed")


def svg(figure: Figure) -> str:
    """The figure as an SVG element, the same text for the same figure."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def perplexity_against_length(outcomes: Sequence[dict[str, Any]], train_len: int, kind: str, title: str) -> Figure:
    """Perplexity per token against the length read, one line a method, mean over seeds, with the range of the seeds."""
    figure, axes = _figure(title, "tokens read at once", "perplexity per token")
    for index, (name, group) in enumerate(_by_name(outcomes).items()):
        rows = [[p for p in outcome["perplexities"] if p["kind"] == kind] for outcome in group]
        seq_lens = [p["seq_len"] for p in rows[0]]
        values = np.array([[p["per_token"] or np.nan for p in row] for row in rows])
        axes.plot(seq_lens, values.mean(axis=0), marker="o", **_line(index, name))
        if len(group) > 1:
            axes.fill_between(seq_lens, values.min(axis=0), values.max(axis=0), color=_colour(index), alpha=0.15)
    axes.axvline(train_len, color="#999999", linestyle="dotted", linewidth=1.0)
    axes.annotate(
        "trained length",
        (train_len, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(3, 0),
        textcoords="offset points",
        fontsize=9,
        color="#666666",
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    seq_lens = sorted({p["seq_len"] for outcome in outcomes for p in outcome["perplexities"]})
    axes.set_xticks(seq_lens, [str(length) for length in seq_lens])
    _plain_log_ticks(axes)
    axes.legend(fontsize=9, frameon=False)
    return figure


def loss_by_position(outcomes: Sequence[dict[str, Any]], train_len: int) -> Figure:
    """Mean loss of the targets at each place of the longest sequences, in bins that widen with the place."""
    figure, axes = _figure("Loss by place in the sequence", "place in the sequence (tokens before it)", "nats a token")
    for index, (name, group) in enumerate(_by_name(outcomes).items()):
        losses = np.array([outcome["loss_by_position"] for outcome in group]).mean(axis=0)
        edges = np.unique(np.round(np.geomspace(1, len(losses), 24)).astype(int))
        pairs = list(pairwise(edges))
        means = [losses[low:high].mean() for low, high in pairs]
        axes.plot([(low * high) ** 0.5 for low, high in pairs], means, **_line(index, name))
    axes.axvline(train_len, color="#999999", linestyle="dotted", linewidth=1.0)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.legend(fontsize=9, frameon=False)
    return figure


def learning_curves(outcomes: Sequence[dict[str, Any]]) -> Figure:
    """Training loss against tokens seen."""
    figure, axes = _figure("Learning curves", "million tokens seen", "training loss, nats a token")
    for index, (name, group) in enumerate(_by_name(outcomes).items()):
        for number, outcome in enumerate(group):
            steps, losses = zip(*outcome["losses"], strict=True)
            tokens = np.array(steps) * outcome["train_tokens"] / steps[-1] / 1e6
            line = _line(index, name if number == 0 else None)
            axes.plot(tokens, losses, **{**line, "linewidth": 1.2})
    shown = [loss for outcome in outcomes for step, loss in outcome["losses"] if 10 * step > outcome["losses"][-1][0]]
    axes.set_ylim(top=max(shown) * 1.05)
    axes.legend(fontsize=9, frameon=False)
    return figure


def wavelets(position: Wavelet) -> Figure:
    """Every wavelet of a head over the displacements it reaches, one colour a scale."""
    title = f"The {len(position.scales) * len(position.shifts)} {position.mother.name} wavelets of a head"
    figure, axes = _figure(title, "displacement: tokens back", "value")
    length = position.reach(1e-3)
    table = position.table(length).numpy()
    colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.9, len(position.scales)))
    for index, scale in enumerate(position.scales):
        for number in range(len(position.shifts)):
            column = index * len(position.shifts) + number
            label = f"a = {scale:g}" if number == 0 else None
            axes.plot(np.arange(length) + 1, table[:, column], color=colours[index], linewidth=0.7, label=label)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value - 1:g}"))
    axes.legend(fontsize=9, ncols=2, loc="center right")
    return figure


def _figure(title: str, x: str, y: str) -> tuple[Figure, Any]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.8, 4.2), layout="constrained")
        axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _plain_log_ticks(axes: Any) -> None:
    formatter = mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(formatter)
    axes.yaxis.set_minor_formatter(formatter)
    axes.tick_params(axis="y", which="minor", labelsize=8)


def _by_name(outcomes: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome["name"], []).append(outcome)
    return groups


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _line(index: int, label: str | None) -> dict[str, Any]:
    return {"color": _colour(index), "linestyle": DASHES[index % len(DASHES)], "linewidth": 1.8, "label": label}
