"""Plots of a report, as matplotlib figures."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from wavepos import Wavelet
from wavepos.experiments import style
from wavepos.experiments.style import GUIDE, style_of
from wavepos.experiments.tables import Panel, columns, kinds_of, panels, short_text, text_of, unit_of
from wavepos.positions import parse_layers
from wavepos.positions.layers import distinct_configs
from wavepos.positions.wavelet import WaveletConfig
from wavepos.runs import fingerprint, stored_config
from wavepos.training.config import TrainConfig

WIDTH = 4.4
"""Of a figure of the report, in inches: text of 9 points is as large on a phone of 390 pixels."""
MOST_LINES = 7
"""In one figure; more methods are parted into several, with the baseline in each."""

Figures = dict[str, tuple[Figure, str]]
"""Name to figure and caption; a name begins "PANEL-TEXT-" or "PANEL-all-"."""


def figures(result: dict[str, Any], reference: dict[str, Any] | None = None) -> Figures:
    """All figures of a result.

    Args:
        result: as `study_result` and `runs_result` give it.
        reference: another result, whose range over its seeds is drawn as a band behind equal runs.
    """
    found: Figures = {}
    parts = panels(result)
    for number, panel in enumerate(parts):
        band = _equal_panel(panel, reference)
        note = _band_note(band, reference)
        for index, text in enumerate(panel.texts):
            for group, names in enumerate(line_groups(panel.names, result["baseline"])):
                start, end = f"{number}-{index}-", f"-{group}" if group else ""
                for kind, caption in CAPTIONS.items():
                    if kind in kinds_of(panel, text):
                        drawn = perplexity_against_length(panel, text, kind, names, band)
                        found[f"{start}{kind}{end}"] = (drawn, caption + note)
                if any(e["loss_by_place"] for e in _evaluations(panel, text)):
                    found[f"{start}place{end}"] = (loss_by_position(panel, text, names), PLACE_CAPTION)
        found |= _of_all_texts(panel, number, result["baseline"])
    if len(budgets := _budgets(parts)) > 1:
        found["0-all-budgets"] = (perplexity_against_budget(budgets, result["baseline"]), BUDGET_CAPTION)
    return found


CAPTIONS = {
    "whole": "Perplexity against the length read whole. A method that extrapolates stays level or falls.",
    "sliding": "The same with sliding windows: every token has at least half a window of context, so that a shorter "
    "early part of the sequence does not flatter long ones.",
}
PLACE_CAPTION = "Loss by place in the longest sequences: what comes after the dotted line was never trained."
BUDGET_CAPTION = "Perplexity at the trained length (above) and at the longest (below) against the tokens trained on."


def perplexity_against_length(
    panel: Panel, text: str, kind: str, names: Sequence[str], band: Panel | None = None
) -> Figure:
    """Perplexity against the length read, one line per method: mean and range of its seeds.

    Args:
        panel: the runs.
        text, kind: what was read, and by which protocol.
        names: the methods to draw.
        band: equal runs of a reference, whose range over seeds is drawn as a band.
    """
    title = {"whole": "Sequences read whole", "sliding": "Sliding windows"}.get(kind, "Divided into L_train")
    figure, axes = _figure(f"{title}\n{short_text(text)}", "tokens read at once", f"perplexity {unit_of(text)}")
    found = columns(panel, text, kind)
    for name in names:
        lengths, values = _finite(found, name)
        if not lengths:
            continue
        axes.plot(lengths, [np.mean(v) for v in values], **_line(name, marked=True))
        if band is None and max(map(len, values)) > 1:
            low, high = [min(v) for v in values], [max(v) for v in values]
            axes.fill_between(lengths, low, high, color=style_of(name).colour, alpha=0.15, linewidth=0)
    if band is not None:
        for name in names:
            lengths, values = _finite(columns(band, text, kind), name)
            low, high = [min(v) for v in values], [max(v) for v in values]
            axes.fill_between(lengths, low, high, color=style_of(name).colour, alpha=0.25, linewidth=0)
    _trained_length(axes, panel.seq_len)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([column.length for column in found], [str(column.length) for column in found])
    axes.minorticks_off()
    _plain_ticks(axes)
    style.legend(figure, axes)
    return figure


def loss_by_position(panel: Panel, text: str, names: Sequence[str]) -> Figure:
    """Mean loss of the targets at each place of the longest sequences, in bins that widen with the place."""
    title = f"Loss by place in the sequence\n{short_text(text)}"
    figure, axes = _figure(title, "place in the sequence (tokens before it)", "nats per token")
    for name in names:
        of_seeds = [e["loss_by_place"] for e in _evaluations(panel, text, name) if e["loss_by_place"]]
        if of_seeds:
            places = [(start + stop) / 2 for start, stop, _ in of_seeds[0]]
            means = np.array([[mean for _, _, mean in bins] for bins in of_seeds]).mean(axis=0)
            axes.plot(places, means, **_line(name))
    _trained_length(axes, panel.seq_len)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    style.legend(figure, axes)
    return figure


def learning_curves(panel: Panel, names: Sequence[str]) -> Figure:
    """Training loss against tokens seen, the first seed of each method."""
    figure, axes = _figure("Learning curves", "million tokens seen", "training loss, nats per token")
    shown: list[float] = []
    drawn: set[str] = set()
    for name in names:
        outcome = next(outcome for outcome in panel.outcomes if outcome["name"] == name)
        if outcome["folder"] in drawn:  # the same run, read with another position
            continue
        drawn.add(outcome["folder"])
        steps, losses = zip(*outcome["losses"], strict=True)
        tokens = np.array(steps) * outcome["train_tokens"] / steps[-1] / 1e6
        axes.plot(tokens, losses, **_line(name, linewidth=1.2))
        shown += [loss for step, loss in outcome["losses"] if 10 * step > steps[-1]]
        if valid := outcome.get("valid_losses"):
            at = [step * outcome["train_tokens"] / steps[-1] / 1e6 for step, _ in valid]
            axes.plot(at, [loss for _, loss in valid], "x", color=style_of(name).colour, markersize=4)
    axes.set_ylim(top=max(shown) * 1.05)
    style.legend(figure, axes)
    return figure


def perplexity_against_budget(parts: Sequence[Panel], baseline: str) -> Figure:
    """Perplexity on the first text at L_train and at the longest length against the tokens of training."""
    figure, axes = style.panels(2, 1, height=2.6, width=WIDTH)
    text, last = parts[0].texts[0], parts[-1]
    for axis, index in zip(axes[:, 0], (0, -1), strict=True):
        for name in last.names:
            points = []
            for panel in parts:
                found = [c for c in columns(panel, text, "whole") if c.length >= panel.seq_len and name in c.shown]
                if found:
                    value = float(np.mean(list(found[index].shown[name].values())))
                    points.append((panel.outcomes[0]["train_tokens"] / 1e6, value))
            label = name if index == 0 else None
            axis.plot(*zip(*points, strict=True), **_line(name, marked=True, label=label))
        read = [column.length for column in columns(last, text, "whole") if column.length >= last.seq_len]
        style.title(axis, f"{read[index]:,} tokens read")
        axis.set_ylabel(f"perplexity {unit_of(text)}")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.minorticks_off()
        ticks = [panel.outcomes[0]["train_tokens"] / 1e6 for panel in parts]
        axis.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        _plain_ticks(axis)
    axes[1, 0].set_xlabel("million tokens trained on")
    style.legend(figure, axes[0, 0])
    return figure


def wavelets(position: Wavelet) -> Figure:
    """Every wavelet of a head over the displacements it reaches, one colour per scale."""
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
    style.legend(figure, axes, columns=4)
    return figure


def _of_all_texts(panel: Panel, number: int, baseline: str) -> Figures:
    found: Figures = {}
    for group, names in enumerate(line_groups(panel.names, baseline)):
        caption = "Training loss of each method's first seed, all on the same batches; crosses: validation loss."
        found[f"{number}-all-learning{f'-{group}' if group else ''}"] = (learning_curves(panel, names), caption)
    parsed = {o["name"]: _first_wavelet(o["config"]["position"]) for o in panel.outcomes}
    drawn = [name for name, config in parsed.items() if config is not None]
    if drawn:
        name = next((name for name in drawn if getattr(parsed[name], "scales", None) is not None), drawn[0])
        position = parsed[name].build(head_dim=64, num_heads=4)
        caption = f"The fixed table p(δ) of “{name}” for heads of 64: what a head may add up for a query."
        found[f"{number}-all-wavelets"] = (wavelets(position), caption)
    return found


def _first_wavelet(position: Any) -> Any:
    """The config of the first layers that have wavelets, as they start; None where none have."""
    found = next((own for own in distinct_configs(parse_layers(position)) if isinstance(own, WaveletConfig)), None)
    return None if found is None else dataclasses.replace(found, learn=(), learn_per_head=False)


def line_groups(names: Sequence[str], baseline: str) -> list[list[str]]:
    """Methods in groups of at most `MOST_LINES`, the baseline first in each, as equal in size as can be."""
    if len(names) <= MOST_LINES:
        return [list(names)]
    first = [name for name in names if name == baseline]
    others = [name for name in names if name != baseline]
    count = -(-len(others) // (MOST_LINES - len(first)))
    size = -(-len(others) // count)
    return [[*first, *others[start : start + size]] for start in range(0, len(others), size)]


def _equal_panel(panel: Panel, reference: dict[str, Any] | None) -> Panel | None:
    """The panel of a reference whose runs are alike in all but seed and position."""
    for other in panels(reference) if reference is not None else []:
        if _shared(other) == _shared(panel):
            return other
    return None


def _shared(panel: Panel) -> str:
    """A digest of a config without what may differ; a field that an older result lacks is at its default."""
    config: dict[str, Any] = panel.outcomes[0]["config"]
    aside = ("seed", "position", "save_every", "log_every", "validate_every", "precision")
    kept = {key: value for key, value in config.items() if key not in aside}
    return fingerprint(stored_config(TrainConfig, {"config": {**kept, "position": {"method": "nope"}}}))


def _band_note(band: Panel | None, reference: dict[str, Any] | None) -> str:
    if band is None or reference is None:
        return ""
    made = reference["environment"]
    return (
        f" Bands: the range of {band.most_seeds} seeds of the reference that comes with wavepos (Python "
        f"{made['python']}); a line inside its band is what one seed may give."
    )


def _budgets(parts: Sequence[Panel]) -> list[Panel]:
    """The panels that differ in their tokens alone, by rising tokens; those of the first panel's kind."""

    def kind(panel: Panel) -> tuple[Any, ...]:
        config = panel.outcomes[0]["config"]
        return (config["model"], config["size"], config["corpus"], config["seq_len"])

    alike = [panel for panel in parts if kind(panel) == kind(parts[0]) and panel.texts]
    return sorted(alike, key=lambda panel: int(panel.outcomes[0]["train_tokens"]))


def _evaluations(panel: Panel, text: str, name: str | None = None) -> list[dict[str, Any]]:
    return [
        evaluation
        for outcome in panel.outcomes
        if name in (None, outcome["name"])
        for evaluation in outcome["evaluations"]
        if text_of(evaluation) == text
    ]


def _finite(found: Sequence[Any], name: str) -> tuple[list[int], list[list[float]]]:
    """Lengths at which all seeds of a method have a finite perplexity, and these."""
    pairs = [(column.length, list(column.shown[name].values())) for column in found if name in column.shown]
    pairs = [(length, values) for length, values in pairs if np.isfinite(values).all()]
    return [length for length, _ in pairs], [values for _, values in pairs]


def _trained_length(axes: Any, seq_len: int) -> None:
    axes.axvline(seq_len, color=GUIDE, linestyle="dotted", linewidth=1.0)
    axes.annotate(
        "trained length",
        (seq_len, 1.0),  # at the top: what extrapolates runs along the bottom
        xycoords=("data", "axes fraction"),
        xytext=(3, -3),
        textcoords="offset points",
        verticalalignment="top",
        color=GUIDE,
    )


def _plain_ticks(axes: Any) -> None:
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))


def _figure(title: str, x: str, y: str) -> tuple[Figure, Any]:
    figure, grid = style.panels(height=3.9, width=WIDTH)
    axes = grid[0, 0]
    style.title(axes, title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _line(name: str, marked: bool = False, **more: Any) -> dict[str, Any]:
    """Keywords of a method's line, labelled by its name; without markers where points stand close."""
    keywords = style_of(name).line(linewidth=1.5, label=name)
    return {**keywords, **({} if marked else {"marker": None}), **more}
