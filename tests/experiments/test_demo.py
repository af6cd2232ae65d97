"""The demo is a small study: its budget is fixed, its files agree, a reference is drawn where it is of equal runs."""

import dataclasses
import json
import re
import xml.etree.ElementTree
from pathlib import Path

import pytest

from wavepos.experiments import demo as demo_module
from wavepos.experiments.catalogue import Execution, run_study
from wavepos.experiments.demo import demo, demo_config, demo_methods, demo_reference
from wavepos.experiments.plots import figures
from wavepos.experiments.report import read_result, write_report
from wavepos.experiments.study import StudyOptions
from wavepos.runs import run_name
from wavepos.training.config import TrainConfig


@pytest.fixture(autouse=True)
def _few_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(position: dict, corpus: str, seed: int) -> TrainConfig:
        changes = {"tokenizer": "bpe:300", "seq_len": 16, "steps": 4, "batch_tokens": 32, "warmup_steps": 1}
        return dataclasses.replace(demo_config(position, corpus, seed), **changes)

    monkeypatch.setattr(demo_module, "demo_config", small)
    monkeypatch.setattr(demo_module, "LENGTHS", (8, 16, 32))
    monkeypatch.setattr(demo_module, "SCORED_TOKENS", 128)


def test_runs_do_not_depend_on_how_many_there_are() -> None:
    few = demo(StudyOptions(methods=("ALiBi",)))
    many = demo(StudyOptions(seeds=3))
    assert few.runs[0].config in [run.config for run in many.runs]
    assert len(many.runs) == 3 * len(demo_methods())


def test_the_budget_is_in_tokens() -> None:
    config = demo_config({"method": "nope"}, "stdlib", 0)
    assert config.steps * config.batch_tokens == 409_600


def test_wavelets_have_the_fit_grid_and_the_papers() -> None:
    scales = {name: method.position.get("scales") for name, method in demo_methods().items() if "Wavelet" in name}
    fit = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert scales == {"Wavelet": None, "Wavelet, fit grid": fit, "Wavelet, fit grid, recency start": fit}


def test_all_files_are_written_and_a_reference_is_drawn_as_a_band(corpus: str, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    options = StudyOptions(methods=("NoPE", "ALiBi", '{"method": "wavelet", "scales": [1, 4]}'), corpus=corpus)
    page = run_study("demo", options, Execution(out=out / "runs", report=out))
    assert page == out / "report.html"
    result = read_result(out / "report.json")
    assert [outcome["name"] for outcome in result["outcomes"]] == list(options.methods or ())
    text = page.read_text(encoding="utf-8")
    assert "comes with wavepos" not in text
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", text.replace('xlink:href="#', ""))
    assert "<b>&amp;" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    pictures = list((out / "plots").glob("*.svg"))
    assert len(pictures) == text.count("<svg") == 5
    for picture in pictures:
        xml.etree.ElementTree.parse(picture)
        assert picture.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    for seeds_changed in ({"seed": 1}, {"seq_len": 32}):
        reference = json.loads(json.dumps(result))
        for outcome in reference["outcomes"]:
            outcome["config"] |= seeds_changed
        write_report(result, out, reference)
        drawn = "comes with wavepos" in page.read_text(encoding="utf-8")
        assert drawn == ("seed" in seeds_changed), "a band of other runs would mislead"


def test_the_reference_that_comes_along_is_of_the_demos_own_runs() -> None:
    reference = demo_reference()
    if reference is None:
        pytest.skip("no results/ beside the package: it is not a checkout")
    newcomers = json.loads(json.dumps(reference))
    newcomers["outcomes"] = [outcome for outcome in newcomers["outcomes"] if outcome["seed"] == 0]
    for outcome in newcomers["outcomes"]:  # as a run of today writes it
        config = demo_config(outcome["config"]["position"], "stdlib", 0)
        outcome["config"] = json.loads(json.dumps(dataclasses.asdict(config)))
    (caption,) = (text for name, (_, text) in figures(newcomers, reference).items() if name.endswith("-whole"))
    assert "Bands: the range of 5 seeds of the reference that comes with wavepos" in caption


def test_one_command_line_gives_the_page(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from wavepos.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["wavepos", "demo", "--methods", "alibi", "--corpus", corpus])
    main()
    assert "Report: runs/demo/report.html" in capsys.readouterr().out
    config = demo_module.demo_config({"method": "alibi"}, corpus, 0)
    assert (tmp_path / "runs" / "demo" / "runs" / run_name(config, exact=True) / "run.json").exists()
