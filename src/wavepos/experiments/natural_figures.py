"""The figures of study natural: a line for each method's mean, a dot for each seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from wavepos.evaluate.natural_text import NaturalPlan
from wavepos.experiments import style
from wavepos.experiments.style import GUIDE, style_of, title

WIDTH = 4.4


def by_distance_figure(plan: NaturalPlan, methods: Mapping[str, Any]) -> Figure:
    """Loss, and what the context beyond L_train is worth, against the distance to the last occurrence.

    Args:
        plan: how texts were read.
        methods: name to numbers, as study natural keeps them.
    """
    figure, axes = style.panels(2, 1, height=2.7, width=WIDTH, sharex=True)
    first = next(iter(methods.values()))["by_distance"][0]
    shown = [i for i, one in enumerate(first) if one["tokens"] and one["low"]]
    at = [float(np.sqrt(first[i]["low"] * max(first[i]["low"], first[i]["high"] - 1))) for i in shown]
    labels = (("whole", "loss, nats per token"), ("gain", "loss in L_train − whole"))
    for axis, (field, label) in zip(axes[:, 0], labels, strict=True):
        for name, one in methods.items():
            _seeds(axis, name, at, [[bins[i][field] for i in shown] for bins in one["by_distance"]])
        axis.set_ylabel(label)
        _lengths(axis, plan.train_len)
    axes[1, 0].axhline(0.0, color=GUIDE, linewidth=1.0)
    axes[1, 0].set_xlabel("tokens back to the last occurrence")
    title(axes[0, 0], "Tokens that stood before")
    style.legend(figure, axes[0, 0])
    return figure


def by_context_figure(plan: NaturalPlan, methods: Mapping[str, Any]) -> Figure:
    """The loss of the last tokens against the context given; arguments as of `by_distance_figure`."""
    figure, axes = style.panels(1, 1, height=3.9, width=WIDTH)
    axis = axes[0, 0]
    for name, one in methods.items():
        _seeds(axis, name, plan.contexts, one["by_context"])
    axis.set_ylabel("nats per token")
    axis.set_xlabel("tokens of context")
    _lengths(axis, plan.train_len)
    title(axis, f"The last {plan.tail} tokens")
    style.legend(figure, axis)
    return figure


def by_window_figure(plan: NaturalPlan, methods: Mapping[str, Any], fields: Mapping[str, str]) -> Figure:
    """Perplexities against the window, a panel for each field that has any.

    Args:
        plan, methods: as of `by_distance_figure`.
        fields: of the numbers, with the tokens that each is of.
    """
    shown = {field: text for field, text in fields.items() if any(any(one[field]) for one in methods.values())}
    figure, axes = style.panels(len(shown), 1, height=2.5, width=WIDTH, sharex=True)
    for axis, (field, text) in zip(axes[:, 0], shown.items(), strict=True):
        for name, one in methods.items():
            losses = [of_seed for of_seed in one[field] if of_seed is not None]
            _seeds(axis, name, plan.windows, np.exp(np.array(losses, dtype=np.float64)).tolist())
        axis.set_yscale("log")
        axis.minorticks_off()
        axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_ylabel("perplexity")
        title(axis, text)
        _lengths(axis, plan.train_len)
    axes[-1, 0].set_xlabel("tokens of a window")
    style.legend(figure, axes[0, 0])
    return figure


def _seeds(axis: Any, name: str, x: Sequence[float], values: Sequence[Sequence[float]]) -> None:
    """The mean as a line, and each seed's values as dots where there are several; nothing without values."""
    if not values:
        return
    one = style_of(name)
    axis.plot(x, np.mean(values, axis=0), **one.line(label=name, linewidth=1.4))
    for of_seed in values if len(values) > 1 else ():
        axis.plot(x, of_seed, ".", color=one.colour, markersize=3.0, alpha=0.6)


def _lengths(axis: Any, train_len: int) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.axvline(train_len, color=GUIDE, linestyle="dotted", linewidth=1.0)
    axis.annotate(
        "trained length",
        (train_len, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, -3),
        textcoords="offset points",
        verticalalignment="top",
        color=GUIDE,
        fontsize=8.0,
    )
