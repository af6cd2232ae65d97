"""Outcomes that a result holds: their runs are neither trained nor measured again, and stand in the report."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wavepos.experiments import catalogue
from wavepos.experiments.catalogue import Execution, run_study
from wavepos.experiments.known import KnownOutcomes
from wavepos.experiments.machine import plan_tasks, run_tasks
from wavepos.experiments.results import study_result
from wavepos.experiments.study import Evaluation, Study, StudyOptions

MakeStudy = Callable[..., Study]


@pytest.fixture
def kept(small_study: MakeStudy, tmp_path: Path) -> Path:
    """The result of two trained runs whose directories are gone."""
    study = small_study()
    assert run_tasks(plan_tasks(study, tmp_path / "first"), jobs=1) == []
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(study_result(study, tmp_path / "first")), encoding="utf-8")
    return path


def test_only_what_is_new_is_trained_and_the_report_has_all(
    small_study: MakeStudy, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = small_study(("nope", "alibi", "rotary"))
    monkeypatch.setattr(catalogue, "load_study", lambda name, options: (wider, None))
    page = run_study("small", StudyOptions(), Execution(out=tmp_path / "second", known=(kept,)))
    assert page is not None
    report = json.loads((page.parent / "report.json").read_text())
    assert [outcome["name"] for outcome in report["outcomes"]] == ["nope", "alibi", "rotary"]
    assert report["outcomes"][:2] == json.loads(kept.read_text())["outcomes"]
    assert report["unfinished"] == []
    assert [path.parent.name.split("-")[1] for path in (tmp_path / "second").glob("*/run.json")] == ["rotary"]


def test_a_run_counts_as_known_with_all_its_evaluations_and_its_very_config(
    small_study: MakeStudy, kept: Path, tmp_path: Path
) -> None:
    known = KnownOutcomes([kept])
    study = small_study()
    assert plan_tasks(study, tmp_path, known=known) == []
    more = Evaluation(lengths=(64,), tokens=64)
    measured = tuple(dataclasses.replace(run, evaluations=(*run.evaluations, more)) for run in study.runs)
    assert len(plan_tasks(dataclasses.replace(study, runs=measured), tmp_path, known=known)) == 2
    longer = tuple(dataclasses.replace(run, config=dataclasses.replace(run.config, steps=5)) for run in study.runs)
    assert len(plan_tasks(dataclasses.replace(study, runs=longer), tmp_path, known=known)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "known takes results of studies, got .*which is not JSON"),
        ("[]", "known takes results of studies that train"),
        ('{"outcomes": [{"name": "a"}]}', "known takes results of studies that train"),
        ('{"outcomes": [{"name": "a", "config": {"b": 1}, "evaluations": []}]}', "'a' in .* is not of this version"),
    ],
)
def test_what_is_no_result_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "kept.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        KnownOutcomes([tmp_path / "kept.json"])
