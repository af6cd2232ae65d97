"""transformers' own T5 and Inkling models with their relative biases computed in memory linear in the length.

Both hand a dense bias [B,H,T,S] to their attention function. Here the function gets what the bias is made of, T5's few
learned values or Inkling's relative states and bank, and `wavepos.attention` computes the rest. Weights, their names
and the config stay; a saved model does not know of it, so the call is made again after loading.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from wavepos.ops.attention import attention
from wavepos.positions import LearnedRelative, NoPE, Position, T5Bias

NAME = "wavepos_bias"
"""The attention function, as `config._attn_implementation` names it."""


def memory_linear(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its relative biases computed by `wavepos.attention`: the same numbers, memory linear in T + S.

    Encoder, decoder and cross attention of T5, padding, dynamic caches and training; Inkling's text layers, their
    windows and length scaling. Dropout of attention weights takes the dense reference: set it to 0 for long input.

    Args:
        model: a model of transformers with layers of T5 or Inkling; it is changed.

    Returns:
        The model itself.

    Raises:
        ValueError: no such layers in it; when it is called: static caches, packed rows, weights asked for.

    Example:
        >>> from transformers import T5Config, T5EncoderModel
        >>> model = memory_linear(T5EncoderModel(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1)))
        >>> model(input_ids=torch.zeros(1, 5, dtype=torch.int64)).last_hidden_state.shape
        torch.Size([1, 5, 16])
    """
    found = [(module, kind) for module in model.modules() if (kind := _kind(module)) is not None]
    if not found:
        raise ValueError(
            f"model must have layers of T5 or Inkling, got {type(model).__name__}: wavepos.models.convert takes "
            "decoders without a bias of their own"
        )
    for module, prepare in found:
        prepare(module)
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            part.config._attn_implementation = NAME
    return model


def _kind(module: nn.Module) -> Callable[[Any], None] | None:
    return {"T5Attention": _prepare_t5, "InklingRelativeLogits": _prepare_inkling}.get(type(module).__name__)


def _prepare_t5(module: Any) -> None:
    position: Position = NoPE()  # of layers that look at the encoder's output, and that get the first layer's
    if module.has_relative_attention_bias:
        with torch.random.fork_rng(devices=[]):
            position = T5Bias(
                module.n_heads,
                num_buckets=module.relative_attention_num_buckets,
                max_distance=module.relative_attention_max_distance,
                bidirectional=not module.is_decoder,
            )
        del position.weight
    module.register_forward_pre_hook(partial(_hand_position, position), with_kwargs=True)


def _hand_position(
    position: Position, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A pre-hook: a position where T5 has a bias, which it hands on from layer to layer."""
    if kwargs.get("position_bias") is None:
        position = copy.copy(position)
        if isinstance(position, T5Bias):
            position.weight = module.relative_attention_bias.weight.mT
        kwargs = {**kwargs, "position_bias": position}
    return args, kwargs


def _prepare_inkling(module: Any) -> None:
    states = type(module).__name__, (type(module),), {"forward": _states}
    module.__class__ = type(*states)


def _states(_: nn.Module, relative_states: Tensor, *__: Tensor) -> Tensor:
    """In place of a bias: what it is made of, [B,H,T,E]."""
    return relative_states.transpose(1, 2)


def _position_of(module: Any, bias: Any) -> tuple[Position, Tensor | None]:
    if isinstance(bias, Position):
        return bias, None
    bank: Tensor = module.rel_logits_proj.proj
    with torch.random.fork_rng(devices=[]):
        position = LearnedRelative(relative_dim=bank.shape[0], extent=bank.shape[1])
    del position.weight
    position.weight = bank.mT  # type: ignore[assignment] # a view of the layer's own parameter
    return position, bias


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: [B,T,H,D]; attention_mask is bool [B,S], True where a key takes part."""
    if kwargs.get("output_attentions"):
        raise ValueError("output_attentions=True is not served by memory_linear: weights are T·S")
    position, states = _position_of(module, position_bias)
    causal: Any = module.is_causal
    out = attention(
        query,
        key,
        value,
        position=position,
        causal=causal,
        window=kwargs.get("sliding_window"),
        softmax_scale=kwargs.get("scaling"),
        dropout=kwargs.get("dropout", 0.0),
        key_padding_mask=attention_mask,
        relative_states=states,
    )
    return out.transpose(1, 2), None


def _mask(  # noqa: PLR0913 - transformers' mask function
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int | Tensor = 0,
    mask_function: Any = None,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    allow_is_bidirectional_skip: bool = False,
    **_: Any,
) -> Tensor | None:
    """transformers' mask function: the padding alone, bool [B,S], for `_attend` knows the rest."""
    if isinstance(q_offset, Tensor) or (
        not allow_is_bidirectional_skip and q_offset + q_length != kv_offset + kv_length
    ):
        raise ValueError("static caches are not served by memory_linear: give a DynamicCache")
    if not allow_is_bidirectional_skip and q_length > 1 and mask_function is not None:
        query = torch.arange(1, q_length, device=device)[None] + q_offset
        rows = torch.arange(batch_size, device=device)[:, None]
        if not bool(torch.as_tensor(mask_function(rows, torch.zeros_like(rows), query, query - 1)).all()):
            raise ValueError("packed rows are not served by memory_linear: give each document a row of its own")
    if attention_mask is None:
        return None
    return attention_mask[:, kv_offset : kv_offset + kv_length].bool()


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)
