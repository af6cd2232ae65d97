"""A run that diverges ends at once, says where, and leaves only checkpoints that are whole and finite."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from wavepos.data import prepare
from wavepos.training.config import TrainConfig
from wavepos.training.recipes import recipe
from wavepos.training.trainer import LanguageModelTrainer, train


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(["the", "wave", "of", "word"], size=12)) for _ in range(60)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    return dataclasses.replace(
        recipe("tiny", corpus=f"text:{tmp_path / 'corpus.txt'}", position="nope"),
        tokenizer="bpe:270",
        seq_len=16,
        steps=8,
        batch_tokens=64,
        micro_batch_tokens=32,
        warmup_steps=0,
        save_every=3,
        log_every=5,
        precision="fp32",
    )


def spoiled(monkeypatch: pytest.MonkeyPatch, update: int, *, weights: bool = False) -> list[list[int]]:
    """From that update on the second micro-batch's loss is nan, or the weights are; gives the items of each pass."""
    read: list[list[int]] = []
    step = LanguageModelTrainer.training_step

    def training_step(self: LanguageModelTrainer, model: nn.Module, inputs: dict, *rest: object) -> torch.Tensor:
        read.append(inputs["index"].tolist())
        self.divergence.add, add = (lambda loss, indices: None), self.divergence.add
        indices = inputs["index"]
        loss = step(self, model, inputs, *rest)
        self.divergence.add = add
        due = self.state.global_step + 1 >= update
        if due and weights:
            next(model.parameters()).grad.fill_(torch.inf)
        self.divergence.add(loss * torch.nan if due and not weights and len(read) % 2 == 0 else loss, indices)
        return loss

    monkeypatch.setattr(LanguageModelTrainer, "training_step", training_step)
    return read


def test_the_first_loss_that_is_not_finite_ends_the_run_and_so_does_the_same_command(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = prepare(config.corpus, config.tokenizer), tmp_path / "run"
    read = spoiled(monkeypatch, update=5)
    told = []
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="training diverged: the loss of update 5 of 8 is nan") as raised:
            train(config, out, data)
        told.append(str(raised.value))
    assert told[0] == told[1]
    blocks = ", ".join(map(str, sorted(read[9])))
    assert f"is nan, read from {blocks} of the blocks of 16 tokens of corpus 'text:" in told[0]
    assert f"the last good checkpoint is {out / 'checkpoints' / 'checkpoint-3'}. Give a lower learning_rate" in told[0]
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["checkpoint-3"]


def test_a_checkpoint_is_never_written_of_weights_that_are_not_finite(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(monkeypatch, update=3, weights=True)
    with pytest.raises(
        FloatingPointError, match="weights are not finite after update 3 of 8; no checkpoint was written before"
    ):
        train(
            dataclasses.replace(config, gradient_clip=0.0), tmp_path / "run", prepare(config.corpus, config.tokenizer)
        )
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_learning_rate_far_too_high_is_one_sentence(config: TrainConfig, tmp_path: Path) -> None:
    steep = dataclasses.replace(config, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match=r"training diverged: .* Give a lower learning_rate \(now 1e\+30\)"):
        train(steep, tmp_path / "run", prepare(config.corpus, config.tokenizer))
    for path in (tmp_path / "run" / "checkpoints").glob("*/model.safetensors"):
        assert all(bool(weights.isfinite().all()) for weights in load_file(path).values())


def test_a_start_that_fails_leaves_nothing_that_refuses_the_corrected_command(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = prepare(config.corpus, config.tokenizer), tmp_path / "run"
    with pytest.raises(ValueError, match="batch_tokens must be at most"):
        train(dataclasses.replace(config, batch_tokens=64_000, micro_batch_tokens=None), out, data)

    def no_memory(*arguments: object, **named: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelTrainer, "compute_loss", no_memory)
        with pytest.raises(MemoryError, match="32 tokens in one pass on each device: give --micro-batch-tokens 16 or"):
            train(config, out, data)
    record = train(dataclasses.replace(config, micro_batch_tokens=16, steps=4), out, data)
    assert record["status"] == "finished"
    assert [step for step, _ in record["losses"]] == [1]  # logged ones; the last update's is beside them
    assert 0.0 < record["last_loss"] < record["losses"][0][1]
