"""What a directory from a stranger must not do: run code, read files of its choice, write outside of itself."""

import builtins
import dataclasses
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from wavepos.cli import main
from wavepos.data import prepare, train_bpe
from wavepos.data.corpora import corpus_of_run
from wavepos.evaluate.harness.plan import HarnessConfig
from wavepos.models import convert
from wavepos.models.loading import load_model, load_saved_tokenizer
from wavepos.storage import MARKER, mark_complete, write_text
from wavepos.training.config import TrainConfig
from wavepos.training.recipes import recipe
from wavepos.training.trainer import train

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def wavepos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in an empty directory, on a terminal whose user says yes to everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["wavepos", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), " ".join((said.out + said.err).split())

    return call


def trap(folder: Path, model_type: str, auto: str, name: str = "config.json") -> Path:
    """A model whose config names code that leaves a file; where that file would be."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").exists():
        LlamaForCausalLM(
            LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=300)
        ).save_pretrained(folder)
        train_bpe(["wave near far"] * 3, vocab_size=270).save_pretrained(folder)
    ran = folder / "ran"
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Mine: pass\n")
    target = ["code.Mine", "code.Mine"] if auto == "AutoTokenizer" else "code.Mine"
    config = json.loads((folder / name).read_text())
    own = {"model_type": model_type} if name == "config.json" else {"tokenizer_class": "Unknown"}
    (folder / name).write_text(json.dumps({**config, **own, "auto_map": {auto: target}}))
    return ran


def run_json(folder: Path, corpus: str = "stdlib") -> None:
    record = {"status": "finished", "config": {"seq_len": 8, "corpus": corpus, "max_tokens": None, "position": "nope"}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "run"),
        ("eval", "run"),
        ("inspect", "run"),
        ("harness", "run", "--max-length", "64"),
        ("train", "--method", "rope", "--model", "llama", "--start-from", "run/model", "--dry-run"),
    ],
    ids=lambda command: command[0],
)
def test_no_command_runs_code_that_lies_in_a_model(command: tuple[str, ...], wavepos: Run, tmp_path: Path) -> None:
    if command[0] == "harness":
        pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    ran = trap(tmp_path / "run" / "model", "unheard_of", "AutoConfig")
    run_json(tmp_path / "run")
    status, said = wavepos(*command)
    assert status == 2
    assert "run/model asks to run code of its own (auto_map in its config), which is not run unasked" in said
    assert not ran.exists()


@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_code_runs_for_those_who_ask_for_it(what: str, wavepos: Run, tmp_path: Path) -> None:
    auto, name = ("AutoConfig", "config.json") if what == "model" else ("AutoTokenizer", "tokenizer_config.json")
    ran = trap(tmp_path / "there", "unheard_of", auto, name)
    load = load_model if what == "model" else load_saved_tokenizer
    with pytest.raises(ValueError, match=r"asks to run code of its own .* --trust-remote-code"):
        load(tmp_path / "there")
    assert not ran.exists()
    with pytest.raises((ValueError, AttributeError, TypeError)):  # this code is of no use
        load(tmp_path / "there", trust_remote_code=True)
    assert ran.exists()
    assert not HarnessConfig(max_length=8).trust_remote_code


def test_ruler_reads_the_tokenizer_without_code_that_lies_beside_it(tmp_path: Path, wavepos: Run) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    from wavepos.evaluate.harness.plan import RULER, Step
    from wavepos.evaluate.harness.step import load_tasks

    ran = trap(tmp_path / "there", "llama", "AutoConfig")
    tokenizer = json.loads((tmp_path / "there" / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["code.Mine", "code.Mine"]}
    (tmp_path / "there" / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    config = HarnessConfig(max_length=2000, tasks=(RULER[0],), lengths=(2000,), limit=1)
    load_tasks(Step(task=RULER[0], length=2000, max_length=2000), tmp_path / "there", config)
    assert not ran.exists()


@pytest.mark.parametrize(
    "corpus", ["text:/etc/passwd", "jsonl:/etc/passwd#a", "text:../up.txt", "hf:/etc", "wikitext103:~", "text:link.txt"]
)
def test_eval_reads_no_file_that_only_run_json_names(corpus: str, wavepos: Run, tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to("/etc/passwd")
    run_json(tmp_path / "run", corpus)
    for options in ((), ("--documents", "2")):
        status, said = wavepos("eval", "run", *options)
        assert status == 2
        assert f"was trained on corpus '{corpus}', files outside of the current directory" in said
        assert "give --corpus " in said


@pytest.mark.parametrize("corpus", ["stdlib", "hf:org/name#text", "wikitext103", "text:own.txt", "jsonl:a/b.jsonl#c"])
def test_texts_at_hand_are_read_again(corpus: str, wavepos: Run) -> None:
    assert corpus_of_run(Path("run"), {"corpus": corpus}) == corpus


class Payload:
    """Pickled, it makes a folder where it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_no_file_of_a_checkpoint_is_unpickled(name: str, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("wave near far\n" * 200)
    config: TrainConfig = recipe("tiny", corpus=f"text:{tmp_path / 'own.txt'}", position="nope")
    config = dataclasses.replace(
        config, tokenizer="bpe:270", seq_len=8, batch_tokens=16, steps=4, save_every=2, warmup_steps=1
    )
    data = prepare(config.corpus, config.tokenizer, cache_dir=tmp_path / "cache")

    def stop(done: float, total: float | None, note: str = "") -> None:
        if done == 3:
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        train(config, tmp_path / "run", data, stop)
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    (checkpoint / name).write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    facts = json.loads((checkpoint / MARKER).read_text())
    mark_complete(checkpoint, {key: facts[key] for key in facts if key not in ("files", "checksum")})
    with pytest.raises(ValueError, match=r"checkpoint-2 cannot be gone on from .*: delete it"):
        train(config, tmp_path / "run", data)
    assert not (tmp_path / "ran").exists()


def test_files_are_not_written_through_links_that_lie_there(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "run"
    folder.mkdir()
    outside.write_text("whole")
    for name in ("run.json", f".run.json.{os.getpid()}"):
        (folder / name).symlink_to(outside)
    write_text(folder / "run.json", "new")
    assert (outside.read_text(), (folder / "run.json").read_text()) == ("whole", "new")
    assert not (folder / "run.json").is_symlink()


def test_pytorch_weights_are_not_unpickled(tmp_path: Path) -> None:
    trap(tmp_path / "there", "llama", "AutoConfig")
    (tmp_path / "there" / "model.safetensors").unlink()
    torch.save(Payload(tmp_path / "ran"), tmp_path / "there" / "pytorch_model.bin")
    for load in (load_model, lambda path: convert(path, "nope")):
        with pytest.raises((ValueError, OSError, UnpicklingError)):
            load(tmp_path / "there")
    assert not (tmp_path / "ran").exists()
