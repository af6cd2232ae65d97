"""Studies that train nothing, and studies that are only measured."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wavepos.experiments import catalogue, long_documents_study, texts
from wavepos.experiments.catalogue import EXHIBITS, Execution, run_study
from wavepos.experiments.exhibits import trained_runs, trained_seeds
from wavepos.experiments.folders import RunFolders
from wavepos.experiments.machine import plan_tasks, run_tasks
from wavepos.experiments.study import Study, StudyOptions
from wavepos.experiments.table1 import table1
from wavepos.training.config import TrainConfig

MakeStudy = Callable[..., Study]


def test_only_what_is_trained_is_measured_and_the_rest_is_named(
    small_study: MakeStudy,
    small_config: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small, more = small_study(("nope",)), small_study(("nope", "alibi"))
    run_tasks(plan_tasks(small, tmp_path / "runs"), jobs=1)
    monkeypatch.setattr(catalogue, "load_study", lambda name, options: (more, None))
    monkeypatch.chdir(tmp_path)
    page = run_study("small", StudyOptions(), Execution(out=tmp_path / "runs", evaluate_only=True, save_result=True))
    assert page is not None and "Not finished: alibi, seed 0" in page.read_text()
    assert "Not finished: alibi, seed 0" in capsys.readouterr().out
    assert not RunFolders(tmp_path / "runs").folder(more.runs[1].config).exists()
    result = json.loads((tmp_path / "results" / "small.json").read_text())
    assert [outcome["name"] for outcome in result["outcomes"]] == ["nope"]
    assert result["outcomes"][0]["environment"]["packages"]["torch"]
    assert catalogue.results_of("small") == ["small.json"]


def test_runs_of_table_1_are_found_by_method_and_absent_ones_named(tmp_path: Path) -> None:
    run = next(run for run in table1(StudyOptions()).runs if run.name == "ALiBi")
    folder = tmp_path / "by-hand"
    folder.mkdir()
    record = {"status": "finished", "config": dataclasses.asdict(run.config)}
    (folder / "run.json").write_text(json.dumps(record))
    assert trained_runs(StudyOptions(), tmp_path, ("RoPE", "ALiBi")) == ({"ALiBi": folder}, ["RoPE"])
    assert [(one.name, one.seed, one.folder) for one in trained_seeds(StudyOptions(), tmp_path)] == [
        ("ALiBi", 0, folder)
    ]
    other = dataclasses.replace(run.config, seed=7)
    (tmp_path / "seventh").mkdir()
    (tmp_path / "seventh" / "run.json").write_text(
        json.dumps({"status": "finished", "config": dataclasses.asdict(other)})
    )
    assert [one.seed for one in trained_seeds(StudyOptions(methods=("ALiBi",)), tmp_path)] == [0, 7]
    (folder / "run.json").write_text(json.dumps(record | {"status": "started"}))
    assert trained_runs(StudyOptions(), tmp_path, ("RoPE", "ALiBi")) == ({}, ["RoPE", "ALiBi"])


def test_texts_at_hand_are_counted_and_absent_ones_named(corpus: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(texts, "TEXTS", (corpus, "text:/nowhere.txt"))
    page = run_study("table5", StudyOptions(), Execution(out=tmp_path))
    assert page == tmp_path / "reports" / "table5" / "report.html"
    text = page.with_suffix(".md").read_text()
    assert "Not here: " in text and "/nowhere.txt" in text
    assert "| NarrativeQA | 200 | 18,409 | F1 |" in text
    (found,) = json.loads(page.with_suffix(".json").read_text())["data"]["texts"].values()
    assert found["words"] == pytest.approx(found["mean_words"] * found["documents"])


def test_long_documents_are_compared_document_by_document() -> None:
    def record(offset: float) -> dict[str, Any]:
        lengths = long_documents_study.LENGTHS
        nats = {length: [length * (3.0 + 0.5 * d + offset) for d in range(4)] for length in lengths}
        results = [
            {"kind": kind, "length": length, "per_token": 20.0, "nats": nats[length]}
            for kind in ("nonoverlapping", "whole")
            for length in lengths
        ]
        return {"results": results}

    records = {"RoPE": record(0.0), "Wavelet": record(-0.1)}
    lines = list(long_documents_study._differences(records, "whole", "RoPE"))
    assert lines[2] == "| Wavelet | " + " | ".join(["**−0.100±0.000**"] * 4) + " |"


def test_what_trains_nothing_takes_no_options_of_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="study 'table5' trains nothing, so it takes no jobs"):
        run_study("table5", StudyOptions(), Execution(out=tmp_path, jobs=2))
    with pytest.raises(ValueError, match="study 'figures' trains nothing, so it takes no seeds"):
        run_study("figures", StudyOptions(seeds=2), Execution(out=tmp_path))
    assert run_study("rope-wavelet", StudyOptions(), Execution(out=tmp_path, dry_run=True)) is None


def test_every_exhibit_says_what_it_asks() -> None:
    for path, needs in EXHIBITS.values():
        assert needs
        assert (catalogue._function(path).__doc__ or "").partition("\n")[0].endswith("?") or path.endswith(":figures")
