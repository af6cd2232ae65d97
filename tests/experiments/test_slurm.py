"""Studies through submitit's local executor: the same runs as here, failures named, preempted jobs that go on."""

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wavepos.experiments import slurm
from wavepos.experiments.folders import is_finished
from wavepos.experiments.machine import plan_tasks
from wavepos.experiments.slurm import RunTask, parse_slurm, run_on_cluster
from wavepos.experiments.study import Study

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def _submitit(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: pip install wavepos[slurm]")
    paths = [str(ROOT / "src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.mark.usefixtures("_submitit")
def test_jobs_do_the_runs_and_a_failing_one_is_named(
    small_study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_tasks(small_study(("nope", "alibi")), tmp_path)
    broken = dataclasses.replace(plan[1].config, corpus=f"text:{tmp_path}/nowhere.txt")
    plan[1] = dataclasses.replace(plan[1], config=broken)
    submitted: list[int] = []
    submit = slurm._submitted

    def counting(executor: object, tasks: list) -> list:
        submitted.append(len(tasks))
        return submit(executor, tasks)

    monkeypatch.setattr(slurm, "_submitted", counting)
    failures = run_on_cluster(plan, parse_slurm("cluster=local,time=5"), tmp_path)
    assert submitted == [2, 1]
    assert plan[0].is_done
    assert [task for task, _ in failures] == [plan[1]]
    assert failures[0][1].startswith("FileNotFoundError: corpus 'text:")
    assert run_on_cluster(plan[:1], parse_slurm("cluster=local"), tmp_path) == []
    assert submitted == [2, 1], "what is done is not submitted"


@pytest.mark.skipif(sys.platform != "linux", reason="the job's process is found in Linux's /proc")
@pytest.mark.usefixtures("_submitit")
def test_a_preempted_job_goes_on_from_its_checkpoint(small_study: Callable[..., Study], tmp_path: Path) -> None:
    task = plan_tasks(small_study(("alibi",), steps=150), tmp_path)[0]
    executor = slurm._executor(parse_slurm("cluster=local,time=5"), tmp_path / slurm.JOBS)
    job = executor.submit(RunTask(task.to_json()))
    deadline = time.monotonic() + 600
    while not list(task.folder.glob("checkpoints/*/complete.json")):
        assert time.monotonic() < deadline and not job.done(), job.stderr()
        time.sleep(0.02)
    children = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGUSR2)  # what Slurm sends before a job's time is over
    assert job.result() == "done", job.stderr()
    assert "requeue" in (job.stderr() or "").lower() + (job.stdout() or "").lower()
    assert is_finished(task.folder)
    assert json.loads((task.folder / "run.json").read_text())["losses"][-1][0] == 150


def test_options_of_a_cluster_are_understood() -> None:
    cluster = parse_slurm("partition=gpu, gpus=1,time=1-2:30:01,mem=32GB,parallel=4")
    assert cluster.name == "slurm"
    assert cluster.parameters == {
        "slurm_partition": "gpu",
        "gpus_per_node": 1,
        "timeout_min": 1440 + 150 + 1,
        "slurm_mem": "32GB",
        "slurm_array_parallelism": 4,
    }
    assert parse_slurm("time=90").parameters["timeout_min"] == 90
    assert parse_slurm("time=8:00:00").parameters["timeout_min"] == 480


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partiton=gpu", "got 'partiton=gpu'; did you mean 'partition'"),
        ("gpus=one", "gpus of slurm must be a whole number, got 'one'"),
        ("time=soon", "time of slurm must be minutes, H:MM:SS or D-H:MM:SS, got 'soon'"),
        ("cluster=cloud", "cluster of slurm must be slurm or local, got 'cloud'"),
        ("gpus", "slurm takes key=value of partition, .* got 'gpus'"),
    ],
)
def test_options_that_are_none_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_slurm(text)
