"""The queries, keys and values of a layer of our models, read out while the model reads a text.

A decoder's are those with which its family's code asked for attention: with the family's own norms and, where it was
kept, its rotation. A Baevski–Auli model's layer asks nobody: its normalised input is caught and projected again.
"""

from typing import Any

import torch
from torch import Tensor, nn

from wavepos.analysis.attention_maps import AttentionInputs
from wavepos.models import BaevskiAuliForCausalLM
from wavepos.models.decoder.layer import LayerCall
from wavepos.models.decoder.model import DecoderLM, attention_of
from wavepos.models.projections import Projected

_OUTPUTS = ("o_proj", "dense")
"""Names of the output map in families of decoders."""


def num_layers(model: nn.Module) -> int:
    """The number of layers of one of our models."""
    return len(_layers(model))


@torch.no_grad()
def attention_inputs(model: nn.Module, input_ids: Tensor, layer: int) -> AttentionInputs:
    """What the attention of a layer sees when the model reads the tokens at once.

    Args:
        model: `BaevskiAuliForCausalLM` or a decoder of ours, in evaluation.
        input_ids: int64 [T] or [1, T], on the model's device.
        layer: from 0; negative numbers count from the last.

    Returns:
        Queries, keys and values before their position, the position, the layer's scale and window.

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
    read = _of_baevski_auli if isinstance(model, BaevskiAuliForCausalLM) else _of_decoder
    return read(model, input_ids, layer % count)


@torch.no_grad()
def attention_output(model: nn.Module, input_ids: Tensor, layer: int) -> Tensor:
    """What the layer's own attention gave, heads side by side before the output map, [T, C]: a check of the above."""
    caught: list[Tensor] = []
    block: Any = _layers(model)[layer]
    if isinstance(model, BaevskiAuliForCausalLM):
        output = block.out
    else:
        own = attention_of(block)
        output = next(getattr(own, name) for name in _OUTPUTS if name in own._modules)
    handle = output.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
    try:
        model(input_ids.reshape(1, -1), use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    return caught[0][0]


def _layers(model: nn.Module) -> Any:
    if isinstance(model, BaevskiAuliForCausalLM):
        return model.layers
    if isinstance(model, DecoderLM):
        return model.base_model.layers
    raise TypeError(
        f"model must be BaevskiAuliForCausalLM or a decoder of ours with a language model's head, got "
        f"{type(model).__name__}; other models give AttentionInputs of their own"
    )


def _of_decoder(model: Any, input_ids: Tensor, layer: int) -> AttentionInputs:
    calls: list[LayerCall] = []
    handle = attention_of(_layers(model)[layer]).register_forward_pre_hook(
        lambda _module, _args, kwargs: calls.append(kwargs["attention_mask"]), with_kwargs=True
    )
    try:
        model(input_ids, use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    call = calls[0]
    assert call.given is not None
    q_BHTD, k_BGSD, v_BGSD, softmax_scale, window = call.given
    return AttentionInputs(
        q_BHTD=q_BHTD,
        k_BGSD=k_BGSD,
        v_BGSD=v_BGSD,
        position=call.position,
        relative_states_BHTE=call.relative_states,
        gates_BHS=call.gates,
        softmax_scale=softmax_scale,
        window=window,
    )


def _of_baevski_auli(model: Any, input_ids: Tensor, layer: int) -> AttentionInputs:
    block: Any = model.layers[layer]
    caught: list[Tensor] = []
    handle = block.attention_norm.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    try:
        model(input_ids, use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    x_BTC, heads, position = caught[0], model.config.num_attention_heads, model.positions[layer]
    qkv = block.qkv(x_BTC).view(*x_BTC.shape[:2], 3, heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    relatives: Any = model.relative
    projection = relatives[str(layer)] if str(layer) in relatives else None  # noqa: SIM401 - it has no get
    relative, gates = Projected.of(projection, position, x_BTC, heads)
    return AttentionInputs(
        q_BHTD=q, k_BGSD=k, v_BGSD=v, position=position, relative_states_BHTE=relative, gates_BHS=gates
    )
