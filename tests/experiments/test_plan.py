"""A dry run: every run with its numbers, no training, speeds measured once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wavepos.experiments import plan
from wavepos.experiments.catalogue import Execution, run_study
from wavepos.experiments.machine import plan_tasks, run_tasks
from wavepos.experiments.plan import print_study_plan
from wavepos.experiments.study import Study, StudyOptions
from wavepos.runs import run_name

MakeStudy = Callable[..., Study]


def test_a_dry_run_names_every_run_and_trains_none(
    small_study: MakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan.console, "width", 200)
    study = small_study(("nope", "alibi"), seeds=2)
    print_study_plan(study, plan_tasks(study, tmp_path), tmp_path)
    shown = capsys.readouterr().out
    for run in study.runs:
        assert run_name(run.config, exact=True) in shown
    assert "row 2: alibi" in shown
    assert "4 runs; what is missing takes about" in shown
    assert [path.name for path in tmp_path.iterdir()] == [plan.SPEEDS]
    assert len(json.loads((tmp_path / plan.SPEEDS).read_text())) == 2, "a speed per method, not per seed"


def test_speeds_are_measured_once(small_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = small_study(("nope",))
    print_study_plan(study, plan_tasks(study, tmp_path), tmp_path)

    def refuse(*arguments: object) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr(plan, "measure", refuse)
    print_study_plan(study, plan_tasks(study, tmp_path), tmp_path)


def test_what_is_done_takes_no_time(
    small_study: MakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan.console, "width", 200)
    study = small_study(("nope",))
    run_tasks(plan_tasks(study, tmp_path), jobs=1)
    print_study_plan(study, plan_tasks(study, tmp_path), tmp_path)
    shown = capsys.readouterr().out
    assert "done" in shown and "what is missing takes about 0.0 hours" in shown
    assert not (tmp_path / plan.SPEEDS).exists()


def test_a_dry_run_of_the_paper_needs_no_data_but_knows_its_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan.console, "width", 200)
    monkeypatch.setattr(plan, "measure", lambda config, vocab_size: 1e-3)
    options = StudyOptions(size="paper", methods=("Wavelet",), seeds=1)
    assert run_study("table1", options, Execution(out=tmp_path, dry_run=True)) is None
    shown = capsys.readouterr().out
    assert "246,932,928" in shown and "21.1B" in shown
