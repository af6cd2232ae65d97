"""Studies that train nothing: numbers, figures and tables of formulas, of texts, or of runs that another study trained.

An exhibit is a function (options, folder of the run directories, update) → `Shown`; `catalogue.py` lists them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from wavepos.console import Update
from wavepos.experiments.folders import RunFolders, is_finished
from wavepos.experiments.page import document, figure_html, made_by, markdown_html
from wavepos.experiments.study import StudyOptions
from wavepos.experiments.style import save, svg
from wavepos.experiments.table1 import table1
from wavepos.runs import environment
from wavepos.storage import write_json, write_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What an exhibit shows.

    Attributes:
        title: of the page.
        lines: Markdown.
        figures: name to figure and caption.
        data: the numbers, as JSON.
    """

    title: str
    lines: Sequence[str]
    figures: dict[str, tuple[Figure, str]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


MOST_SEEDS = 20
"""Seeds of each method that are looked for."""
ExhibitFunction = Callable[[StudyOptions, Path, Update], Shown]


def write_exhibit(name: str, shown: Shown, out: Path) -> list[Path]:
    """Write report.html, report.md, report.json and plots/ into a directory; returns their paths.

    Args:
        name: of the exhibit.
        shown: what it shows.
        out: the directory; made if absent.
    """
    made = environment()
    written = [path for figure in shown.figures for path in save(shown.figures[figure][0], out / "plots", figure)]
    parts = [markdown_html(shown.lines)]
    parts += [figure_html(svg(figure), caption) for figure, caption in shown.figures.values()]
    result = {"name": name, "title": shown.title, "data": shown.data, "environment": made}
    write_json(out / "report.json", result)
    write_text(out / "report.md", "\n".join([f"# {shown.title}", "", *shown.lines]) + "\n")
    write_text(out / "report.html", document(shown.title, parts, made_by(made)))
    return [out / "report.html", out / "report.md", out / "report.json", *written]


def trained_runs(options: StudyOptions, root: Path, methods: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Finished runs of table1 by method, one seed each, and the methods that have none.

    Args:
        options: size, corpus and methods, as table1 takes them.
        root: folder of the run directories.
        methods: looked for where the options name none.
    """
    folders = RunFolders(root)
    runs = [run for run in table1(options).runs if options.methods is not None or run.name in methods]
    found: dict[str, Path] = {}
    for run in runs:
        if is_finished(folder := folders.folder(run.config)):
            found.setdefault(run.name, folder)
    return found, [name for name in dict.fromkeys(run.name for run in runs) if name not in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRun:
    """A finished run of table1.

    Attributes:
        name: of its method in the table.
        seed: of its training.
        folder: its directory.
        train_len: L_train.
        read_with: JSON of the position it is read with; None: the trained one.
    """

    name: str
    seed: int
    folder: Path
    train_len: int
    read_with: Any


def trained_seeds(options: StudyOptions, root: Path) -> list[TrainedRun]:
    """All finished runs of table1, every seed below `MOST_SEEDS`, in the table's order of methods.

    Args:
        options: size, corpus and methods, as table1 takes them.
        root: folder of the run directories.
    """
    folders = RunFolders(root)
    found = [
        TrainedRun(
            name=run.name,
            seed=run.config.seed,
            folder=folders.folder(run.config),
            train_len=run.config.seq_len,
            read_with=run.evaluations[0].read_with,
        )
        for run in table1(dataclasses.replace(options, seeds=MOST_SEEDS)).runs
    ]
    return [run for run in found if is_finished(run.folder)]


def missing_lines(missing: Sequence[str]) -> list[str]:
    """Markdown: which methods have no trained run, and how they get one."""
    if not missing:
        return []
    return ["", f"No trained run of table1 here: {', '.join(missing)} (`wavepos study table1 --only …` trains them)."]
