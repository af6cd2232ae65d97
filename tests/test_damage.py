"""Damaged runs and models: each command names the file and what to do, and computes nothing from it."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wavepos.cli import main
from wavepos.data import prepare
from wavepos.training.recipes import recipe
from wavepos.training.trainer import train

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(["the", "wave", "of", "word"], size=12)) for _ in range(60)]
    (folder / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    corpus = f"text:{folder / 'corpus.txt'}"
    fields = {"tokenizer": "bpe:270", "seq_len": 16, "steps": 2, "batch_tokens": 64, "warmup_steps": 0}
    config = dataclasses.replace(recipe("tiny", corpus=corpus, position="nope"), **fields, precision="fp32")
    train(config, folder / "run", prepare(corpus, "bpe:270"))
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def wavepos(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["wavepos", *arguments])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0), " ".join("".join(capsys.readouterr()).split())
        return 0, " ".join("".join(capsys.readouterr()).split())

    return call


def without(key: str) -> Callable[[Path], None]:
    def remove(path: Path) -> None:
        record = json.loads(path.read_text())
        for place in (record, record["config"]):
            place.pop(key, None)
        del record["checksum"]
        path.write_text(json.dumps(record))

    return remove


def flip(path: Path) -> None:
    text = path.read_text()
    assert '"seq_len": 16' in text
    path.write_text(text.replace('"seq_len": 16', '"seq_len": 17'))


ADVICE = "restore it from a copy, or delete run to train anew"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_text(""), f"run/run.json is empty: {ADVICE}"),
        (lambda path: path.write_text("[]"), f"run/run.json must hold a JSON object, got list: {ADVICE}"),
        (lambda path: path.write_text("null"), f"run/run.json must hold a JSON object, got NoneType: {ADVICE}"),
        (lambda path: path.write_text("{}"), f"run/run.json must have a 'status' as runs have it, got None: {ADVICE}"),
        (lambda path: path.write_text("[" * 99_999), "run/run.json cannot be read as JSON"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "run/run.json cannot be read as JSON"),
        (lambda path: path.write_bytes(b"\xff" + path.read_bytes()), "run/run.json cannot be read as JSON"),
        (without("losses"), "run/run.json must have a 'losses' as runs have it"),
        (flip, "run/run.json is not what was written, its checksum differs"),
    ],
    ids=lambda value: value[:44] if isinstance(value, str) else "",
)
def test_a_damaged_record_is_named_by_every_command(
    run: Path, wavepos: Command, damage: Callable[[Path], None], told: str
) -> None:
    damage(run / "run.json")
    corpus = ("--corpus", f"text:{__file__}", "--tokenizer", "bpe:270")
    commands = [(name, "run") for name in ("eval", "generate", "report", "inspect")]
    commands += [("harness", "run", "--max-length", "64"), ("longbench", "run", "--max-length", "64")]
    commands.append(("train", "--method", "nope", *corpus, "--out", "run"))
    if "as runs have it" in told and "status" not in told:  # no other command needs it
        commands = [command for command in commands if command[0] in ("report", "train")]
    for command in commands:
        status, output = wavepos(*command)
        assert status == 2, command
        assert told in output, command


@pytest.mark.parametrize("key", ["config", "seq_len", "corpus"])
@pytest.mark.parametrize("command", ["eval", "report"])
def test_a_record_without_what_is_needed_of_it_is_named(run: Path, wavepos: Command, command: str, key: str) -> None:
    without(key)(run / "run.json")
    status, output = wavepos(command, "run")
    assert status == 2
    assert "run/run.json" in output


def inf_weights(path: Path) -> None:
    weights = load_file(path)
    name = next(name for name in weights if weights[name].is_floating_point())
    save_file({**weights, name: torch.full_like(weights[name], torch.inf)}, path, metadata={"format": "pt"})


def of_type(model_type: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": model_type}))

    return write


@pytest.mark.parametrize("marked", [True, False], ids=["listed", "of an older version"])
@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("model.safetensors", lambda path: path.write_bytes(b""), "run/model/model.safetensors cannot be read"),
        (
            "model.safetensors",
            lambda path: path.write_bytes(path.read_bytes()[:-9]),
            "model.safetensors cannot be read",
        ),
        ("model.safetensors", Path.unlink, "run/model"),
        ("model.safetensors", inf_weights, "run/model holds weights that are not finite, "),
        ("config.json", Path.unlink, "run/model"),
        ("config.json", lambda path: path.write_text("[]"), "run/model"),
        ("config.json", lambda path: path.write_text("{"), "config.json"),
        ("config.json", of_type("foreign"), "foreign"),
        ("config.json", of_type("llama"), "run/model"),
        ("config.json", lambda path: path.write_text(path.read_text().replace("270", "271")), "of shape"),
        ("tokenizer.json", Path.unlink, "run/model"),
        ("tokenizer.json", lambda path: path.write_text("{"), "run/model/tokenizer.json cannot be read as JSON"),
        ("tokenizer.json", lambda path: path.write_text("{}"), "run/model/tokenizer.json holds no tokenizer"),
        ("tokenizer_config.json", Path.unlink, "eos_token"),
        ("tokenizer_config.json", lambda path: path.write_text(""), "run/model/tokenizer_config.json is empty"),
    ],
    ids=lambda value: value[:44] if isinstance(value, str) else "",
)
def test_a_damaged_model_is_named(
    run: Path, finished: Path, wavepos: Command, name: str, damage: Callable[[Path], None], told: str, marked: bool
) -> None:
    damage(run / "model" / name)
    if not marked:
        (run / "model" / "complete.json").unlink()
    corpus = f"text:{finished.parent / 'corpus.txt'}"
    status, output = wavepos("eval", "run", "--corpus", corpus, "--lengths", "16")
    assert status == 2, output
    assert (f"Error: run/model is damaged: {name} " if marked else told) in output
    assert "Traceback" not in output


def test_a_result_is_shown_before_it_is_written_and_goes_where_it_is_told(
    run: Path, finished: Path, wavepos: Command
) -> None:
    evaluate = ("eval", "run", "--corpus", f"text:{finished.parent / 'corpus.txt'}", "--lengths", "16")
    status, output = wavepos(*evaluate, "--out", "run/run.json/no.json")
    assert status == 2
    assert output.index("nonoverlapping") < output.index("the result could not be written to run/run.json/no.json")
    assert "name another file by --out" in output
    status, output = wavepos(*evaluate, "--out", "elsewhere.json")
    assert (status, json.loads(Path("elsewhere.json").read_text())["perplexities"][0]["seq_len"]) == (0, 16)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"RANK": "x"}, "the environment's RANK must be a number, as torchrun sets it, got 'x'"),
        ({"RANK": "3"}, "RANK must be less than its WORLD_SIZE=1, as torchrun sets both, got 3"),
        ({"WORLD_SIZE": "many"}, "the environment's WORLD_SIZE must be a number"),
    ],
    ids=lambda value: value[:44] if isinstance(value, str) else "",
)
def test_an_environment_that_is_not_torchruns_is_named(
    run: Path, wavepos: Command, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], told: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    status, output = wavepos("eval", "run", "--lengths", "16")
    assert status == 2
    assert told in output
