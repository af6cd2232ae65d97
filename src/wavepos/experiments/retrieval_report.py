"""The report of probes: accuracy by distance, as tables, a figure of small multiples, CSV, Markdown and a page."""

import html
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from wavepos.data.probe_tasks import open_probe
from wavepos.data.probes import Probe
from wavepos.experiments import style
from wavepos.experiments.page import document, figure_html, made_by, markdown_html
from wavepos.experiments.plots import Figures, line_groups
from wavepos.experiments.style import GUIDE, style_of

IN_RANGE = 0.5
"""Distances up to it, in units of L_train, lie in sequences that are not longer than those trained on."""
LEARNT = 0.9
"""Accuracy in range from which a seed counts as having learnt its task."""
DOTS_APART = 0.08
"""Between the seeds of two methods, in powers of two."""
CAPTION = (
    "Accuracy against the distance from question to answer. Lines: mean over seeds; dots: every seed, each the mean "
    "over depths, those of methods side by side. Dotted: chance; dashed: a guess among the answers in the context. "
    "Left of the vertical line: sequences no longer than those trained on."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPanel:
    """The runs of one probe.

    Attributes:
        probe: the task.
        seq_len: L_train.
        outcomes: as in a result.
    """

    probe: Probe
    seq_len: int
    outcomes: tuple[dict[str, Any], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The methods, in their order."""
        return tuple(dict.fromkeys(outcome["name"] for outcome in self.outcomes))

    @property
    def units(self) -> tuple[float, ...]:
        """The distances in units of L_train."""
        return tuple(sorted({one["units"] for outcome in self.outcomes for one in _recalled(outcome)}))

    def accuracies(self, name: str, units: float, depth: float | None = None) -> dict[int, float]:
        """Seed to accuracy of a method at a distance, the mean over depths, or that at one depth."""
        found: dict[int, list[float]] = {}
        for outcome in self.outcomes:
            for one in _recalled(outcome):
                if outcome["name"] == name and one["units"] == units and depth in (None, one["depth"]):
                    found.setdefault(outcome["seed"], []).append(one["accuracy"])
        return {seed: statistics.fmean(values) for seed, values in found.items()}

    def mean(self, name: str, *, in_range: bool) -> dict[int, float]:
        """Seed to mean accuracy over the distances in range, or over those from twice L_train on."""
        wanted = [units for units in self.units if (units <= IN_RANGE if in_range else units >= 2.0)]
        by_units = [self.accuracies(name, units) for units in wanted]
        seeds = set[int]().union(*by_units)
        return {seed: statistics.fmean(found[seed] for found in by_units if seed in found) for seed in sorted(seeds)}


def is_retrieval(result: dict[str, Any]) -> bool:
    """Whether a result is one of probes."""
    return any("recalled" in evaluation for outcome in result["outcomes"] for evaluation in outcome["evaluations"])


def task_panels(result: dict[str, Any]) -> list[TaskPanel]:
    """The probes of a result, in their order."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for outcome in result["outcomes"]:
        config = outcome["config"]
        found.setdefault((config["corpus"], config["seq_len"]), []).append(outcome)
    return [
        TaskPanel(probe=open_probe(corpus), seq_len=seq_len, outcomes=tuple(outcomes))
        for (corpus, seq_len), outcomes in found.items()
    ]


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Every measurement as a row."""
    return [
        {
            "task": panel.probe.name,
            "method": outcome["name"],
            "seed": outcome["seed"],
            "seq_len": panel.seq_len,
            **one,
            "chance": panel.probe.chance,
            "read_with": evaluation["evaluation"]["read_with"] is not None,
        }
        for panel in task_panels(result)
        for outcome in panel.outcomes
        for evaluation in outcome["evaluations"]
        for one in evaluation["recalled"]
    ]


def figures(result: dict[str, Any]) -> Figures:
    """Small multiples, a task per panel; many methods are parted into several figures, the baseline in each."""
    found = task_panels(result)
    names = list(dict.fromkeys(name for panel in found for name in panel.names))
    return {
        f"retrieval{f'-{number}' if number else ''}": (accuracy_against_distance(found, group), CAPTION)
        for number, group in enumerate(line_groups(names, result["baseline"]))
    }


def accuracy_against_distance(found: Sequence[TaskPanel], names: Sequence[str]) -> Figure:
    """Accuracy against distance in units of L_train, a task per panel, a line per method, a dot per seed."""
    figure, axes = style.panels(len(found), 1, height=1.9, sharex=True)
    for axis, panel in zip(axes[:, 0], found, strict=True):
        for number, name in enumerate(names):
            shown = {units: values for units in panel.units if (values := panel.accuracies(name, units))}
            means = [statistics.fmean(values.values()) for values in shown.values()]
            axis.plot(list(shown), means, **style_of(name).line(linewidth=1.3, label=name))
            beside = 2.0 ** (DOTS_APART * (number - (len(names) - 1) / 2.0))
            dots = [(units * beside, value) for units, values in shown.items() for value in values.values()]
            if len(dots) > len(shown):
                axis.plot(*zip(*dots, strict=True), ".", color=style_of(name).colour, markersize=3.5, alpha=0.7)
        axis.axhline(panel.probe.chance, color=GUIDE, linestyle="dotted", linewidth=1.0)
        axis.annotate(
            "chance",
            (0.0, panel.probe.chance),
            xycoords=("axes fraction", "data"),
            xytext=(2, 2),
            textcoords="offset points",
            color=GUIDE,
            fontsize=7.0,
        )
        if panel.probe.listed is not None:
            axis.axhline(panel.probe.guess, color=GUIDE, linestyle="dashed", linewidth=0.8)
        axis.axvline(1.0, color=GUIDE, linestyle="dotted", linewidth=1.0)
        axis.set_xscale("log", base=2)
        axis.set_ylim(-0.03, 1.05)
        axis.set_ylabel("accuracy")
        style.title(axis, f"{panel.probe.title}: {panel.probe.asks}")
    ticks = sorted({units for panel in found for units in panel.units})
    axes[-1, 0].set_xticks(ticks, [_fraction(units) for units in ticks])
    axes[-1, 0].minorticks_off()
    axes[-1, 0].set_xlabel("distance in units of L_train")
    style.legend(figure, axes[0, 0])
    return figure


def markdown_lines(result: dict[str, Any]) -> Iterator[str]:
    """The report in Markdown, without title and figures."""
    found = task_panels(result)
    yield from ("Mean accuracy beyond the trained length (2 × L_train and more), ± standard deviation over seeds:", "")
    yield from _summary(found)
    for panel in found:
        yield from ("", f"## {panel.probe.title}", "", f"{panel.probe.asks.capitalize()} {_levels(panel.probe)}", "")
        yield from _table(panel)
    yield from ("", "## By depth", "", "Means over seeds: answer at the start of the context / deeper in it.")
    for panel in found:
        yield from ("", f"### {panel.probe.title}", "")
        yield from _by_depth(panel)
    yield ""
    yield from (f"- Failed: {failure['run']}: {failure['error']}" for failure in result["failures"])
    if result["unfinished"]:
        yield f"- Not finished: {len(result['unfinished'])} runs: {', '.join(result['unfinished'])}"
    yield from (f"- {note}" for note in result["notes"])


def page(result: dict[str, Any], drawn: dict[str, tuple[str, str]]) -> str:
    """The page: figures first, then the tables.

    Args:
        result: of probes.
        drawn: name of a figure to SVG element and caption.
    """
    runs = {outcome["folder"]: outcome for outcome in result["outcomes"]}
    seconds = sum(outcome["train_seconds"] for outcome in runs.values())
    seeds = ", ".join(map(str, sorted({outcome["seed"] for outcome in runs.values()})))
    introduction = (
        f"{len(runs)} small models, alike but for their positional method, were each trained on one task with known "
        f"answers and asked at exact distances. Seeds {seeds}."
    )
    parts = [f"<p>{html.escape(introduction)}</p>", *(figure_html(svg, text) for svg, text in drawn.values())]
    parts.append(markdown_html(list(markdown_lines(result))))
    facts = {**made_by(result["environment"]), "training time": f"{seconds:,.0f} s for {len(runs)} models"}
    return document(result["title"], parts, facts)


def console_tables(result: dict[str, Any]) -> Iterator[Table]:
    """The tables for a terminal, one per task."""
    for panel in task_panels(result):
        table = Table(title=f"{panel.probe.title}: accuracy", title_justify="left", box=SIMPLE, pad_edge=False)
        table.add_column("distance / L_train")
        for units in panel.units:
            table.add_column(_fraction(units), justify="right")
        for name in panel.names:
            table.add_row(name, *(_cell(panel.accuracies(name, units)) for units in panel.units))
        yield table


def _recalled(outcome: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for evaluation in outcome["evaluations"]:
        yield from evaluation["recalled"]


def _summary(found: Sequence[TaskPanel]) -> Iterator[str]:
    yield "| | " + " | ".join(panel.probe.title for panel in found) + " |"
    yield "|---|" + "---:|" * len(found)
    for name in dict.fromkeys(name for panel in found for name in panel.names):
        yield f"| {name} | " + " | ".join(_cell(panel.mean(name, in_range=False)) for panel in found) + " |"
    yield "| *chance* | " + " | ".join(f"{panel.probe.chance:.2f}" for panel in found) + " |"


def _table(panel: TaskPanel) -> Iterator[str]:
    yield "| distance / L_train | learnt | " + " | ".join(map(_fraction, panel.units)) + " |"
    yield "|---|---:|" + "---:|" * len(panel.units)
    for name in panel.names:
        in_range = panel.mean(name, in_range=True).values()
        learnt = f"{sum(value >= LEARNT for value in in_range)} of {len(in_range)}"
        cells = [_cell(panel.accuracies(name, units)) for units in panel.units]
        yield f"| {name} | {learnt} | " + " | ".join(cells) + " |"


def _by_depth(panel: TaskPanel) -> Iterator[str]:
    depths = sorted({one["depth"] for outcome in panel.outcomes for one in _recalled(outcome)})
    yield f"| depth {' / '.join(f'{depth:g}' for depth in depths)} | " + " | ".join(map(_fraction, panel.units)) + " |"
    yield "|---|" + "---:|" * len(panel.units)
    for name in panel.names:
        cells = []
        for units in panel.units:
            means = [list(panel.accuracies(name, units, depth).values()) for depth in depths]
            cells.append(" / ".join(f"{statistics.fmean(values):.2f}" if values else "–" for values in means))
        yield f"| {name} | " + " | ".join(cells) + " |"


def _cell(by_seed: dict[int, float]) -> str:
    values = list(by_seed.values())
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def _levels(probe: Probe) -> str:
    guess = "" if probe.listed is None else f", a guess among the answers in the context {probe.guess:.3g}"
    return f"Chance {probe.chance:.3g}{guess}; “learnt”: seeds of at least {LEARNT:g} up to {IN_RANGE:g} × L_train."


def _fraction(units: float) -> str:
    return str(Fraction(units).limit_denominator(64))
