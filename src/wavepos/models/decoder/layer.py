"""What `wavepos.attention` needs inside a family's own layer, and the functions that bring it there.

A family's layers take keyword arguments that they do not know and hand `attention_mask` and the cache on to their
attention, which hands `attention_mask` to the function that attn_implementation names. So the context of a forward pass
(`models/context.py`) enters each layer as the keyword `CONTEXT`; a hook puts it in place of the layer's
attention_mask; a hook of its attention makes a `LayerCall` of it and of the hidden states, which stands for mask and
cache there; and `attend` finds it where a mask would be. Nothing is kept on a module, so layers that are read again for
their gradients, on other devices or in other threads find what belongs to their call.

Shape suffixes: B batch, H query heads, G key/value heads, T queries, S keys, D head dim, C width of hidden states.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_utils import AttentionInterface

from wavepos.models.base import AttentionInputs
from wavepos.models.context import Context, first_kept, num_slots, of_kept
from wavepos.models.projections import Projected, updated
from wavepos.ops.attention import autocast_dtype
from wavepos.ops.call import Backend
from wavepos.positions import NoPE, Position

CONTEXT = "wavepos_context"
IMPLEMENTATIONS: dict[str, Backend] = {"wavepos": "auto", "wavepos_eager": "reference"}
"""attn_implementation of our decoders, and the backend that computes."""

_CACHES = ("past_key_values", "layer_past")
_UNSERVED = {
    "softcap": "soft-capping of scores",
    "s_aux": "attention sinks",
    "position_bias": "a position bias of its own",
    "head_mask": "a mask of heads",
}


class LayerCall:
    """One call of a layer's attention: it stands where the family's code has a mask and a cache.

    Args:
        position: the layer's.
        context: the forward pass's.
        projected: what the position reads of the hidden states.
        cache: the layer's cache; None: there is none.
    """

    def __init__(self, position: Position, context: Context, projected: Projected, cache: Cache | None) -> None:
        self.position = position
        self.context = context
        self.relative_states, self.gates = projected
        self.cache = cache
        self.given: tuple[Tensor, Tensor, Tensor, float | None, int | None] | None = None
        """What the family's code asked attention for, once it has: `inputs`' arguments, for who looks into a model."""
        self.layer_idx = -1
        self.sliding = False

    def update(self, k_BGSD: Tensor, v_BGSD: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What the family's code asks of a cache: these keys, rotated, and their gates go in, all of them come out."""
        assert self.cache is not None
        k_BGSD = _autocast(k_BGSD)
        slots = torch.arange(k_BGSD.shape[2], device=k_BGSD.device) + self.context.query_offset
        where = (layer_idx, {"cache_position": slots})
        k_BGSD, v_BGSD, self.gates = updated(self.cache, self._rotated(k_BGSD), v_BGSD, self.gates, *where)
        self.layer_idx, self.sliding = layer_idx, bool(self.cache.is_sliding[layer_idx])
        return k_BGSD, v_BGSD

    def inputs(
        self, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, softmax_scale: float | None, window: int | None
    ) -> AttentionInputs:
        """What attention is computed from; k and v are those that `update` gave, or without a cache this call's own."""
        self.given = (q_BHTD, k_BGSD, v_BGSD, softmax_scale, window)
        offset, mask, gates, length = (
            self.context.query_offset,
            self.context.key_padding_mask,
            self.gates,
            q_BHTD.shape[2],
        )
        q_BHTD, k_BGSD, v_BGSD = (_autocast(x) for x in (q_BHTD, k_BGSD, v_BGSD))
        windows = [one for one in (window, self.position.window) if one is not None]
        position, window = self.position, min(windows, default=None)
        if self.cache is None:
            k_BGSD = self._rotated(k_BGSD)
        if self._keeps_rotated:
            q_BHTD = self._rotated(q_BHTD)
            q_BHTD = q_BHTD if position.temperature is None else position.temperature(q_BHTD, offset)
            position = NoPE()
        if self.sliding:
            self._check_sliding(window)
            first = first_kept(offset, length, k_BGSD.shape[2])
            mask = of_kept(mask, first, k_BGSD.shape[2])
            offset = offset - first
        if isinstance(offset, int):  # a static cache holds empty slots too
            filled = offset + length
            k_BGSD, v_BGSD = k_BGSD[:, :, :filled], v_BGSD[:, :, :filled]
            gates = None if gates is None else gates[:, :, :filled]
        return AttentionInputs(
            q_BHTD=q_BHTD,
            k_BGSD=k_BGSD,
            v_BGSD=v_BGSD,
            position=position,
            relative_states=self.relative_states,
            gates=gates,
            key_padding_mask=mask,
            document_ids=self.context.document_ids,
            query_offset=offset,
            window=window,
            softmax_scale=softmax_scale,
        )

    @property
    def _keeps_rotated(self) -> bool:
        """Whether keys are rotated once, before they are kept."""
        return self.position.rotates and not (self.position.needs_table or self.position.follows_length)

    def _rotated(self, x_BHTD: Tensor) -> Tensor:
        if not self._keeps_rotated:
            return x_BHTD
        offset, length = self.context.query_offset, x_BHTD.shape[2]
        limit = length if isinstance(offset, int) or self.cache is None else num_slots(self.cache)
        return self.position.rotated(x_BHTD, offset, limit)

    def _check_sliding(self, window: int | None) -> None:
        """Refuse a cache that drops keys where they are still seen, or where it must be known how many came before."""
        what = f"a cache that drops keys does not fit layer {self.layer_idx} with {type(self.position).__name__}"
        if window is None:
            raise ValueError(
                f"{what}: make the cache from this model's config, whose layer_types say which layers slide"
            )
        if self.position.temperature is not None or self.position.follows_length:
            why = (
                "a length temperature"
                if self.position.temperature is not None
                else "a rotation that follows the length"
            )
            raise ValueError(
                f"{what} and {why}: give DynamicCache() without a config, which keeps them, or use_cache=False"
            )


def _autocast(x: Tensor) -> Tensor:
    """As SDPA takes it: under autocast a family's rotation and norms leave queries and keys in float32."""
    dtype = autocast_dtype(x.device.type)
    return x if dtype is None else x.to(dtype)


def attend(  # noqa: PLR0913 - transformers' attention function
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention function "wavepos": [B,T,H·D], and the weights [B,H,T,S] where asked for.

    Args:
        module: the family's attention, with our position.
        query, key, value: [B,H,T,D] and twice [B,G,S,D], with the family's own norms and rotation.
        attention_mask: the layer's `LayerCall`.
        scaling: the family's softmax_scale.
        dropout: of the weights; the family gives 0 in evaluation.
        sliding_window: the family's own window in this layer.
        kwargs: what families hand to other functions; what would change scores is refused.

    Raises:
        ValueError: a layer that is not one of our models', or has what is not served.
    """
    call = attention_mask
    if call is None and "position" in module._modules:
        raise ValueError(
            "context parallelism is not served: a shard of the sequence does not know its displacements. "
            "Shard the batch or the weights (DDP, FSDP, tensor parallelism)"
        )
    if not isinstance(call, LayerCall):
        raise ValueError(
            f"attn_implementation 'wavepos' belongs to wavepos's own classes, and {type(module).__name__} was called "
            f"with {type(call).__name__} for their context: wavepos.models.convert makes one of another model"
        )
    for name, what in _UNSERVED.items():
        if kwargs.get(name) is not None:
            raise ValueError(
                f"{type(module).__name__} asks for {what} ({name}), which wavepos.attention does not serve"
            )
    config: Any = module.config
    if query.shape[1] != config.num_attention_heads and call.position.per_head:
        raise ValueError(
            "tensor parallelism is served for methods that are the same for every head (nope, rotary, shaw, wavelet "
            "without query_bias) and learn no temperature, "
            f"got {type(call.position).__name__} with {query.shape[1]} of {config.num_attention_heads} heads here"
        )
    inputs = call.inputs(query, key, value, scaling, sliding_window)
    return inputs.attended(IMPLEMENTATIONS[config._attn_implementation], dropout, call.context.output_attentions)


def hand_context(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A layer's pre-hook: the context in place of its attention_mask."""
    context = kwargs.pop(CONTEXT)
    return args, {**kwargs, "attention_mask": context}


def begin_call(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The pre-hook of a layer's attention: the call in place of its attention_mask and its cache."""
    context = kwargs["attention_mask"]
    if not isinstance(context, Context):  # what context parallelism takes away is named by `attend`
        return args, kwargs
    hidden_BTC: Tensor = args[0] if args else kwargs["hidden_states"]
    position: Any = attention.position
    projection: Any = attention.r_proj
    config: Any = attention.config
    held = [name for name in _CACHES if kwargs.get(name) is not None]
    projected = Projected.of(projection, position, hidden_BTC, config.num_attention_heads)
    call = LayerCall(position, context, projected, kwargs[held[0]] if held else None)
    return args, {**kwargs, "attention_mask": call, **dict.fromkeys(held, call)}


for _name in IMPLEMENTATIONS:
    AttentionInterface.register(_name, attend)
