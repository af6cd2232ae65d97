"""A memory plan for a training run, made without data, weights or a device."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from wavepos.console import console
from wavepos.data.probe_tasks import is_probe, open_probe
from wavepos.data.tokenizers import BPE, Saved, load_tokenizer, parse_tokenizer
from wavepos.models.decoder.model import DecoderLM
from wavepos.training.build import build_model
from wavepos.training.config import TrainConfig, uses_bf16

GIB = 2.0**30
STATES = {"adamw": 2, "nag": 1}
WIKITEXT103_VOCABULARY = 267_735
LLAMA2_VOCABULARY = 32_000
GATHERED_LAYERS = 2
"""Layers that FSDP2 holds whole at once: the one at work and the one fetched ahead."""


def memory_plan(config: TrainConfig, vocab_size: int, num_devices: int = 1) -> dict[str, float]:
    """What one device holds while it trains, in GiB, and the numbers of parameters and of those that learn.

    Weights, gradients and optimizer states are float32 and exact: all of them on each device with DDP, which keeps the
    gradients a second time in the buckets it sends, and an N-th with FSDP, which gathers what is at work: two layers,
    embeddings and head in the precision of the matrix products, and their gradients. Without FSDP autocast keeps bf16
    copies of the weights from the forward to the backward pass. Activations are what autograd keeps of one forward pass
    through the layers, counted on tensors without storage; in bf16 they are an estimate from below, for autocast
    keeps some of them in float32. Logits are the float32 ones and their gradient.

    Args:
        config: the run.
        vocab_size: V.
        num_devices: devices that share the batch.
    """
    with torch.device("meta"):
        model: Any = build_model(config, vocab_size)
    blocks, _ = config.micro_batch(num_devices)
    dtype = torch.bfloat16 if uses_bf16(config.precision) else torch.float32
    parameters = _count(model)
    learning = sum(x.numel() for x in model.parameters() if x.requires_grad)
    layers = model.base_model.layers
    shares = num_devices if config.sharding == "fsdp" else 1
    held = 4 * parameters / shares
    trained = 4 * learning / shares
    first_band = vocab_size if config.is_decoder or not model.config.cutoffs else model.config.cutoffs[0]
    plan = {"weights": held, "gradients": trained, "optimizer": STATES[config.optimizer] * trained}
    if config.sharding == "fsdp":
        outside = parameters - sum(_count(layer) for layer in layers)
        plan["gathered"] = 2 * dtype.itemsize * (outside + GATHERED_LAYERS * max(_count(layer) for layer in layers))
    elif num_devices > 1:
        plan["buckets"] = trained
    if config.sharding == "none" and dtype == torch.bfloat16:
        plan["bf16 copies"] = 2 * parameters
    hidden = torch.empty(blocks, config.seq_len, model.config.hidden_size, device="meta", dtype=dtype)
    plan["activations"] = _activations(model.to(dtype).train(), hidden.requires_grad_(), config.gradient_checkpointing)
    plan["logits"] = 2 * 4 * blocks * config.seq_len * first_band
    in_gib = {name: size / GIB for name, size in plan.items()}
    counts = {"parameters": float(parameters), "learning": float(learning)}
    return {**counts, **in_gib, "total": sum(in_gib.values())}


def planned_vocabulary(spec: str) -> tuple[int, str | None]:
    """Words of a tokenizer that may not be at hand, and whose they are if they could not be counted."""
    if is_probe(spec):
        return len(open_probe(spec).words), None
    match parse_tokenizer(spec):
        case BPE(vocab_size=vocab_size):
            return vocab_size, None
        case Saved(folder=folder) if (Path(folder) / "tokenizer.json").is_file():
            return len(load_tokenizer(folder)), None
        case Saved():
            return LLAMA2_VOCABULARY, "Llama-2's"
        case _:
            return WIKITEXT103_VOCABULARY, "WikiText-103's"


def print_plan(config: TrainConfig, devices: int) -> None:
    """Print the whole config, the parameters and the memory plan of one of that many devices."""
    vocab_size, whose = planned_vocabulary(config.tokenizer)
    plan = memory_plan(config, vocab_size, devices)
    console.print_json(json.dumps(dataclasses.asdict(config)))
    if whose is not None:
        console.print(f"Vocabulary: taken as {whose} {vocab_size:,}; without data it cannot be counted.")
    blocks, accumulation = config.micro_batch(devices)
    parameters, learning = int(plan.pop("parameters")), int(plan.pop("learning"))
    console.print(
        f"Parameters: {parameters:,}{'' if learning == parameters else f', of which {learning:,} are trained'}"
    )
    console.print(
        f"An update: {devices} device(s) × {accumulation} pass(es) × {blocks} blocks × {config.seq_len} tokens"
    )
    table = Table("memory of one device", "GiB")
    for name, gib in plan.items():
        table.add_row(name, f"{gib:.2f}")
    console.print(table)


def _activations(model: Any, hidden: Tensor, checkpointing: bool) -> int:
    """Bytes kept of the layers' forward pass: of checkpointed ones the inputs, and all of the one computed again."""
    positions = model.config.position_configs
    if not checkpointing:
        return _kept_bytes(lambda: _through_layers(model, hidden, range(len(positions))))
    each_kind = (positions.index(own) for own in dict.fromkeys(positions))
    most = max(_kept_bytes(lambda at=at: _through_layers(model, hidden, [at])) for at in each_kind)  # type: ignore[misc]
    return len(positions) * hidden.nbytes + most


def _through_layers(model: Any, hidden: Tensor, indices: Iterable[int]) -> Tensor:
    if isinstance(model, DecoderLM):
        return _through_decoder(model.base_model, hidden, indices)
    for index in indices:
        hidden, _ = model.layer(index, hidden)
    return hidden


def _through_decoder(model: Any, hidden: Tensor, indices: Iterable[int]) -> Tensor:
    """Through layers of a family of transformers, each with what the whole model hands to it."""
    handed: list[dict[str, Any]] = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda _layer, _args, kwargs: handed.append(dict(kwargs)), prepend=True, with_kwargs=True
        )
        for layer in model.layers
    ]
    try:
        with torch.no_grad():
            model(inputs_embeds=hidden, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    for index in indices:
        hidden = model.layers[index](hidden, **handed[index])
    return hidden


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _kept_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes of the distinct tensors that autograd keeps for the backward pass, parameters aside."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # a storage's identity is its own only while it lives

    def pack(x: Tensor) -> Tensor:
        if not isinstance(x, torch.nn.Parameter):
            storage = x.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
            alive.append(x)
        return x

    with saved_tensors_hooks(pack, lambda x: x), _FlashMemory():
        forward()
    return sum(kept.values())


class _FlashMemory(TorchFunctionMode):
    """Without a device torch computes attention densely and keeps L×L weights, as none does that trains."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention and args[0].device.type == "meta":
            return _Flash.apply(*args[:3])  # type: ignore[no-untyped-call] # torch leaves it untyped
        return func(*args, **(kwargs or {}))


class _Flash(torch.autograd.Function):
    """What a fused kernel keeps: its input, its output and the log-sum-exp of each row."""

    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor) -> Tensor:
        out_BHTD = torch.empty_like(q_BHTD)
        lse_BHT = q_BHTD.new_empty(q_BHTD.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q_BHTD, k_BGSD, v_BGSD, out_BHTD, lse_BHT)
        return out_BHTD
