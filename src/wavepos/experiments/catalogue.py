"""The project's studies by name, users' own by file, and the way from a command's options to a report."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.table import Table

from wavepos.console import console, progress
from wavepos.experiments.exhibits import ExhibitFunction, write_exhibit
from wavepos.experiments.folders import DEFAULT_RUNS, is_finished
from wavepos.experiments.known import KnownOutcomes
from wavepos.experiments.machine import plan_tasks, run_tasks
from wavepos.experiments.plan import print_study_plan
from wavepos.experiments.report import RESULT, console_tables, write_report
from wavepos.experiments.results import study_result
from wavepos.experiments.slurm import parse_slurm, run_on_cluster
from wavepos.experiments.study import Study, StudyFunction, StudyOptions, nearest
from wavepos.experiments.tasks import without_absent_corpora
from wavepos.positions.user_modules import load_file
from wavepos.storage import write_text

STUDIES: Mapping[str, str] = {
    "demo": "wavepos.experiments.demo:demo",
    "table1": "wavepos.experiments.table1:table1",
    "ladder": "wavepos.experiments.table1:ladder",
    "controls": "wavepos.experiments.controls:controls",
    "table3": "wavepos.experiments.ablation_studies:table3",
    "table4": "wavepos.experiments.ablation_studies:table4",
    "stretch": "wavepos.experiments.stretch:stretch",
    "convert": "wavepos.experiments.conversion:convert",
    "retrieval": "wavepos.experiments.retrieval:retrieval",
}
"""Name of a study to "module:function"."""
OF_RUNS = "finished runs of table1"
EXHIBITS: Mapping[str, tuple[str, str]] = {
    "rope-wavelet": ("wavepos.experiments.rope_wavelet_report:rope_wavelet", "nothing; seconds"),
    "figures": ("wavepos.experiments.figures:figures", f"nothing, and {OF_RUNS} for Fig. 2, 3, 7, 8; a minute each"),
    "table2": ("wavepos.experiments.long_documents_study:table2", f"{OF_RUNS}; novels; some minutes a run"),
    "natural": ("wavepos.experiments.natural_study:natural", f"{OF_RUNS}; novels; about 3 minutes a run"),
    "table5": ("wavepos.experiments.texts:table5", "the texts; a minute"),
}
"""Name of a study that trains nothing to "module:function" and what it needs."""
FUNCTION = "study"
"""The function of a user's file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Where a study's runs lie and how they are done.

    Attributes:
        out: folder of the run directories of all studies.
        report: directory of the report; None: reports/NAME in `out`.
        only: rows of the study, by name or number; None: all.
        known: results, such as results/NAME.json, whose outcomes count as done.
        jobs: processes side by side; None: one per GPU.
        slurm: "key=value,…" of a cluster, as `parse_slurm` takes it; None: this machine.
        dry_run: only say what would be done.
        imports: modules, or .py files, that register methods: for every process that works on the study.
        evaluate_only: measure what is trained, train nothing.
        save_result: copy the report's JSON to results/NAME[-SIZE].json in the working directory.
    """

    out: Path = DEFAULT_RUNS
    report: Path | None = None
    only: tuple[str, ...] | None = None
    known: tuple[Path, ...] = ()
    jobs: int | None = None
    slurm: str | None = None
    dry_run: bool = False
    imports: tuple[str, ...] = ()
    evaluate_only: bool = False
    save_result: bool = False


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
            f"study takes list, a file that ends in .py, or one of {', '.join((*STUDIES, *EXHIBITS))}, got {name!r}"
            f"{nearest(name, [*STUDIES, *EXHIBITS])}"
        )
    made_by: StudyFunction = _function(STUDIES[name])
    return made_by(options), None


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
    if options.evaluator is not None and name != "natural":
        raise ValueError(f"evaluator goes with study 'natural', which study {name!r} is not")
    if name in EXHIBITS:
        return _show(name, options, execution)
    study, path = load_study(name, options)
    if execution.only is not None:
        study = study.only(execution.only)
    study = dataclasses.replace(study, imports=(*study.imports, *execution.imports))
    study, absent = without_absent_corpora(study)
    for note in absent:
        console.print(f"[yellow]{note}[/]", highlight=False)
    known = KnownOutcomes(execution.known)
    if execution.known:
        runs = sum(known.outcome(run) is not None for run in study.runs)
        console.print(
            f"{runs} of {len(study.runs)} rows known from {' '.join(map(str, execution.known))}", highlight=False
        )
    tasks = plan_tasks(study, execution.out, path, known)
    if execution.dry_run:
        print_study_plan(study, tasks, execution.out)
        return None
    if execution.evaluate_only:
        tasks = [task for task in tasks if is_finished(task.folder)]
    if execution.slurm is not None:
        failures = run_on_cluster(tasks, parse_slurm(execution.slurm), execution.out)
    else:
        failures = run_tasks(tasks, execution.jobs)
    result = study_result(study, execution.out, [(task.title, error) for task, error in failures], known)
    result["notes"] += absent
    written = write_report(result, _report_folder(study.name, options, execution), reference)
    for table in console_tables(result):
        console.print(table)
    for task, error in failures:
        console.print(f"[bold red]Failed twice:[/] {task.title}: {error}", highlight=False)
    if result["unfinished"]:
        console.print(f"Not finished: {' · '.join(result['unfinished'])}", markup=False, highlight=False)
    return _told(study.name, options, execution, written[0])


def _show(name: str, options: StudyOptions, execution: Execution) -> Path | None:
    """Write the page of a study that trains nothing."""
    given = [key for key in ("only", "jobs", "slurm", "known") if getattr(execution, key) not in (None, ())]
    if given or options.seeds is not None:
        raise ValueError(f"study {name!r} trains nothing, so it takes no {(given or ['seeds'])[0]}")
    function, needs = EXHIBITS[name]
    if execution.dry_run:
        console.print(f"{name} trains nothing; it needs {needs}", highlight=False)
        return None
    exhibit: ExhibitFunction = _function(function)
    with progress(name) as update:
        shown = exhibit(options, execution.out, update)
    written = write_exhibit(name, shown, _report_folder(name, options, execution))
    console.print("\n".join(shown.lines), markup=False, highlight=False)
    return _told(name, options, execution, written[0])


def _report_folder(name: str, options: StudyOptions, execution: Execution) -> Path:
    return execution.report or execution.out / "reports" / _result_name(name, options)


def _result_name(name: str, options: StudyOptions) -> str:
    return f"{name}-{options.size}" if options.size else name


def _told(name: str, options: StudyOptions, execution: Execution, page: Path) -> Path:
    """Say where the page is; keep its numbers where asked to."""
    console.print(f"Report: {page}", highlight=False)
    if execution.save_result:
        kept = Path("results") / f"{_result_name(name, options)}.json"
        kept.parent.mkdir(exist_ok=True)
        write_text(kept, page.with_name(RESULT).read_text(encoding="utf-8"))
        console.print(f"Result: {kept}", highlight=False)
    return page


def print_studies() -> None:
    """Print the project's studies, what each needs, and whether a result is in results/."""
    table = Table("study", "runs", "what it asks", "needs", "result")
    for name, path in STUDIES.items():
        function = _function(path)
        study = function(StudyOptions())
        table.add_row(
            name, str(len(study.runs)), _asks(function), study.needs, ", ".join(results_of(name)) or "none yet"
        )
    for name, (path, needs) in EXHIBITS.items():
        table.add_row(name, "–", _asks(_function(path)), needs, ", ".join(results_of(name)) or "none yet")
    console.print(table)
    console.print("wavepos study NAME --dry-run shows the runs of one; FILE.py runs your own.", highlight=False)


def results_of(name: str) -> list[str]:
    """Names of the results of a study in results/ of the checkout or of the working directory."""
    folders = {Path("results").resolve(), Path(__file__).resolve().parents[3] / "results"}
    found = {path.name for folder in folders for path in folder.glob(f"{name}*.json")}
    return sorted(found)


def _asks(function: Any) -> str:
    return (function.__doc__ or "").partition("\n")[0]


def _function(path: str) -> Any:
    module, _, function = path.partition(":")
    return getattr(import_module(module), function)
