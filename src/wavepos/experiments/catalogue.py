"""The project's studies by name, users' own by file, and the way from a command's options to a report."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.table import Table

from wavepos.console import console
from wavepos.experiments.folders import DEFAULT_RUNS
from wavepos.experiments.machine import plan_tasks, run_tasks
from wavepos.experiments.plan import print_study_plan
from wavepos.experiments.report import console_tables, write_report
from wavepos.experiments.results import study_result
from wavepos.experiments.slurm import parse_slurm, run_on_cluster
from wavepos.experiments.study import Study, StudyFunction, StudyOptions, nearest
from wavepos.experiments.tasks import without_absent_corpora
from wavepos.positions.user_modules import load_file

STUDIES: Mapping[str, str] = {
    "demo": "wavepos.experiments.demo:demo",
    "table1": "wavepos.experiments.table1:table1",
    "ladder": "wavepos.experiments.table1:ladder",
    "controls": "wavepos.experiments.controls:controls",
}
"""Name of a study to "module:function"."""
FUNCTION = "study"
"""The function of a user's file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Where a study's runs lie and how they are done.

    Attributes:
        out: folder of the run directories of all studies.
        report: directory of the report; None: reports/NAME in `out`.
        only: rows of the study, by name or number; None: all.
        jobs: processes side by side; None: one per GPU.
        slurm: "key=value,…" of a cluster, as `parse_slurm` takes it; None: this machine.
        dry_run: only say what would be done.
        imports: modules, or .py files, that register methods: for every process that works on the study.
    """

    out: Path = DEFAULT_RUNS
    report: Path | None = None
    only: tuple[str, ...] | None = None
    jobs: int | None = None
    slurm: str | None = None
    dry_run: bool = False
    imports: tuple[str, ...] = ()


def load_study(name: str, options: StudyOptions) -> tuple[Study, Path | None]:
    """The study of a name or of a user's file, and that file.

    Args:
        name: one of `STUDIES`, or the path of a Python file with a function `study(options)`.
        options: what the user asks of it.

    Raises:
        ValueError: no such study, or a file without that function.
        FileNotFoundError: no such file.
    """
    if name.endswith(".py"):
        path = Path(name).resolve()
        made = getattr(load_file(path), FUNCTION, None)
        if not callable(made):
            raise ValueError(f"{name} must define a function {FUNCTION}(options) that returns a Study")
        study = made(options)
        if not isinstance(study, Study):
            raise ValueError(f"{FUNCTION} in {name} must return a Study, got {type(study).__name__}")
        return study, path
    if name not in STUDIES:
        raise ValueError(
            f"study takes list, a file that ends in .py, or one of {', '.join(STUDIES)}, got {name!r}"
            f"{nearest(name, [*STUDIES])}"
        )
    return _function(name)(options), None


def run_study(
    name: str, options: StudyOptions, execution: Execution, reference: dict[str, Any] | None = None
) -> Path | None:
    """Do a study, or what is missing of it, and write its report.

    Args:
        name: as `load_study` takes it.
        options: what is asked of the study.
        execution: where and how.
        reference: another result, drawn as a band in the report.

    Returns:
        The report's page; None after a dry run.
    """
    study, path = load_study(name, options)
    if execution.only is not None:
        study = study.only(execution.only)
    study = dataclasses.replace(study, imports=(*study.imports, *execution.imports))
    study, absent = without_absent_corpora(study)
    for note in absent:
        console.print(f"[yellow]{note}[/]", highlight=False)
    tasks = plan_tasks(study, execution.out, path)
    if execution.dry_run:
        print_study_plan(study, tasks, execution.out)
        return None
    if execution.slurm is not None:
        failures = run_on_cluster(tasks, parse_slurm(execution.slurm), execution.out)
    else:
        failures = run_tasks(tasks, execution.jobs)
    result = study_result(study, execution.out, [(task.title, error) for task, error in failures])
    result["notes"] += absent
    report = execution.report or execution.out / "reports" / (
        f"{study.name}-{options.size}" if options.size else study.name
    )
    written = write_report(result, report, reference)
    for table in console_tables(result):
        console.print(table)
    for task, error in failures:
        console.print(f"[bold red]Failed twice:[/] {task.title}: {error}", highlight=False)
    console.print(f"Report: {written[0]}", highlight=False)
    return written[0]


def print_studies() -> None:
    """Print the project's studies, what each needs, and whether a result is in results/."""
    table = Table("study", "runs", "what it asks", "needs", "result")
    for name in STUDIES:
        function = _function(name)
        study = function(StudyOptions())
        asks = (function.__doc__ or "").partition("\n")[0]
        table.add_row(name, str(len(study.runs)), asks, study.needs, ", ".join(results_of(name)) or "none yet")
    console.print(table)
    console.print("wavepos study NAME --dry-run shows the runs of one; FILE.py runs your own.", highlight=False)


def results_of(name: str) -> list[str]:
    """Names of the results of a study in results/ of the checkout or of the working directory."""
    folders = {Path("results").resolve(), Path(__file__).resolve().parents[3] / "results"}
    found = {path.name for folder in folders for path in folder.glob(f"{name}*.json")}
    return sorted(found)


def _function(name: str) -> StudyFunction:
    module, _, function = STUDIES[name].partition(":")
    found: StudyFunction = getattr(import_module(module), function)
    return found
