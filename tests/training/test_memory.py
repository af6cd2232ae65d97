"""The memory plan against what a training step really holds."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from wavepos.training.build import build_model
from wavepos.training.config import TrainConfig
from wavepos.training.memory import GIB, memory_plan, planned_vocabulary
from wavepos.training.recipes import recipe
from wavepos.training.trainer import optimizer_and_schedule

VOCABULARY = 300


def config(model: Any, **fields: Any) -> TrainConfig:
    base = recipe("tiny", model=model, corpus="stdlib", position=fields.pop("position", "wavelet"))
    options = {"seq_len": 64, "batch_tokens": 512, "warmup_steps": 0, "precision": "fp32"}
    return dataclasses.replace(base, **{**options, **fields})


def step(config: TrainConfig) -> tuple[torch.nn.Module, torch.optim.Optimizer, int]:
    """A model after an update, its optimizer, and the bytes that autograd kept of the forward pass."""
    model = build_model(config, VOCABULARY).train()
    optimizer, _ = optimizer_and_schedule(config, model)
    ids = torch.zeros(config.batch_tokens // config.seq_len, config.seq_len, dtype=torch.int64)
    kept: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        if not isinstance(x, torch.nn.Parameter):
            kept[x.untyped_storage().data_ptr()] = x
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        loss = model(input_ids=ids, shift_labels=ids).loss
    size = sum(x.untyped_storage().nbytes() for x in kept.values())
    loss.backward()
    optimizer.step()
    return model, optimizer, size


@pytest.mark.parametrize("position", ["wavelet", "rotary", "alibi"])
@pytest.mark.parametrize("model", ["llama", "baevski-auli"])
def test_the_plan_is_what_a_step_holds(model: str, position: str) -> None:
    run = config(model, position=position)
    trained, optimizer, activations = step(run)
    plan = {name: size * GIB for name, size in memory_plan(run, VOCABULARY).items()}
    parameters = list(trained.parameters())
    assert plan["weights"] == sum(p.nbytes for p in parameters)
    assert plan["gradients"] == sum(p.grad.nbytes for p in parameters if p.grad is not None)
    states = [x for state in optimizer.state.values() for x in state.values() if x.dim() > 0]
    assert plan["optimizer"] == sum(x.nbytes for x in states)
    assert plan["activations"] + plan["logits"] == pytest.approx(activations, rel=0.03)
    assert plan["total"] == pytest.approx(
        sum(plan[name] for name in plan if name not in ("parameters", "learning", "total"))
    )


def test_the_plan_counts_what_devices_share() -> None:
    one = memory_plan(config("llama"), VOCABULARY)
    copied = memory_plan(config("llama"), VOCABULARY, num_devices=4)
    assert copied["weights"] == copied["buckets"] == one["weights"]
    assert copied["activations"] < one["activations"]
    assert copied["logits"] == one["logits"] / 4
    sharded = memory_plan(config("llama", sharding="fsdp"), VOCABULARY, num_devices=4)
    for name in ("weights", "gradients", "optimizer"):
        assert sharded[name] == one[name] / 4
    assert 0.0 < sharded["gathered"] < 2 * one["weights"]


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer() -> None:
    whole = memory_plan(config("llama"), VOCABULARY)
    kept = memory_plan(config("llama", gradient_checkpointing=True), VOCABULARY)
    inputs = 4 * 512 * 256 * 4 / GIB  # layers, tokens, hidden_size, bytes
    assert kept["activations"] - inputs == pytest.approx(whole["activations"] / 4, rel=0.05)


@pytest.mark.parametrize("model", ["llama", "baevski-auli"])
def test_of_layers_that_differ_the_one_that_keeps_most_is_planned_for(model: str) -> None:
    heavy, light = {"method": "wavelet", "query_bias": "zeros"}, "nope"
    options = {"gradient_checkpointing": True}
    kept = {
        name: memory_plan(config(model, position=position, **options), VOCABULARY)["activations"]
        for name, position in {
            "heavy": heavy, "light": light, "mixed": [light, heavy, light, light],
            "pattern": {"local": light, "global": heavy, "every": 4},
        }.items()
    }  # fmt: skip
    assert kept["mixed"] == kept["pattern"] == kept["heavy"] > kept["light"]


def test_a_tokenizer_that_is_not_at_hand_is_guessed(tmp_path: Path) -> None:
    assert planned_vocabulary("bpe:4096") == (4096, None)
    assert planned_vocabulary("words") == (267_735, "WikiText-103's")
    assert planned_vocabulary(f"file:{tmp_path}") == (32_000, "Llama-2's")
