"""The study of probes: its runs in their order, a small one from end to end, and what its report says and draws."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from probe_results import made_probes
from safetensors.torch import load_file

from wavepos.console import Update
from wavepos.data import PROBES, prepare_training
from wavepos.evaluate.retrieval import Retrieval
from wavepos.experiments import catalogue, retrieval_report
from wavepos.experiments import retrieval as study_module
from wavepos.experiments.catalogue import Execution, run_study
from wavepos.experiments.folders import RunFolders
from wavepos.experiments.machine import plan_tasks
from wavepos.experiments.methods import table1_methods
from wavepos.experiments.plan import EQUAL_LENGTH, _tokens_read
from wavepos.experiments.results import runs_result, study_result
from wavepos.experiments.retrieval import CLOSED, DISTANCES, SEQ_LEN, STEPS, retrieval, retrieval_config
from wavepos.experiments.study import StudyOptions
from wavepos.experiments.tasks import task_from_json
from wavepos.models import BaevskiAuliForCausalLM, baevski_auli_config
from wavepos.positions.layers import layer_configs, parse_layers
from wavepos.training.trainer import train

COPY = StudyOptions(seeds=1, methods=("nope", "ALiBi"), corpus="task:copy")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a few updates, read at few distances."""
    monkeypatch.setattr(study_module, "STEPS", dict.fromkeys(STEPS, 4))
    monkeypatch.setattr(study_module, "DISTANCES", (0.25, 2.0))
    recipe = study_module.size_recipe
    quick = {"warmup_steps": 1, "save_every": 2, "log_every": 1, "batch_tokens": 256}
    monkeypatch.setattr(study_module, "size_recipe", lambda size: dataclasses.replace(recipe(size), **quick))
    monkeypatch.setattr(study_module, "Retrieval", lambda **fields: Retrieval(**{**fields, "questions": 8}))


def test_all_methods_learn_the_first_task_before_any_learns_the_second() -> None:
    study = retrieval(StudyOptions())
    assert study.rows == tuple(study_module.probe_methods(SEQ_LEN))
    assert set(table1_methods(SEQ_LEN)) | {CLOSED} == set(study.rows)
    assert len(study.runs) == len(study.rows) * len(PROBES) * 5
    tasks = [run.config.corpus for run in study.runs]
    assert list(dict.fromkeys(tasks)) == [f"task:{name}" for name in PROBES]
    assert tasks == sorted(tasks, key=list(dict.fromkeys(tasks)).index)
    first = study.runs[: len(study.rows) * 5]
    assert [run.config.seed for run in first] == sorted(run.config.seed for run in first)
    assert {run.config.seed for run in first if run.name == "NoPE"} == {0, 1, 2, 3, 4}


def test_methods_differ_in_position_alone_and_share_their_examples() -> None:
    runs = [run for run in retrieval(StudyOptions(seeds=1)).runs if run.config.corpus == "task:tracking"]
    configs = {json.dumps({**dataclasses.asdict(run.config), "position": None}) for run in runs}
    assert len(configs) == 1
    assert {run.config.size for run in runs} == {"probe"}
    assert all(run.evaluations[0].distances == DISTANCES for run in runs)


def test_no_word_beyond_l_train_reaches_a_question_through_the_closed_window() -> None:
    for run in retrieval(StudyOptions(seeds=1, methods=(CLOSED,))).runs:
        layers = baevski_auli_config("probe", 10, run.config.position).num_hidden_layers
        assert layers * (run.config.position["window"] - 1) < SEQ_LEN


def test_one_task_is_chosen_by_its_corpus_and_others_are_refused() -> None:
    assert {run.config.corpus for run in retrieval(COPY).runs} == {"task:copy"}
    with pytest.raises(ValueError, match="got 'task:copi'; did you mean 'task:copy'"):
        retrieval(StudyOptions(corpus="task:copi"))
    with pytest.raises(ValueError, match="size of study 'retrieval' must be one of cpu, got 'gpu'"):
        retrieval(StudyOptions(size="gpu"))


def test_a_rotation_that_is_only_read_otherwise_is_not_trained_again(tmp_path: Path) -> None:
    options = StudyOptions(seeds=1, methods=("RoPE", "RoPE, read with YaRN 8x"), corpus="task:mqar")
    (task,) = plan_tasks(retrieval(options), tmp_path)
    assert [evaluation.read_with is None for evaluation in task.evaluations] == [True, False]


def test_a_task_travels_to_another_process_with_what_it_measures(tmp_path: Path) -> None:
    task = plan_tasks(retrieval(COPY), tmp_path)[1]
    assert isinstance(task.evaluations[0], Retrieval)
    assert task_from_json(task.to_json()) == task


@pytest.mark.usefixtures("short")
def test_a_small_study_is_trained_measured_and_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = run_study("retrieval", COPY, Execution(out=tmp_path / "runs", save_result=True))
    assert page is not None and "2 runs, 0 of them found trained, 2 to work on" in capsys.readouterr().out
    result = json.loads((tmp_path / "results" / "retrieval.json").read_text())
    assert [(o["name"], o["seed"]) for o in result["outcomes"]] == [("NoPE", 0), ("ALiBi", 0)]
    (evaluation,) = result["outcomes"][1]["evaluations"]
    assert (evaluation["probe"], evaluation["chance"]) == ("copy", 1 / 16)
    assert [(one["distance"], one["before"], one["length"]) for one in evaluation["recalled"]] == [
        (32, 0, 40),
        (32, 32, 72),
        (256, 0, 264),
        (256, 256, 520),
    ]
    assert all(one["questions"] == 8 and 0.0 <= one["accuracy"] <= 1.0 for one in evaluation["recalled"])
    text = page.read_text()
    assert "Copy of a passage" in text and "Chance 0.0625" in text and "<svg" in text
    assert {path.name for path in (page.parent / "plots").iterdir()} == {"retrieval.png", "retrieval.svg"}
    lines = (page.parent / "measurements.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 4 and lines[0].startswith("task,method,seed,seq_len,units,depth,distance")
    run_study("retrieval", COPY, Execution(out=tmp_path / "runs"))
    assert "2 runs, 2 of them found trained, 0 to work on" in capsys.readouterr().out


@pytest.mark.usefixtures("short")
def test_a_run_on_a_probe_that_is_cut_off_goes_on_to_the_same_model(tmp_path: Path) -> None:
    config = retrieval_config(PROBES["mqar"], {"method": "alibi"}, seed=3)
    data = prepare_training(config.corpus, config.tokenizer)

    def cut(step: float, steps: float | None, note: str = "") -> None:
        if step == 3:
            raise RuntimeError("crash")

    crash: Update = cut
    whole = train(config, tmp_path / "whole", data)
    with pytest.raises(RuntimeError, match="crash"):
        train(config, tmp_path / "cut", data, crash)
    assert train(config, tmp_path / "cut", data)["losses"] == whole["losses"]
    first, second = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["data"] == data.fingerprint


@pytest.mark.usefixtures("short")
def test_reports_of_any_runs_leave_probes_to_their_study(tmp_path: Path) -> None:
    run_study("retrieval", COPY, Execution(out=tmp_path))
    with pytest.raises(ValueError, match="runs must hold one on a text, got 2 on probes"):
        runs_result([tmp_path], None, table1_methods)


def test_a_plan_counts_what_is_read() -> None:
    config = retrieval_config(PROBES["copy"], {"method": "nope"}, seed=0)
    asked = Retrieval(distances=(1.0,), depths=(0.0,), questions=80)
    length = 128 + 8
    assert _tokens_read(asked, config) == pytest.approx(10 * length * (1.0 + length / EQUAL_LENGTH))


@pytest.fixture
def made_result() -> dict:
    return made_probes()


def test_tables_name_means_spreads_seeds_that_learnt_and_what_is_not_finished(made_result: dict) -> None:
    text = "\n".join(retrieval_report.markdown_lines(made_result))
    summary, recall = text.split("## Associative recall (MQAR)")[:2]
    assert "| ALiBi | 0.86 ± 0.07 | 0.86 ± 0.07 |" in summary
    assert "| *chance* | 0.06 | 0.50 |" in summary
    assert "| distance / L_train | learnt | 1/4 | 2 | 4 |" in recall
    assert "| ALiBi | 1 of 2 | 0.86 ± 0.07 | 0.86 ± 0.07 | 0.86 ± 0.07 |" in recall
    assert "| ALiBi | 0.91 / 0.81 | 0.91 / 0.81 | 0.91 / 0.81 |" in text
    assert "- Not finished: 1 runs: NoPE, seed 0" in text and "- A note." in text


def test_the_figure_has_a_panel_per_task_with_chance_and_a_dot_per_seed(made_result: dict) -> None:
    ((name, (figure, caption)),) = retrieval_report.figures(made_result).items()
    assert name == "retrieval" and "chance" in caption
    assert len(figure.axes) == 2
    for axis, probe in zip(figure.axes, (PROBES["mqar"], PROBES["flipflop"]), strict=True):
        levels = {line.get_ydata()[0] for line in axis.lines if len(set(line.get_ydata())) == 1}
        assert {probe.chance, probe.guess} <= levels
        assert 1.0 in {line.get_xdata()[0] for line in axis.lines}
        dots = [line for line in axis.lines if line.get_marker() == "."]
        assert [len(line.get_xdata()) for line in dots] == [6, 6]
        assert axis.get_xscale() == "log"


@pytest.mark.usefixtures("short")
def test_a_result_holds_only_what_is_measured(tmp_path: Path) -> None:
    study = retrieval(COPY)
    run_study("retrieval", dataclasses.replace(COPY, methods=("nope",)), Execution(out=tmp_path))
    result = study_result(study, tmp_path)
    assert [outcome["name"] for outcome in result["outcomes"]] == ["NoPE"]
    assert result["unfinished"] == ["ALiBi, seed 0"]
    assert not RunFolders(tmp_path).folder(study.runs[1].config).exists()


def test_the_study_is_listed_with_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    study, _ = catalogue.load_study("retrieval", StudyOptions())
    assert "about two minutes per run" in study.needs
    assert (retrieval.__doc__ or "").startswith("Who finds what lies far back?")


def test_a_pattern_of_local_and_global_layers_has_both_in_the_two_layers_of_a_probe() -> None:
    position = study_module.probe_methods(SEQ_LEN)["Wavelet local, NoPE global"].position
    config = baevski_auli_config("probe", len(PROBES["copy"].words), position)
    layers = layer_configs(parse_layers(position), config.num_hidden_layers)
    assert [layer.method for layer in layers] == ["wavelet", "nope"]


def test_every_method_fits_the_model_of_the_probes() -> None:
    runs = retrieval(StudyOptions(seeds=1, corpus="task:copy")).runs
    assert {run.config.size for run in runs} == {"probe"}
    data = prepare_training("task:copy", "task:copy").training_set(64, 0, 1)[0]
    ids, labels = data["input_ids"][None], data["shift_labels"][None]
    for run in runs:
        model = BaevskiAuliForCausalLM(baevski_auli_config("probe", len(PROBES["copy"].words), run.config.position))
        loss = model(input_ids=ids, shift_labels=labels).loss
        loss.backward()
        learning = [p for p in model.parameters() if p.requires_grad]
        assert loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in learning), run.name
