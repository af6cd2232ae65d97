"""LoRA: what is trained and what is not, runs that are cut off, the merged model, values that are refused."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_families import small_model
from small_start import VOCAB_SIZE, save_start
from torch import Tensor
from transformers import AutoModelForCausalLM

from wavepos import cli
from wavepos.data import PreparedData, prepare_training
from wavepos.models import convert
from wavepos.training.checkpoints import whole_checkpoint
from wavepos.training.config import TrainConfig
from wavepos.training.lora import read_lora
from wavepos.training.recipes import recipe
from wavepos.training.trainer import train

GATED = {"method": "wavelet", "query_bias": "recency", "gate": "forget"}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("qwen"), small_model("qwen3", vocab_size=VOCAB_SIZE))


def small(start: Path, **fields: Any) -> TrainConfig:
    corpus = f"text:{start / 'text.txt'}"
    base = recipe("tiny", model="llama", corpus=corpus, position=GATED, start_from=str(start))
    options = {"seq_len": 16, "batch_tokens": 64, "steps": 4, "warmup_steps": 1, "save_every": 2, "precision": "fp32"}
    return dataclasses.replace(base, **{**options, "log_every": 1, "lora": {"rank": 4}, **fields})


def data_of(config: TrainConfig) -> PreparedData:
    return prepare_training(config.corpus, config.tokenizer)


def weights(folder: Path) -> dict[str, Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_linear_layers_and_what_the_position_learns_move_and_nothing_else(qwen: Path, tmp_path: Path) -> None:
    config = small(qwen)
    record = train(config, tmp_path, data_of(config))
    before, after = convert(qwen, GATED).state_dict(), weights(tmp_path / "model")
    assert after.keys() == before.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    linear = {name for name in before if "_proj" in name}
    assert moved - linear == {name for name in before if ".position." in name}
    assert linear <= moved
    assert all(
        int(torch.linalg.matrix_rank(after[name] - before[name], atol=1e-6)) <= 4
        for name in moved & linear - {name for name in linear if ".r_proj." in name}
    )
    assert record["losses"][-1][1] < record["losses"][0][1]
    assert record["parameters"] == sum(parameter.numel() for parameter in convert(qwen, GATED).parameters())


def test_a_run_that_is_cut_off_goes_on_as_if_it_had_not_been(
    qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(qwen, lora={"rank": 2, "targets": ["q_proj", "down_proj"]}, gradient_checkpointing=True)
    data = data_of(config)
    train(config, tmp_path / "whole", data)

    def crash(step: int, *_: Any) -> None:
        if step == 3:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(config, tmp_path / "cut", data, crash)
    checkpoint = whole_checkpoint(tmp_path / "cut" / "checkpoints")
    assert checkpoint is not None
    held = load_file(checkpoint / "learned.safetensors")
    assert not list(checkpoint.glob("model*"))
    assert all("lora_" in name or ".position." in name or ".r_proj." in name for name in held)
    assert {name.split(".")[4] for name in held if "lora_" in name} == {"q_proj", "down_proj"}
    with monkeypatch.context() as other, pytest.raises(ValueError, match="are not those that the run began with"):
        other.setattr("wavepos.models.loading.weights_digest", lambda _: "another")
        train(config, tmp_path / "cut", data)
    train(config, tmp_path / "cut", data)
    whole, cut = weights(tmp_path / "whole" / "model"), weights(tmp_path / "cut" / "model")
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


def test_the_command_leaves_a_model_that_other_commands_read(
    qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["wavepos", *arguments])
        cli.main()

    common = ["--model", "llama", "--start-from", str(qwen), "--corpus", f"text:{qwen / 'text.txt'}", "--seq-len", "16"]
    common += ["--batch-tokens", "64", "--steps", "4", "--precision", "fp32", "--method", json.dumps(GATED)]
    lora = ["--lora", "rank=4", "alpha=4", "targets=q_proj,v_proj"]
    run("train", *common, *lora, "--dry-run")
    assert "of which" in capsys.readouterr().out
    run("train", *common, *lora, "--out", str(tmp_path))
    asked = json.loads((tmp_path / "run.json").read_text())["config"]["lora"]
    assert asked == {"rank": 4, "alpha": 4.0, "targets": ["q_proj", "v_proj"]}
    run("eval", str(tmp_path), "--corpus", f"text:{qwen / 'text.txt'}", "--lengths", "16", "32", "--max-tokens", "200")
    run("generate", str(tmp_path), "--max-new-tokens", "4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rank"], "lora takes words such as rank=16, each key once, got 'rank'"),
        (["alpha=4"], "lora takes rank=16, and may take alpha=32 and targets=q_proj,v_proj, got no rank"),
        (["rank=16", "dropout=0.1"], "got 'dropout'"),
        (["rank=0"], "lora's rank must be a whole number of at least 1, got 0"),
        (["rank=many"], "lora's rank must be a whole number of at least 1, got 'many'"),
        (["rank=4", "alpha=-1"], "lora's alpha must be a positive number, got -1"),
        (["rank=4", "targets="], "lora's targets must be names of linear layers"),
    ],
)
def test_bad_values_are_refused_in_a_sentence(words: list[str], message: str) -> None:
    with pytest.raises(ValueError) as error:
        read_lora(words)
    assert message in str(error.value)


def test_what_does_not_go_with_lora_is_refused(qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fields, message in (
        ({"freeze": True}, "lora and freeze=True exclude each other"),
        ({"sharding": "fsdp"}, "sharding='fsdp' is not served with lora"),
        ({"start_from": None}, "lora needs start_from"),
        ({"model": "baevski-auli"}, "lora is served for model llama or qwen3, got model='baevski-auli'"),
    ):
        with pytest.raises(ValueError, match=message):
            small(qwen, **fields)
    config = small(qwen, lora={"rank": 4, "targets": ["q_porj"]})
    with pytest.raises(ValueError, match=r"some of down_proj, .*v_proj, got 'q_porj': did you mean 'q_proj'?"):
        train(config, tmp_path / "run", data_of(config))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"lora needs PEFT: pip install 'wavepos\[lora\]'"):
        train(small(qwen), tmp_path / "other", data_of(config))
    assert not (tmp_path / "other").exists()
