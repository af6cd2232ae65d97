"""The queries, keys and values of a layer of our models, read out while the model reads a text.

The layers' normalised inputs are caught by forward hooks and projected again with the layers' own weights, so that the
model's code stays as it is. The two families name their parts differently; `_parts` is the one place that knows.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wavepos.analysis.attention_maps import AttentionInputs
from wavepos.models import BaevskiAuliForCausalLM, WaveposLlamaForCausalLM
from wavepos.models.projections import Projected
from wavepos.positions import Position


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """Of a layer: the norm before attention, the maps to q, k, v, and what positions it."""

    norm: nn.Module
    project: Any
    position: Position
    relative: nn.Module | None
    output: nn.Module


def num_layers(model: nn.Module) -> int:
    """The number of layers of one of our models."""
    return len(_layers(model))


@torch.no_grad()
def attention_inputs(model: nn.Module, input_ids: Tensor, layer: int) -> AttentionInputs:
    """What the attention of a layer sees when the model reads the tokens at once.

    Args:
        model: `BaevskiAuliForCausalLM` or `WaveposLlamaForCausalLM`, in evaluation.
        input_ids: int64 [T] or [1, T], on the model's device.
        layer: from 0; negative numbers count from the last.

    Returns:
        Queries, keys and values before their position, and the position.

    Raises:
        TypeError: a model of another family.
        ValueError: a layer that the model does not have, more than one sequence, or a model in training.
    """
    if input_ids.dim() == 1:
        input_ids = input_ids[None]
    if input_ids.dim() != 2 or input_ids.shape[0] != 1:
        raise ValueError(f"input_ids must be one sequence, [T] or [1, T], got shape {tuple(input_ids.shape)}")
    if model.training:
        raise ValueError("model must be in evaluation (model.eval()): with dropout there is no one map")
    count = num_layers(model)
    if not -count <= layer < count:
        raise ValueError(f"layer must lie between {-count} and {count - 1}, got {layer}")
    parts = _parts(model, layer % count)
    caught: list[Tensor] = []
    handle = parts.norm.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    try:
        model(input_ids, use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    q, k, v = parts.project(caught[0])
    relative, gates = Projected.of(parts.relative, parts.position, caught[0], q.shape[1])
    return AttentionInputs(
        q_BHTD=q, k_BGSD=k, v_BGSD=v, position=parts.position, relative_states_BHTE=relative, gates_BHS=gates
    )


@torch.no_grad()
def attention_output(model: nn.Module, input_ids: Tensor, layer: int) -> Tensor:
    """What the layer's own attention gave, heads side by side before the output map, [T, C]: a check of the above."""
    caught: list[Tensor] = []
    output = _parts(model, layer % num_layers(model)).output
    handle = output.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
    try:
        model(input_ids.reshape(1, -1), use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    return caught[0][0]


def _layers(model: nn.Module) -> Any:
    if isinstance(model, BaevskiAuliForCausalLM):
        return model.layers
    if isinstance(model, WaveposLlamaForCausalLM):
        return model.model.layers
    raise TypeError(
        f"model must be BaevskiAuliForCausalLM or WaveposLlamaForCausalLM, got {type(model).__name__}; other models "
        "give AttentionInputs of their own"
    )


def _parts(model: nn.Module, layer: int) -> _Parts:
    block: Any = _layers(model)[layer]
    if isinstance(model, BaevskiAuliForCausalLM):
        heads = model.config.num_attention_heads

        def project(x_BTC: Tensor) -> tuple[Tensor, ...]:
            qkv = block.qkv(x_BTC).view(*x_BTC.shape[:2], 3, heads, -1)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            return q, k, v

        positions: Any = model.positions
        relatives: Any = model.relative
        return _Parts(
            norm=block.attention_norm,
            project=project,
            position=positions[layer],
            relative=relatives[str(layer)] if str(layer) in relatives else None,  # noqa: SIM401 - it has no get
            output=block.out,
        )
    own = block.self_attn

    def project_llama(x_BTC: Tensor) -> tuple[Tensor, ...]:
        maps = (own.q_proj, own.k_proj, own.v_proj)
        q, k, v = (one(x_BTC).unflatten(-1, (-1, own.config.head_dim)).transpose(1, 2) for one in maps)
        return q, k, v

    return _Parts(
        norm=block.input_layernorm,
        project=project_llama,
        position=own.position,
        relative=own.r_proj,
        output=own.o_proj,
    )
