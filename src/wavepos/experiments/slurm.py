"""Studies on a cluster, by submitit: one job per run in an array; a job cut off goes on from its checkpoint.

What is needed: `pip install wavepos[slurm]`, and the folder of runs and WAVEPOS_CACHE on a disk that all nodes see.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavepos.console import console, progress
from wavepos.experiments.machine import failure_of
from wavepos.experiments.study import nearest
from wavepos.experiments.tasks import Busy, Task, is_busy, perform, task_from_json

JOBS = ".slurm"
POLL_SECONDS = 5.0
DEFAULT_MINUTES = 60
REQUEUES = 1000
"""Times that a job may run out of its time and go on; submitit's own limit is 3."""
OPTIONS = {
    "partition": "slurm_partition",
    "account": "slurm_account",
    "qos": "slurm_qos",
    "constraint": "slurm_constraint",
    "gpus": "gpus_per_node",
    "cpus": "cpus_per_task",
    "mem": "slurm_mem",
    "parallel": "slurm_array_parallelism",
    "time": "timeout_min",
    "cluster": "",
}
"""Keys of --slurm and the parameters of submitit that they set; cluster is "slurm", or "local" for this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where and how the jobs run.

    Attributes:
        name: "slurm", or "local": processes of this machine.
        parameters: submitit's.
    """

    name: str
    parameters: dict[str, Any]


def parse_slurm(text: str) -> Cluster:
    """The cluster that "partition=gpu,gpus=1,time=8:00:00" stands for.

    Args:
        text: keys partition, account, qos, constraint, gpus, cpus, mem ("32GB"), parallel (jobs at once), time
            (minutes, H:MM:SS or D-H:MM:SS, per job until it is requeued), cluster ("slurm" or "local").

    Raises:
        ValueError: an unknown key, or a value that is none.
    """
    name = "slurm"
    parameters: dict[str, Any] = {"timeout_min": DEFAULT_MINUTES}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if key not in OPTIONS or not equals or not value:
            raise ValueError(f"slurm takes key=value of {', '.join(OPTIONS)}, got {part!r}{nearest(key, [*OPTIONS])}")
        if key == "cluster":
            if value not in ("slurm", "local"):
                raise ValueError(f"cluster of slurm must be slurm or local, got {value!r}")
            name = value
        elif key == "time":
            parameters[OPTIONS[key]] = _minutes(value)
        elif key in ("gpus", "cpus", "parallel"):
            if not value.isdigit():
                raise ValueError(f"{key} of slurm must be a whole number, got {value!r}")
            parameters[OPTIONS[key]] = int(value)
        else:
            parameters[OPTIONS[key]] = value
    return Cluster(name=name, parameters=parameters)


class RunTask:
    """What a job does. submitit calls `checkpoint` shortly before the job's time is over, and queues its answer."""

    def __init__(self, task: str) -> None:
        self.task = task

    def __call__(self) -> str:
        """Do the task; "busy" where another process is at it."""
        task = task_from_json(self.task)
        try:
            with progress(task.title) as update:
                perform(task, update)
        except Busy:
            return "busy"
        return "done"

    def checkpoint(self) -> Any:
        """The same again: training goes on from its own last checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(RunTask(self.task))


def run_on_cluster(tasks: Sequence[Task], cluster: Cluster, root: Path) -> list[tuple[Task, str]]:
    """Submit all tasks that are not done as an array, and wait; a failed one is submitted once more.

    Ctrl-C leaves the jobs running; the same command then waits for them, for it submits no run that a job works on, and
    a job that finds its run done or at work ends at once.

    Args:
        tasks: at most one per run directory.
        cluster: as `parse_slurm` gives it.
        root: folder of the run directories; submitit's own files lie in it.

    Returns:
        Those that failed twice, with their error.

    Raises:
        ImportError: submitit is not installed.
    """
    executor = _executor(cluster, root / JOBS)
    failures: list[tuple[Task, str]] = []
    for attempt in range(2):
        undone = [task for task in tasks if not task.is_done]
        if not undone:
            return []
        failures = _submitted(executor, [task for task in undone if not is_busy(task.folder)])
        _await([task for task in undone if is_busy(task.folder)])
        if not failures:
            return []
        for task, error in failures:
            console.print(f"Failed: {task.title}; {'left out' if attempt else 'submitted once more'}: {error}")
    return failures


def _executor(cluster: Cluster, folder: Path) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise ImportError("--slurm needs submitit: pip install wavepos[slurm]") from error
    executor = submitit.AutoExecutor(
        folder=folder / "%j", cluster=cluster.name, **{f"{cluster.name}_max_num_timeout": REQUEUES}
    )
    known = {key: value for key, value in cluster.parameters.items() if cluster.name == "slurm" or "slurm_" not in key}
    executor.update_parameters(name="wavepos", **known)
    return executor


def _submitted(executor: Any, tasks: Sequence[Task]) -> list[tuple[Task, str]]:
    """Run the tasks as one array; returns those that failed."""
    if not tasks:
        return []
    with executor.batch():
        jobs = [executor.submit(RunTask(task.to_json())) for task in tasks]
    ids = ", ".join(str(job.job_id) for job in jobs[:4])
    console.print(f"{len(jobs)} jobs submitted: {ids}{' …' if len(jobs) > 4 else ''}", highlight=False)
    with progress("Jobs") as update:
        while not all(job.done() for job in jobs):
            update(sum(job.done() for job in jobs), len(jobs), "; Ctrl-C leaves them running")
            time.sleep(min(POLL_SECONDS, 0.2 if executor.cluster == "local" else POLL_SECONDS))
    failed = []
    for task, job in zip(tasks, jobs, strict=True):
        error = job.exception()
        if error is not None:
            failed.append((task, failure_of(task.folder) or str(error).strip().splitlines()[-1]))
    return failed


def _await(tasks: Sequence[Task]) -> None:
    """Wait for runs that other processes work on."""
    while any(is_busy(task.folder) for task in tasks):
        time.sleep(POLL_SECONDS)


def _minutes(text: str) -> int:
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts) or len(parts) > 3 or (dash and not days.isdigit()):
        raise ValueError(f"time of slurm must be minutes, H:MM:SS or D-H:MM:SS, got {text!r}")
    numbers = [int(part) for part in parts]
    if len(numbers) == 1 and not dash:
        return max(1, numbers[0])
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return max(1, int(days or 0) * 1440 + hours * 60 + minutes + (seconds + 59) // 60)
