"""LongBench's scores as a table beside Table 5, and Fig. 11: the differences of two models, task by task."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from wavepos.evaluate.longbench.run import RESULT, read_records
from wavepos.experiments.exhibits import Shown
from wavepos.experiments.intervals import Interval, mean_interval
from wavepos.experiments.published import FIGURE11, TABLE5
from wavepos.experiments.style import BLUE, GUIDE, RED, panels, title
from wavepos.experiments.tables import difference_text

CAPTION = (
    "Loss: nats per token of the first right answer, with its context and without. Cut: prompts without their middle."
)


def results_table(result: dict[str, Any]) -> Table:
    """The tasks of a result for the console; words an item beside the paper's Table 5."""
    table = Table("task", "metric", "score", "loss", "no context", "items", "cut", "words", "paper's", box=SIMPLE)
    for one in result["tasks"].values():
        table.add_row(
            one["title"],
            one["metric"],
            f"{one['score']:.2f}",
            _number(one["loss_with_context"]),
            _number(one["loss_without_context"]),
            f"{one['items']}/{one['of']}",
            str(one["truncated"]),
            "–" if one["mean_words"] is None else f"{one['mean_words']:,.0f}",
            f"{TABLE5[one['title']].average_length:,}",
        )
    table.caption, table.caption_justify = CAPTION, "left"
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDifference:
    """A less B on one task; intervals are over items, which both models answered.

    Attributes:
        title: of the task.
        scores: of A and B.
        score: the difference, in points of 100.
        loss: the difference of the gold answers' loss with context, nats per token; None where there is none.
        gain: the difference of what the context is worth (loss without less loss with it), likewise.
        items: compared.
    """

    title: str
    scores: tuple[float, float]
    score: Interval
    loss: Interval | None
    gain: Interval | None
    items: int


def compared(first: Path, second: Path, max_length: int | None = None) -> Shown:
    """Fig. 11 for any two models that have answered the same items.

    Args:
        first, second: A and B: the models' directories, or the folders of their results.
        max_length: of the results; needed where a model has several.

    Raises:
        FileNotFoundError: a model without a result.
        ValueError: results of different lengths, other items, or no task in common.
    """
    folders = [result_folder(path, max_length) for path in (first, second)]
    results = [_result(folder) for folder in folders]
    lengths = [result["settings"]["max_length"] for result in results]
    if lengths[0] != lengths[1]:
        raise ValueError(f"compare takes results of one max_length, got {lengths[0]} and {lengths[1]}")
    tasks = [task for task in results[0]["tasks"] if task in results[1]["tasks"]]
    if not tasks:
        raise ValueError(f"compare takes results with a task in common, got none in {folders[0]} and {folders[1]}")
    found = [_difference(task, results[0]["tasks"][task]["title"], folders) for task in tasks]
    names = [_name(path) for path in (first, second)]
    lines = [
        f"LongBench at {lengths[0]:,} tokens: A is {names[0]}, B is {names[1]}. Differences are A less B, with 95% "
        "intervals over items (bold: zero lies outside). The paper gives no numbers, only who was better: wavelet or "
        "RoPE.",
        "",
        "| task | A | B | A − B | gold answer's loss, A − B | what the context is worth, A − B | paper |",
        "|---|---:|---:|---:|---:|---:|---|",
        *(_line(one) for one in found),
        "",
        "Loss: nats per token of the first right answer, each item alike; worth of the context: its loss without the "
        "context less that with it.",
    ]
    figure = differences_figure(found, names)
    caption = "Fig. 11: the difference of each task, with 95% intervals over items. Blue: the first model is better."
    data = {"a": str(first), "b": str(second), "max_length": lengths[0], "tasks": [_as_json(one) for one in found]}
    return Shown(title="LongBench", lines=lines, figures={"figure11": (figure, caption)}, data=data)


def differences_figure(found: Sequence[TaskDifference], names: Sequence[str]) -> Figure:
    """Fig. 11, and below it the same of the loss of the right answers, which small models tell apart sooner."""
    figure, axes = panels(2, 1, height=0.8 + 0.26 * len(found))
    _bars(axes[0, 0], [one.score for one in found], [one.title for one in found], (BLUE, RED))
    axes[0, 0].set_xlabel("difference in score (points of 100)")
    title(axes[0, 0], f"{names[0]} less {names[1]}")
    _bars(axes[1, 0], [one.loss for one in found], [one.title for one in found], (RED, BLUE))
    axes[1, 0].set_xlabel("difference in the right answer's loss (nats per token)")
    return figure


def _bars(axis: Any, found: Sequence[Interval | None], titles: Sequence[str], colours: tuple[str, str]) -> None:
    """A bar for each task, the first on top, in the first colour from zero on and in the second below."""
    places = list(range(len(found)))[::-1]
    values = [0.0 if one is None else one.mean for one in found]
    widths = [0.0 if one is None else one.half_width or 0.0 for one in found]
    axis.set_axisbelow(True)
    axis.barh(places, values, color=[colours[value < 0.0] for value in values], height=0.62)
    axis.errorbar(values, places, xerr=widths, fmt="none", ecolor=GUIDE, capsize=2.0, linewidth=1.0)
    axis.axvline(0.0, color=GUIDE, linewidth=1.0)
    axis.set_yticks(places, titles)


def result_folder(path: Path, max_length: int | None = None) -> Path:
    """The folder of a result: the path itself, or the one in a model's directory.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several and max_length does not say which, or it is not finished.
    """
    found = [path] if (path / RESULT).exists() else sorted(one.parent for one in path.glob(f"longbench-*/{RESULT}"))
    if max_length is not None:
        found = [one for one in found if _result(one)["settings"]["max_length"] == max_length]
    if not found:
        raise FileNotFoundError(f"compare takes models with a result of `wavepos longbench`: none in {path}")
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise ValueError(f"{path} holds several results ({names}): --max-length says which")
    if not _result(found[0])["finished"]:
        raise ValueError(f"the result in {found[0]} is not finished: give its `wavepos longbench` command again")
    return found[0]


def _result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return result


def _difference(task: str, shown: str, folders: Sequence[Path]) -> TaskDifference:
    ours, theirs = (read_records(folder, task) for folder in folders)
    if [record["item"] for record in ours] != [record["item"] for record in theirs]:
        raise ValueError(f"compare takes results on the same items, got others of {task} in {folders[0]}, {folders[1]}")
    pairs = list(zip(ours, theirs, strict=True))
    gold = [(a["gold"], b["gold"]) for a, b in pairs if a["gold"] is not None and b["gold"] is not None]

    def loss(one: dict[str, Any], name: str) -> float:
        return float(one[name] / one["tokens"])

    losses = [loss(a, "with_context") - loss(b, "with_context") for a, b in gold]
    alone = [loss(a, "without_context") - loss(b, "without_context") for a, b in gold]
    gains = [without - given for without, given in zip(alone, losses, strict=True)]
    scores = [100.0 * sum(record["score"] for record in records) / len(records) for records in (ours, theirs)]
    return TaskDifference(
        title=shown,
        scores=(scores[0], scores[1]),
        score=mean_interval([100.0 * (a["score"] - b["score"]) for a, b in pairs]),
        loss=mean_interval(losses) if losses else None,
        gain=mean_interval(gains) if gains else None,
        items=len(pairs),
    )


def _line(one: TaskDifference) -> str:
    cells = [_told(one.score), _told(one.loss), _told(one.gain)]
    numbers = " | ".join(f"{score:.2f}" for score in one.scores)
    return f"| {one.title} ({one.items}) | {numbers} | {' | '.join(cells)} | {FIGURE11[one.title]} |"


def _told(difference: Interval | None) -> str:
    text = difference_text(difference)
    return f"**{text}**" if difference is not None and difference.leaves_out_zero else text


def _as_json(one: TaskDifference) -> dict[str, Any]:
    def interval(found: Interval | None) -> dict[str, Any] | None:
        return None if found is None else asdict(found)

    return {
        "task": one.title,
        "a": one.scores[0],
        "b": one.scores[1],
        "items": one.items,
        "score": interval(one.score),
        "loss": interval(one.loss),
        "gain": interval(one.gain),
    }


def _name(path: Path) -> str:
    return path.name if not path.name.startswith("longbench-") else path.resolve().parent.name
