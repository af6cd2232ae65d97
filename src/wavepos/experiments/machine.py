"""All runs of a study: found, or trained and measured; here one after the other, or in processes side by side."""

import json
import os
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from wavepos.console import console, duration, progress
from wavepos.experiments.folders import FAILURE, RunFolders, is_finished
from wavepos.experiments.known import KnownOutcomes
from wavepos.experiments.study import Study
from wavepos.experiments.tasks import WAIT_SECONDS, Busy, Task, is_busy, perform, write_failure
from wavepos.experiments.worker import BUSY, INTERRUPTED

ATTEMPTS = 2
LOG = "worker.log"


def plan_tasks(study: Study, root: Path, file: Path | None = None, known: KnownOutcomes | None = None) -> list[Task]:
    """The tasks of a study in its order: one per run directory, with all that any row wants measured of it.

    Args:
        study: what is wanted.
        root: folder of the run directories.
        file: the user's file that the study came from.
        known: outcomes of other places; what stands there is no task.
    """
    folders = RunFolders(root)
    imports = (*study.imports, *([] if file is None else [str(file)]))
    tasks: dict[Path, Task] = {}
    for run in study.runs:
        if known is not None and known.outcome(run) is not None:
            continue
        folder = folders.folder(run.config)
        earlier = tasks.get(folder)
        evaluations = (*(earlier.evaluations if earlier else ()), *run.evaluations)
        tasks[folder] = Task(
            title=earlier.title if earlier else f"{run.name}, seed {run.config.seed}",
            folder=folder,
            config=run.config,
            evaluations=tuple(e for number, e in enumerate(evaluations) if e not in evaluations[:number]),
            imports=imports,
            begins_with=run.begins_with,
        )
    return list(tasks.values())


@dataclass(slots=True)
class Ledger:
    """Which tasks wait, which failed: a failed one is tried once more, one that others work on is taken up later.

    Attributes:
        waiting: tasks to do.
        total: tasks at the start.
        failures: task and error of those that failed for good.
    """

    waiting: deque[Task]
    total: int = 0
    failures: list[tuple[Task, str]] = field(default_factory=list)
    _attempts: Counter[Path] = field(default_factory=Counter)
    _told: bool = False

    def __post_init__(self) -> None:
        self.total = len(self.waiting)

    def take(self) -> Task | None:
        """The next task that no other process works on and none has done meanwhile; None if there is none now."""
        for _ in range(len(self.waiting)):
            task = self.waiting.popleft()
            if is_busy(task.folder):
                self.waiting.append(task)
            elif not task.is_done:
                return task
        return None

    def wait(self) -> None:
        """Give the other processes time for the tasks they work on."""
        if not self._told:
            names = ", ".join(task.title for task in self.waiting)
            console.print(f"Waiting for other processes to finish: {names}", markup=False, highlight=False)
        self._told = True
        time.sleep(WAIT_SECONDS)

    def busy(self, task: Task) -> None:
        """Another process was quicker."""
        self.waiting.append(task)

    def failed(self, task: Task, error: str) -> None:
        """The task failed: once more, or named."""
        self._attempts[task.folder] += 1
        again = self._attempts[task.folder] < ATTEMPTS
        console.print(
            f"[bold red]Failed:[/] {task.title}; {'tried once more' if again else 'left out'}", highlight=False
        )
        console.print(f"  {error}", markup=False, highlight=False)
        if again:
            self.waiting.append(task)
        else:
            self.failures.append((task, error))


def run_tasks(tasks: Sequence[Task], jobs: int | None = None) -> list[tuple[Task, str]]:
    """Do all tasks that are not done; returns those that failed twice, with their error.

    Args:
        tasks: at most one per run directory.
        jobs: processes side by side; None: one per GPU, or one where there is none.

    Raises:
        ValueError: jobs below 1.
        KeyboardInterrupt: Ctrl-C; what was at work has saved its state.
    """
    jobs = max(1, torch.cuda.device_count()) if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    undone = [task for task in tasks if not task.is_done]
    found = sum(is_finished(task.folder) for task in tasks)
    console.print(f"{len(tasks)} runs, {found} of them found trained, {len(undone)} to work on", highlight=False)
    ledger = Ledger(deque(undone))
    if jobs == 1:
        _one_after_the_other(ledger)
    else:
        _side_by_side(ledger, jobs)
    return ledger.failures


def _one_after_the_other(ledger: Ledger) -> None:
    number, seconds = 0, list[float]()
    while ledger.waiting:
        task = ledger.take()
        if task is None:
            if ledger.waiting:
                ledger.wait()
            continue
        number += 1
        start = time.monotonic()
        try:
            with progress(f"{_place(number, ledger, seconds)} {task.title}") as update:
                perform(task, update)
            seconds.append(time.monotonic() - start)
        except Busy:
            ledger.busy(task)
        except Exception as error:  # one run's trouble is not the others'; perform has written it down
            ledger.failed(task, f"{type(error).__name__}: {error}")


def _place(number: int, ledger: Ledger, seconds: Sequence[float]) -> str:
    """ "2/7", and with the seconds of what is done how long this run and those that wait will take."""
    place = f"{min(number, ledger.total)}/{ledger.total}"
    if not seconds:
        return place
    left = (len(ledger.waiting) + 1) * sum(seconds) / len(seconds)
    return f"{place} ({duration(left)} left in all)"


def _side_by_side(ledger: Ledger, jobs: int) -> None:
    at_work: dict[int, tuple[Task, subprocess.Popen[str]]] = {}
    try:
        with progress("Runs") as update:
            while ledger.waiting or at_work:
                for slot in sorted(set(range(jobs)) - set(at_work)):
                    if (task := ledger.take()) is not None:
                        at_work[slot] = (task, _start(task, slot, jobs))
                if not at_work and ledger.waiting:
                    ledger.wait()
                time.sleep(0.05)
                for slot, (task, process) in list(at_work.items()):
                    if process.poll() is not None:
                        del at_work[slot]
                        _settle(ledger, task, process)
                finished = ledger.total - len(ledger.waiting) - len(at_work)
                update(finished, ledger.total, ", ".join(task.title for task, _ in at_work.values()))
    finally:  # on Ctrl-C the workers' input ends, so that they save and stop
        for _, process in at_work.values():
            _end_input(process)
        for _, process in at_work.values():
            process.wait()


def _start(task: Task, slot: int, jobs: int) -> "subprocess.Popen[str]":
    """A worker with its share of the CPU threads and its own GPU, out of reach of the terminal's Ctrl-C."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if torch.cuda.device_count() > 0:
        environment["CUDA_VISIBLE_DEVICES"] = _device(slot)
    task.folder.mkdir(parents=True, exist_ok=True)
    (task.folder / LOG).unlink(missing_ok=True)  # it may be a link out of a folder from elsewhere
    with (task.folder / LOG).open("x", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore::FutureWarning", "-m", "wavepos.experiments.worker"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died at once: its exit status says so
        process.stdin.write(task.to_json() + "\n")
        process.stdin.flush()
    return process


def _device(slot: int) -> str:
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    devices = given or [str(index) for index in range(torch.cuda.device_count())]
    return devices[slot % len(devices)]


def _settle(ledger: Ledger, task: Task, process: "subprocess.Popen[str]") -> None:
    _end_input(process)
    match process.returncode:
        case 0:
            return
        case code if code == BUSY:
            ledger.busy(task)
        case code if code == INTERRUPTED:
            raise KeyboardInterrupt(f"{task.title} was interrupted, its state is saved")
        case code:
            if not (task.folder / FAILURE).exists():  # killed or crashed, it could not say why
                tail = (task.folder / LOG).read_text(encoding="utf-8", errors="replace")[-4000:]
                write_failure(task.folder, f"its process ended with exit status {code}", tail)
            ledger.failed(task, failure_of(task.folder))


def failure_of(folder: Path) -> str:
    """The error that the run in a directory failed with, or ""."""
    path = folder / FAILURE
    return str(json.loads(path.read_text(encoding="utf-8"))["error"]) if path.exists() else ""


def _end_input(process: "subprocess.Popen[str]") -> None:
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
