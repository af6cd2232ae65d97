"""The machine for studies on a really small one: what is found, what is trained, what survives a failure or a kill."""

import dataclasses
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from wavepos.data import prepare
from wavepos.experiments import machine, tasks
from wavepos.experiments.folders import FAILURE, LOCK, RunFolders, evaluation_path
from wavepos.experiments.machine import plan_tasks, run_tasks
from wavepos.experiments.results import study_result
from wavepos.experiments.study import Evaluation, Study, StudyRun, continued
from wavepos.experiments.tasks import task_from_json, without_absent_corpora
from wavepos.models.loading import load_model
from wavepos.runs import fingerprint, run_name
from wavepos.training.config import TrainConfig
from wavepos.training.trainer import train

MakeStudy = Callable[..., Study]
MakeConfig = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def finished(small_study: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    study, root = small_study(), tmp_path_factory.mktemp("runs")
    assert run_tasks(plan_tasks(study, root), jobs=1) == []
    return study, root


@pytest.fixture
def copied(finished: tuple[Study, Path], tmp_path: Path) -> Path:
    return shutil.copytree(finished[1], tmp_path / "runs")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the directories that are trained from now on."""
    names: list[str] = []

    def noting(config: TrainConfig, out: Path, *rest: Any, **named: Any) -> dict[str, Any]:
        names.append(out.name)
        return train(config, out, *rest, **named)

    monkeypatch.setattr(tasks, "train", noting)
    return names


def state(root: Path) -> dict[str, int]:
    """Time of change of every file but locks."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != LOCK)
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in files}


def test_every_run_is_a_directory_with_its_evaluations(finished: tuple[Study, Path]) -> None:
    study, root = finished
    for run in study.runs:
        folder = root / run_name(run.config, exact=True)
        assert json.loads((folder / "run.json").read_text())["status"] == "finished"
        record = json.loads(evaluation_path(folder, run.evaluations[0]).read_text())
        assert len(record["perplexities"]) == 9
        assert record["tokens"] == 128
        assert len(record["loss_by_position"]) == 32
    assert [outcome["name"] for outcome in study_result(study, root)["outcomes"]] == ["nope", "alibi"]


def test_a_run_that_diverges_is_named_and_the_others_are_done(
    small_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluations = (Evaluation(lengths=(16,), tokens=64),)
    steep = dataclasses.replace(small_config("alibi"), learning_rate=1e30, warmup_steps=0)
    configs = {"steep": steep, "nope": small_config("nope")}
    runs = tuple(StudyRun(name=name, config=config, evaluations=evaluations) for name, config in configs.items())
    study = Study(name="small", title="", runs=runs, baseline="nope")
    failures = run_tasks(plan_tasks(study, tmp_path), jobs=1)
    assert [(task.title, error.partition(":")[0]) for task, error in failures] == [
        ("steep, seed 0", "FloatingPointError")
    ]
    assert "training diverged: " in " ".join(capsys.readouterr().out.split())
    result = study_result(study, tmp_path, [(task.title, error) for task, error in failures])
    assert [outcome["name"] for outcome in result["outcomes"]] == ["nope"]
    assert "Give a lower learning_rate (now 1e+30)" in result["failures"][0]["error"]


def test_a_run_that_goes_on_from_another_has_that_trained_first_and_begins_with_its_weights(
    small_config: MakeConfig, tmp_path: Path, trained: list[str]
) -> None:
    parent = small_config("rotary")
    config = continued(parent, position={"method": "nope"}, seq_len=32, learning_rate=1e-12, warmup_steps=0)
    run = StudyRun(
        name="dropped", config=config, evaluations=(Evaluation(lengths=(32,), tokens=64),), begins_with=parent
    )
    plan = plan_tasks(Study(name="goes-on", title="", runs=(run,), baseline="dropped"), tmp_path)
    assert task_from_json(plan[0].to_json()) == plan[0]
    assert run_tasks(plan, jobs=1) == []
    folders = [RunFolders(tmp_path).folder(each) for each in (parent, config)]
    assert trained == [folder.name for folder in folders]
    before, after = (load_model(folder / "model").state_dict() for folder in folders)
    assert before.keys() == after.keys()
    for name, weights in before.items():
        torch.testing.assert_close(after[name], weights, rtol=0.0, atol=1e-8)
    assert run_tasks(plan, jobs=1) == []
    assert len(trained) == 2


def test_a_run_waits_while_another_process_trains_what_it_goes_on_from(
    small_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = small_config("rotary")
    config = continued(parent, position={"method": "nope"})
    run = StudyRun(
        name="dropped", config=config, evaluations=(Evaluation(lengths=(16,), tokens=64),), begins_with=parent
    )
    plan = plan_tasks(Study(name="goes-on", title="", runs=(run,), baseline="dropped"), tmp_path)
    folder = RunFolders(tmp_path).folder(parent)
    folder.mkdir(parents=True)
    lock = FileLock(folder / LOCK)
    lock.acquire()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if seconds == tasks.WAIT_SECONDS:  # the lock itself looks more often
            lock.release()

    monkeypatch.setattr(tasks.time, "sleep", wait)
    assert run_tasks(plan, jobs=1) == []
    assert waits.count(tasks.WAIT_SECONDS) == 1


def test_training_alone_refuses_a_run_that_only_a_study_knows(small_config: MakeConfig, tmp_path: Path) -> None:
    config = continued(small_config("rotary"), position={"method": "nope"})
    with pytest.raises(ValueError, match=r"start_from='run:[0-9a-f]{16}' names a run of a study"):
        train(config, tmp_path / "run", prepare(config.corpus, config.tokenizer))


def test_bits_per_byte_are_those_of_the_text_that_was_read(finished: tuple[Study, Path], corpus: str) -> None:
    study, root = finished
    record = json.loads(
        evaluation_path(root / run_name(study.runs[0].config, exact=True), study.runs[0].evaluations[0]).read_text()
    )
    data = prepare(corpus, "bpe:300")
    text = data.tokenizer.decode(data.valid.ids[1:129], skip_special_tokens=True)
    assert record["bytes"] == len(text.encode())
    nats = record["perplexities"][0]["nats"]
    assert record["perplexities"][0]["bits_per_byte"] == pytest.approx(nats / 0.6931471805599453 / len(text.encode()))


def test_a_second_call_trains_and_measures_nothing(
    finished: tuple[Study, Path], copied: Path, trained: list[str]
) -> None:
    before = state(copied)
    run_tasks(plan_tasks(finished[0], copied), jobs=1)
    assert trained == []
    assert state(copied) == before


def test_one_more_seed_trains_only_it(small_study: MakeStudy, copied: Path, trained: list[str]) -> None:
    before = state(copied)
    study = small_study(seeds=2)
    run_tasks(plan_tasks(study, copied), jobs=1)
    assert trained == [run_name(run.config, exact=True) for run in study.runs if run.config.seed == 1]
    assert {name: changed for name, changed in state(copied).items() if name in before} == before


def test_one_more_method_trains_only_it(small_study: MakeStudy, copied: Path, trained: list[str]) -> None:
    run_tasks(plan_tasks(small_study(("nope", "alibi", "rotary")), copied), jobs=1)
    assert [name.split("-")[1] for name in trained] == ["rotary"]


def test_an_evaluation_added_later_only_evaluates(
    finished: tuple[Study, Path], copied: Path, trained: list[str]
) -> None:
    study = finished[0]
    more = Evaluation(lengths=(64,), protocols=("whole",), tokens=64)
    read = Evaluation(lengths=(64,), protocols=("whole",), tokens=64, read_with={"method": "rotary"})
    runs = tuple(dataclasses.replace(run, evaluations=(*run.evaluations, more, read)) for run in study.runs)
    before = state(copied)
    run_tasks(plan_tasks(dataclasses.replace(study, runs=runs), copied), jobs=1)
    assert trained == []
    after = state(copied)
    assert {name: after[name] for name in before} == before
    assert len(set(after) - set(before)) == 4
    folder = copied / run_name(study.runs[0].config, exact=True)
    values = [json.loads(evaluation_path(folder, e).read_text())["perplexities"][0]["nats"] for e in (more, read)]
    assert values[0] != values[1], "a model without positions, read with RoPE, gives other losses"


def test_two_studies_share_runs_of_equal_configs(
    small_config: MakeConfig, small_study: MakeStudy, copied: Path, trained: list[str]
) -> None:
    other = dataclasses.replace(small_study(("alibi",)), name="other", title="Another")
    run_tasks(plan_tasks(other, copied), jobs=1)
    assert trained == []


def test_a_run_is_found_by_its_config_whatever_its_directory_is_called(
    finished: tuple[Study, Path], copied: Path, trained: list[str]
) -> None:
    study = finished[0]
    folder = copied / run_name(study.runs[0].config, exact=True)
    folder.rename(copied / "made-by-hand")
    record = json.loads((copied / "made-by-hand" / "run.json").read_text())
    del record["config"]["weight_decay"], record["checksum"]  # as if an older version had no such field
    (copied / "made-by-hand" / "run.json").write_text(json.dumps(record))
    assert RunFolders(copied).folder(study.runs[0].config).name == "made-by-hand"
    run_tasks(plan_tasks(study, copied), jobs=1)
    assert trained == []
    assert not folder.exists()


def test_the_fingerprint_is_of_what_differs_from_the_defaults(small_config: MakeConfig) -> None:
    config = small_config()
    assert fingerprint(config) == fingerprint(dataclasses.replace(config, weight_decay=0.0))
    assert fingerprint(config) != fingerprint(dataclasses.replace(config, seed=1))
    wavelet = dataclasses.replace(config, position={"method": "wavelet"})
    assert fingerprint(wavelet) == fingerprint(dataclasses.replace(wavelet, position=wavelet.position))
    assert run_name(wavelet, exact=True).startswith(run_name(wavelet) + "-")


def test_a_failing_run_is_tried_twice_and_named_and_the_rest_goes_on(
    small_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, calls = small_study(("nope", "alibi", "rotary")), []

    def failing(config: TrainConfig, out: Path, *rest: Any, **named: Any) -> dict[str, Any]:
        calls.append(config.position["method"])
        if config.position["method"] == "nope" or (config.position["method"] == "alibi" and calls.count("alibi") == 1):
            raise RuntimeError("no memory is left")
        return train(config, out, *rest, **named)

    monkeypatch.setattr(tasks, "train", failing)
    plan = plan_tasks(study, tmp_path)
    failures = run_tasks(plan, jobs=1)
    assert calls == ["nope", "alibi", "rotary", "nope", "alibi"]
    assert [(task.title, error) for task, error in failures] == [("nope, seed 0", "RuntimeError: no memory is left")]
    assert [task.is_done for task in plan] == [False, True, True]
    assert [(task.folder / FAILURE).exists() for task in plan] == [True, False, False]
    result = study_result(study, tmp_path, [(task.title, error) for task, error in failures])
    assert result["failures"] == [{"run": "nope, seed 0", "error": "RuntimeError: no memory is left"}]
    assert [outcome["name"] for outcome in result["outcomes"]] == ["alibi", "rotary"]
    assert result["unfinished"] == ["nope, seed 0"]


def test_a_busy_run_is_taken_up_later(
    small_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    plan = plan_tasks(small_study(("nope", "alibi")), tmp_path)
    plan[0].folder.mkdir(parents=True)
    lock = FileLock(plan[0].folder / LOCK)
    lock.acquire()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        lock.release()

    monkeypatch.setattr(machine.time, "sleep", wait)
    assert run_tasks(plan, jobs=1) == []
    assert [name.split("-")[1] for name in trained] == ["alibi", "nope"]
    assert waits == [machine.WAIT_SECONDS]


def test_two_jobs_do_what_one_does_and_a_crash_is_only_its_own(
    finished: tuple[Study, Path], small_config: MakeConfig, small_study: MakeStudy, tmp_path: Path
) -> None:
    study = small_study(("nope", "alibi", "rotary"))
    crash = tmp_path / "crash.py"
    crash.write_text("import os, sys\nif os.environ['OMP_NUM_THREADS'] != '':\n    os._exit(7)\n")
    plan = plan_tasks(study, tmp_path / "runs")
    plan[2] = dataclasses.replace(plan[2], imports=(str(crash),))
    failures = run_tasks(plan, jobs=2)
    assert [(task.title, error) for task, error in failures] == [
        ("rotary, seed 0", "its process ended with exit status 7")
    ]
    for run in study.runs[:2]:
        values = []
        for root in (finished[1], tmp_path / "runs"):
            path = evaluation_path(root / run_name(run.config, exact=True), run.evaluations[0])
            values.append([entry["nats"] for entry in json.loads(path.read_text())["perplexities"]])
        assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_a_killed_study_goes_on_from_its_last_checkpoint(
    small_config: MakeConfig, small_study: MakeStudy, tmp_path: Path, python: Callable[..., Any]
) -> None:
    plan = plan_tasks(small_study(("alibi",), steps=2000), tmp_path / "runs")
    program = tmp_path / "study.py"
    program.write_text(
        "import sys\n"
        "from wavepos.experiments.machine import run_tasks\n"
        "from wavepos.experiments.tasks import task_from_json\n"
        f"run_tasks([task_from_json({plan[0].to_json()!r})], jobs=1)\n"
    )
    process = python(str(program), cwd=tmp_path)
    _wait_for(lambda: len(list(plan[0].folder.glob("checkpoints/*/complete.json"))) >= 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    reached = max(int(path.parent.name.split("-")[1]) for path in plan[0].folder.glob("checkpoints/*/complete.json"))
    seen: list[int] = []

    def stop_soon(config: TrainConfig, out: Path, data: Any, observe: Any, **named: Any) -> dict[str, Any]:
        def watch(step: int, steps: int, loss: float | None) -> None:
            seen.append(step)
            raise RuntimeError("seen enough")

        return train(config, out, data, watch, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "train", stop_soon)
        patch.setattr(machine, "ATTEMPTS", 1)
        run_tasks(plan, jobs=1)
    assert seen == [reached + 1]


def test_ctrl_c_stops_the_jobs_with_their_state_saved(
    small_study: MakeStudy, tmp_path: Path, python: Callable[..., Any]
) -> None:
    plan = plan_tasks(small_study(("alibi", "nope"), steps=100_000), tmp_path / "runs")
    program = tmp_path / "study.py"
    program.write_text(
        "from wavepos.experiments.machine import run_tasks\n"
        "from wavepos.experiments.tasks import task_from_json\n"
        f"run_tasks([task_from_json(text) for text in {[task.to_json() for task in plan]!r}], jobs=2)\n"
    )
    process = python(str(program), cwd=tmp_path)
    _wait_for(lambda: all(list(task.folder.glob("checkpoints/*/complete.json")) for task in plan), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=600)
    assert "KeyboardInterrupt" in output
    for task in plan:
        with FileLock(task.folder / LOCK, timeout=0):  # nobody works on it any more
            assert list(task.folder.glob("checkpoints/*/complete.json"))


def _wait_for(condition: Callable[[], bool], process: Any, seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.05)


def test_a_task_survives_json(finished: tuple[Study, Path]) -> None:
    study = dataclasses.replace(finished[0], imports=("wavepos.experiments.controls",))
    task = plan_tasks(study, finished[1])[0]
    assert task.imports == study.imports
    assert task_from_json(task.to_json()) == task


def test_texts_that_are_not_here_are_named_and_left_out(small_study: MakeStudy) -> None:
    study = small_study()
    absent = Evaluation(corpus="wikitext103:/nowhere", lengths=(8,))
    runs = tuple(dataclasses.replace(run, evaluations=(*run.evaluations, absent)) for run in study.runs)
    left, notes = without_absent_corpora(dataclasses.replace(study, runs=runs))
    assert left == study
    assert notes == ["Not read, for it is not here: corpus 'wikitext103:/nowhere': no such folder: /nowhere"]


def test_jobs_below_one_are_named() -> None:
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        run_tasks([], jobs=0)
