"""Runs that begin with a trained model: converted, continued, resumed, planned; the position that they take."""

import json
import logging
from pathlib import Path

import pytest
import torch
from small_families import small_model
from small_start import VOCAB_SIZE, save_start
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from wavepos import cli
from wavepos.models import from_llama
from wavepos.positions import parse_position, position_dict
from wavepos.training.build import build_model
from wavepos.training.recipes import recipe

SCALING = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small RoPE Llama with its tokenizer, as a user has one on disk, and a text."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB_SIZE, head_dim=16, rope_parameters=SCALING, **sizes))
    return save_start(tmp_path_factory.mktemp("llama"), model)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["wavepos", *arguments])
    cli.main()


def test_a_llama_is_converted_trained_and_continued(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", "llama", "--corpus", f"text:{llama / 'text.txt'}", "--seq-len", "32", "--batch-tokens", "128"]
    common += ["--steps", "12", "--save-every", "10", "--precision", "fp32"]
    first = tmp_path / "first"
    method = '{"method": "wavelet", "scales": [1, 2], "query_bias": "recency"}'
    run(monkeypatch, "train", *common, "--start-from", str(llama), "--method", method, "--out", str(first))
    record = json.loads((first / "run.json").read_text())
    assert record["config"]["tokenizer"] == f"file:{llama}"
    assert record["losses"][-1][1] < record["losses"][0][1]
    second = tmp_path / "second"
    stretched = '{"method": "wavelet", "stretch": 2}'
    start = str(first / "model")
    run(monkeypatch, "train", *common, "--start-from", start, "--method", stretched, "--out", str(second))
    position = AutoModelForCausalLM.from_pretrained(second / "model").config.position
    assert (list(position["scales"]), position["stretch"], position["query_bias"]) == ([1.0, 2.0], 2, "recency")
    continued = json.loads((second / "run.json").read_text())["losses"]
    assert continued[0][1] < record["losses"][0][1]
    run(monkeypatch, "generate", str(second), "--max-new-tokens", "4")
    assert "def" in capsys.readouterr().out


def test_a_model_of_baevski_and_aulis_goes_on_with_another_position(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--corpus", f"text:{llama / 'text.txt'}", "--seq-len", "32", "--batch-tokens", "128"]
    common += ["--steps", "12", "--save-every", "10", "--precision", "fp32"]
    first, second = tmp_path / "first", tmp_path / "second"
    run(monkeypatch, "train", *common, "--tokenizer", "bpe:300", "--method", "wavelet", "--out", str(first))
    start = ["--start-from", str(first / "model")]
    stretched = '{"method": "wavelet", "stretch": 2}'
    run(monkeypatch, "train", *common, *start, "--method", stretched, "--out", str(second))
    before, after = (json.loads((folder / "run.json").read_text()) for folder in (first, second))
    assert after["config"]["tokenizer"] == f"file:{first / 'model'}"
    assert after["config"]["position"]["stretch"] == 2
    assert after["losses"][0][1] < before["losses"][0][1]
    with pytest.raises(SystemExit) as stop:
        run(
            monkeypatch,
            "train",
            *common,
            *start,
            "--size",
            "small",
            "--method",
            "wavelet",
            "--out",
            str(tmp_path / "3"),
        )
    assert stop.value.code == 2
    assert "must hold a model with hidden_size=512, as the run has it, got 192" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_llama_becomes_local_and_global_layers_is_evaluated_and_continued(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", "llama", "--corpus", f"text:{llama / 'text.txt'}", "--seq-len", "32", "--batch-tokens", "128"]
    common += ["--steps", "6", "--save-every", "10", "--precision", "fp32"]
    first, second = tmp_path / "first", tmp_path / "second"
    pattern = (
        '{"local": {"method": "rotary", "window": 9}, "global": {"method": "nope", "temperature": "log"}, "every": 2}'
    )
    run(monkeypatch, "train", *common, "--start-from", str(llama), "--method", pattern, "--out", str(first))
    position = json.loads((first / "run.json").read_text())["config"]["position"]
    assert (position["local"]["theta"], position["local"]["window"], position["every"]) == (5e5, 9, 2)
    assert position["global"]["temperature"] == {"form": "log", "start": 0.168}
    text = ("--corpus", f"text:{llama / 'text.txt'}")
    run(monkeypatch, "eval", str(first), "--lengths", "32", "64", "--max-tokens", "200", *text)
    theta = '{"method": "rotary", "theta": 1e4}'
    run(monkeypatch, "train", *common, "--start-from", str(first / "model"), "--method", theta, "--out", str(second))
    config = AutoModelForCausalLM.from_pretrained(second / "model").config
    assert config.position["local"] == {**position["local"], "theta": 1e4}
    assert (config.position["global"], config.sliding_window) == (position["global"], 9)
    run(monkeypatch, "train", "--model", "llama", "--method", pattern, "--dry-run")
    assert '"every": 2' in capsys.readouterr().out


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "gpt_neox"])
def test_another_family_is_planned_converted_trained_evaluated_and_generated_from(
    family: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start, out, text = tmp_path / "start", tmp_path / "run", f"text:{llama / 'text.txt'}"
    small_model(family, vocab_size=300).save_pretrained(start)
    AutoTokenizer.from_pretrained(llama).save_pretrained(start)
    common = ["--model", "llama", "--corpus", text, "--seq-len", "32", "--batch-tokens", "128", "--precision", "fp32"]
    common += ["--steps", "12", "--save-every", "10", "--start-from", str(start), "--method", '{"method": "rotary"}']
    common += ["--learning-rate", "1e-3", "--out", str(out)]
    run(monkeypatch, "train", *common, "--gradient-checkpointing", "--dry-run")
    count = sum(x.numel() for x in AutoModelForCausalLM.from_pretrained(start).parameters())
    assert f"Parameters: {count:,}" in capsys.readouterr().out
    run(monkeypatch, "train", *common)
    record = json.loads((out / "run.json").read_text())
    assert record["losses"][-1][1] < record["losses"][0][1]
    assert type(AutoModelForCausalLM.from_pretrained(out / "model")).__name__.startswith("Wavepos")
    run(monkeypatch, "eval", str(out), "--lengths", "32", "64", "--max-tokens", "200", "--corpus", text)
    run(monkeypatch, "generate", str(out), "--max-new-tokens", "4")


def test_frozen_weights_stay_and_what_the_position_learns_is_trained_and_saved(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", "llama", "--corpus", f"text:{llama / 'text.txt'}", "--seq-len", "32", "--batch-tokens", "128"]
    common += ["--steps", "4", "--save-every", "2", "--precision", "fp32", "--start-from", str(llama), "--freeze"]
    gated = '{"method": "wavelet", "gate": "forget", "query_bias": "recency"}'
    run(monkeypatch, "train", *common, "--method", gated, "--out", str(tmp_path / "run"))
    before = LlamaForCausalLM.from_pretrained(llama).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").state_dict()
    start = from_llama(llama, json.loads(gated)).state_dict()
    learned = after.keys() - before.keys()
    assert {key.rpartition("self_attn.")[2] for key in learned} >= {"r_proj.weight", "position.query_bias_HD"}
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(not torch.equal(after[key], start[key]) for key in learned if "query_bias" in key)
    run(monkeypatch, "train", *common, "--method", gated, "--dry-run")
    assert "gradients" in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "300")
    for given, message in ((["--method", "rotary"], "freeze=True leaves nothing to train, for position"),):
        with pytest.raises(SystemExit):
            run(monkeypatch, "train", *common, *given, "--out", str(tmp_path / "other"))
        assert message in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(monkeypatch, "train", "--model", "llama", "--method", gated, "--freeze")
    assert "freeze=True needs start_from" in capsys.readouterr().out


def test_rotary_keeps_the_llamas_own_rotation(llama: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = recipe("tiny", model="llama", corpus="stdlib", position="rotary", start_from=str(llama))
    expected = {"method": "rotary", "theta": 5e5, "scaling": {"rope_type": "linear", "factor": 2.0}}
    assert config.position == position_dict(parse_position(expected))
    with caplog.at_level(logging.WARNING, logger="wavepos"):
        model = build_model(config, 300)
    assert "nothing else changed" in caplog.text
    x = torch.randint(0, 300, (1, 40))
    with torch.no_grad():
        theirs = LlamaForCausalLM.from_pretrained(llama)(x).logits
        torch.testing.assert_close(model(x).logits, theirs, atol=1e-5, rtol=0.0)


def test_a_dry_run_plans_without_weights(
    llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "train", "--model", "llama", "--start-from", str(llama), "--method", "wavelet", "--dry-run")
    count = sum(x.numel() for x in from_llama(llama).parameters())
    assert f"Parameters: {count:,}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model", "llama", "--start-from", "no/where"],
            "must be a directory or hub name of a model, got 'no/where'",
        ),
        (
            ["--model", "baevski-auli", "--start-from", "{llama}"],
            "start_from must be a model of type 'wavepos_baevski_auli' for model baevski-auli, got one of type 'llama'",
        ),
        (
            ["--model", "llama", "--start-from", "{llama}", "--tokenizer", "bpe:400"],
            "400 words, got 300",
        ),
    ],
)
def test_wrong_starts_are_one_line(
    arguments: list[str],
    message: str,
    llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    given = [part.format(llama=llama) for part in arguments]
    common = ["--method", "wavelet", "--corpus", f"text:{llama / 'text.txt'}", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "train", *given, *common, "--seq-len", "32", "--batch-tokens", "128")
    assert stop.value.code == 2
    assert message in capsys.readouterr().out
