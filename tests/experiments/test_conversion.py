"""The study of conversions: what goes on from what, and how."""

import dataclasses
import json
from pathlib import Path

import pytest

from wavepos.experiments.conversion import UPDATES, convert
from wavepos.experiments.study import Evaluation, StudyOptions
from wavepos.experiments.tasks import Task, perform, task_from_json


def test_all_runs_go_on_from_the_rope_model_and_differ_in_position_and_lora_alone() -> None:
    runs = convert(StudyOptions(seeds=2)).runs
    parents = [run.config for run in runs if run.begins_with is None]
    assert [parent.seed for parent in parents] == [0, 1]
    assert {(parent.model, parent.position["method"]) for parent in parents} == {("qwen3", "rotary")}
    found = {}
    for run in (run for run in runs if run.begins_with is not None):
        assert run.begins_with in parents
        assert (run.config.seed, run.config.steps) == (run.begins_with.seed, UPDATES)
        found[run.name] = (run.config.position["method"], run.config.lora is not None)
    assert found == {
        "RoPE": ("rotary", False),
        "Wavelet, recency start": ("wavelet", False),
        "Wavelet, recency start, LoRA": ("wavelet", True),
        "RoPE, dropped": ("nope", False),
    }
    with pytest.raises(ValueError, match="takes no methods: --only chooses its rows"):
        convert(StudyOptions(methods=("alibi",)))


def test_a_lora_run_of_a_study_goes_on_from_another_run_of_it(corpus: str, tmp_path: Path) -> None:
    run = next(run for run in convert(StudyOptions(corpus=corpus)).runs if run.config.lora)
    assert run.begins_with is not None
    small = {"tokenizer": "bpe:300", "seq_len": 16, "batch_tokens": 32, "steps": 2, "warmup_steps": 1}
    parent, config = (dataclasses.replace(one, **small) for one in (run.begins_with, run.config))
    read = Evaluation(lengths=(16, 32), protocols=("whole",), tokens=64)
    task = Task(title="", folder=tmp_path / "lora", config=config, evaluations=(read,), begins_with=parent)
    perform(task_from_json(task.to_json()), lambda *_: None)
    assert task.is_done
    position = json.loads((tmp_path / "lora" / "model" / "config.json").read_text())["position"]
    assert (position["method"], position["query_bias"]) == ("wavelet", "recency")
