"""A memory plan for a training run, made without data, weights or a device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from wavepos.train import TrainConfig, build_model, uses_bf16

GIB = 2.0**30
STATES = {"adamw": 2, "nag": 1}


def memory_plan(config: TrainConfig, vocab_size: int, num_devices: int = 1) -> dict[str, float]:
    """What one device holds while it trains, in GiB, and the number of parameters.

    Weights, gradients and optimizer states are float32 and exact. Activations are what autograd keeps of one forward
    pass through the layers, counted on tensors without storage; in bf16 they are an estimate, for autocast keeps some
    of them in float32. Logits are the float32 ones and their gradient.

    Args:
        config: the run.
        vocab_size: V.
        num_devices: devices that share the batch; every one holds all weights (DDP).
    """
    with torch.device("meta"):
        model: Any = build_model(config, vocab_size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    blocks, _ = config.micro_batch(num_devices)
    dtype = torch.bfloat16 if uses_bf16(config.precision) else torch.float32
    hidden = torch.empty(blocks, config.seq_len, model.config.hidden_size, device="meta", dtype=dtype)
    activations = _kept_bytes(lambda: _through_layers(model.to(dtype).train(), hidden.requires_grad_()))
    first_band = model.config.cutoffs[0] if model.config.cutoffs else vocab_size
    plan = {
        "weights": 4 * parameters / GIB,
        "gradients": 4 * parameters / GIB,
        "optimizer": 4 * STATES[config.optimizer] * parameters / GIB,
        "activations": activations / GIB,
        "logits": 2 * 4 * blocks * config.seq_len * first_band / GIB,
    }
    return {"parameters": float(parameters), **plan, "total": sum(plan.values())}


def _through_layers(model: Any, hidden: Tensor) -> Tensor:
    for index in range(len(model.layers)):
        hidden = model.layer(index, hidden)
    return hidden


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

    with saved_tensors_hooks(pack, lambda x: x):
        forward()
    return sum(kept.values())
