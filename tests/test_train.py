"""Training: schedules, optimizers, and runs that are cut off and go on as if they had not been."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim import SGD
from transformers import AutoModelForCausalLM

from wavepos.data import Blocks, PreparedData, prepare
from wavepos.models import baevski_auli_config
from wavepos.train import TrainConfig, build_model, learning_rate, optimizer_and_schedule, recipe, train
from wavepos.training_callbacks import MARKER, complete_checkpoint

WORDS = ["the", "wave", "of", "a", "word", "is", "near", "and", "the", "word", "of", "a", "wave", "is", "far"]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, size=12)) for _ in range(400)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    return f"text:{tmp_path / 'corpus.txt'}"


def small(corpus: str, **fields: object) -> TrainConfig:
    base = recipe("tiny", corpus=corpus, position="wavelet")
    options: dict = {
        "tokenizer": "bpe:300",
        "seq_len": 16,
        "steps": 12,
        "batch_tokens": 64,
        "warmup_steps": 3,
        "save_every": 4,
        "log_every": 1,
        "precision": "fp32",
    }
    return dataclasses.replace(base, **{**options, **fields})


def prepared(config: TrainConfig, tmp_path: Path) -> PreparedData:
    return prepare(config.corpus, config.tokenizer, cache_dir=tmp_path / "cache")


def test_a_run_leaves_model_record_and_logs_and_is_found_again(corpus: str, tmp_path: Path) -> None:
    config, out = small(corpus), tmp_path / "run"
    data = prepared(config, tmp_path)
    seen: list[tuple[int, int, float | None]] = []
    record = train(config, out, data, lambda *state: seen.append(state))
    assert [step for step, _, _ in seen] == list(range(1, 13))
    assert [step for step, _ in record["losses"]] == list(range(1, 13))
    assert record["losses"][-1][1] < record["losses"][0][1]
    assert json.loads((out / "run.json").read_text())["config"] == json.loads(json.dumps(dataclasses.asdict(config)))
    assert record["environment"]["packages"]["torch"] == torch.__version__
    assert (out / "model" / "model.safetensors").exists()
    assert (out / "model" / "tokenizer.json").exists()
    assert list((out / "tensorboard").iterdir())
    before = (out / "run.json").stat().st_mtime_ns
    assert train(config, out, data) == json.loads(json.dumps(record))
    assert (out / "run.json").stat().st_mtime_ns == before


def test_another_config_in_the_same_directory_is_refused(corpus: str, tmp_path: Path) -> None:
    config = small(corpus, steps=2, warmup_steps=1)
    data = prepared(config, tmp_path)
    train(config, tmp_path / "run", data)
    with pytest.raises(ValueError, match=r"holds a run with another config \(learning_rate: 0.002 there, 0.5 here\)"):
        train(dataclasses.replace(config, learning_rate=0.5), tmp_path / "run", data)


def test_validation_logs_the_loss_of_the_valid_split_and_changes_no_weight(corpus: str, tmp_path: Path) -> None:
    config = small(corpus, model="llama", seq_len=16)
    data = prepared(config, tmp_path)
    train(config, tmp_path / "without", data)
    record = train(dataclasses.replace(config, validate_every=5), tmp_path / "with", data)
    assert [step for step, _ in record["valid_losses"]] == [5, 10, 12]
    one, other = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("without", "with"))
    assert one == other
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "with" / "model").eval()
    blocks = Blocks(data.valid, 16)
    items = [blocks[index] for index in range(len(blocks))]
    ids, targets = (torch.stack([item[key] for item in items]) for key in ("input_ids", "shift_labels"))
    with torch.no_grad():
        assert record["valid_losses"][-1][1] == pytest.approx(float(model.token_losses(ids, targets).mean()), rel=1e-5)


SCRIPT = """
import sys, json
from pathlib import Path
from wavepos.data import prepare
from wavepos.train import TrainConfig, train
config = TrainConfig(**json.loads(sys.argv[1]))
data = prepare(config.corpus, config.tokenizer, cache_dir=Path(sys.argv[3]))
def observe(step, steps, loss):
    print(step, flush=True)
train(config, Path(sys.argv[2]), data, observe)
"""


def cut_off(config: TrainConfig, out: Path, cache: Path, after: int, number: int) -> int:
    """Start the run in a process of its own and send it the signal after that update; returns its exit status."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(dataclasses.asdict(config)), str(out), str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == after:
                os.kill(process.pid, number)
                break
        process.stdout.read()
        return process.wait(timeout=120)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_run_that_is_cut_off_goes_on_to_the_same_losses(corpus: str, tmp_path: Path, number: int) -> None:
    log_every = 4 if number == signal.SIGKILL else 1  # Ctrl-C saves where it comes and so cuts a mean in two
    config = small(corpus, steps=40, optimizer="nag", learning_rate=0.05, log_every=log_every)
    data = prepared(config, tmp_path)
    whole = train(config, tmp_path / "whole", data)
    status = cut_off(config, tmp_path / "cut", tmp_path / "cache", after=10, number=number)
    assert status != 0
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["status"] == "started"
    assert complete_checkpoint(tmp_path / "cut" / "checkpoints") is not None
    steps: list[int] = []
    resumed = train(config, tmp_path / "cut", data, lambda step, total, loss: steps.append(step))
    assert steps[0] > 4
    assert resumed["losses"] == whole["losses"]
    assert (tmp_path / "cut/model/model.safetensors").read_bytes() == (
        tmp_path / "whole/model/model.safetensors"
    ).read_bytes()


def test_checkpoints_cut_off_in_the_middle_are_not_taken(tmp_path: Path) -> None:
    assert complete_checkpoint(tmp_path) is None
    for number in (5, 10, 15):
        (tmp_path / f"checkpoint-{number}").mkdir()
    for number in (5, 10):
        (tmp_path / f"checkpoint-{number}" / MARKER).write_text("{}")
    assert complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert not (tmp_path / "checkpoint-15").exists()


def test_the_papers_schedule() -> None:
    config = recipe("paper", corpus="wikitext103", position="wavelet")
    assert learning_rate(config, 0) == 1e-7
    assert learning_rate(config, 8_000) == pytest.approx(0.5, rel=1e-6)
    assert learning_rate(config, 16_000) == pytest.approx(1.0)
    assert learning_rate(config, 16_000 + 135_000) == pytest.approx(0.50005)
    assert learning_rate(config, 286_000) == pytest.approx(1e-4)
    assert (config.gradient_clip, config.optimizer, config.steps) == (0.1, "nag", 286_000)
    assert config.micro_batch(8) == (18, 1)
    assert config.micro_batch(1) == (18, 8)


def test_nag_is_fairseqs() -> None:
    """fairseq's update, written out, with a learning rate that changes at every step."""
    rng = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(5, generator=rng, dtype=torch.float64))
    theirs, buffer, old_lr = parameter.detach().clone(), torch.zeros(5, dtype=torch.float64), None
    optimizer = SGD([parameter], lr=1.0, momentum=0.99, nesterov=True)
    for step in range(8):
        lr = 0.1 + 0.05 * step
        gradient = torch.randn(5, generator=rng, dtype=torch.float64)
        correct = 1.0 if old_lr is None else lr / old_lr
        theirs += 0.99 * 0.99 * correct * buffer - (1.0 + 0.99) * lr * gradient
        buffer = 0.99 * correct * buffer - lr * gradient
        old_lr = lr
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = gradient
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), theirs)


def test_weight_decay_spares_embeddings_norms_biases_and_positions() -> None:
    config = dataclasses.replace(recipe("tiny", corpus="stdlib", position="transformer_xl"), weight_decay=0.1)
    model = build_model(config, 300)
    optimizer, _ = optimizer_and_schedule(config, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    assert decayed == {f"layers.{layer}.{part}.weight" for layer in range(4) for part in ("qkv", "out", "up", "down")}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"save_every": 5, "log_every": 2}, "save_every must be a multiple of log_every=2, .* got 5"),
        ({"learning_rate": -1.0}, "learning_rate must be positive, got -1.0"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, nag, got 'sgd'"),
        ({"warmup_steps": 13}, "warmup_steps must lie between 0 and steps=12, got 13"),
        ({"size": "huge"}, "size must be one of tiny, small, paper for model baevski-auli, got 'huge'"),
        ({"position": {"method": "wavelet", "scale": 1}}, "unknown key 'scale'"),
    ],
    ids=str,
)
def test_wrong_configs_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small("stdlib", **fields)


def test_a_batch_that_cannot_be_divided_is_named() -> None:
    with pytest.raises(ValueError, match="batch_tokens=64, 3 devices, micro-batch 21, seq_len=16"):
        small("stdlib").micro_batch(3)


def test_a_corpus_shorter_than_a_block_is_named(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("only a few words\nand a line\n", encoding="utf-8")
    config = small(f"text:{tmp_path / 'short.txt'}", seq_len=128, batch_tokens=256)
    with pytest.raises(ValueError, match=r"seq_len=128 needs at least 129 tokens for one block"):
        train(config, tmp_path / "run", prepared(config, tmp_path))


def test_sizes_have_their_names() -> None:
    with pytest.raises(ValueError, match="size must be one of tiny, small, paper"):
        baevski_auli_config("huge", 300, "nope")  # type: ignore[arg-type]
