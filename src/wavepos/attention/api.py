"""The one attention call: it checks its input, asks the position for its terms and hands them to a backend."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import get_args

import torch
from torch import Tensor

from wavepos.attention.choice import REFERENCE_LIMIT, Backend, chosen_backend
from wavepos.attention.mask import Mask
from wavepos.positions.terms import Position, ReadsRelativeStates, ScoreTerms


def attention(  # noqa: PLR0913 - the public call: one argument a property of attention
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    position: Position,
    causal: bool = True,
    backend: Backend = "auto",
    softmax_scale: float | None = None,
    dropout: float = 0.0,
    key_padding_mask: Tensor | None = None,
    document_ids: Tensor | None = None,
    query_offset: int | Tensor = 0,
    relative_states: Tensor | None = None,
) -> Tensor:
    """Attention with a positional method: softmax(softmax_scale · (q·k + r·p(δ)) + b) v, δ = m − n (Eq. 10).

    Queries stand at positions query_offset … query_offset + T − 1, keys at 0 … S − 1. With a cache of S keys that
    already holds the T newest ones, query_offset is S − T.

    Args:
        q: queries [B,H,T,D]; float32, float64, float16 or bfloat16.
        k: keys [B,G,S,D], G dividing H (grouped-query attention), of q's dtype and device.
        v: values [B,G,S,D].
        position: `Wavelet`, `Rotary`, `ALiBi`, `T5Bias`, `ShawRelative`, `TransformerXLRelative`, `LearnedRelative` or
            `NoPE`.
        causal: a query sees keys at its own position and before. False is served for `NoPE` and `Rotary` only: tables
            over displacements start at 0.
        backend: "banded" (exact, memory linear in T + S, no dropout), "triton" (one fused CUDA kernel, head_dim 64 and
            128, no key_padding_mask), "reference" (dense, T·S memory, float32) or "auto": on CUDA triton for several
            queries with a table or bias that it serves, once it has given the reference's numbers on this device;
            else banded; for what banded refuses the reference up to 2**28 scores (B·H·T·S).
        softmax_scale: factor on q·k + r·p; None: 1/√D.
        dropout: probability with which an attention weight is dropped; apply it in training only.
        key_padding_mask: bool [B,S], True where a key takes part (the sense of SDPA's and transformers' masks).
        document_ids: integers [B,S]; a query sees keys of its own document only.
        query_offset: position of the first query, in tokens. An int64 tensor without dimensions serves steps that are
            compiled once for all positions (static caches): causal, with T·S memory, without document_ids; `Rotary`
            then needs keys that are already rotated.
        relative_states: [B,H,T,E] in q's dtype, what `LearnedRelative` multiplies with its table; None elsewhere.

    Returns:
        [B,H,T,D] in q's dtype; queries that see no key give zero.

    Raises:
        ValueError: shapes, dtypes or values that do not fit together, named with what was got and what is taken.
    """
    mask = _checked_mask(q, k, v, query_offset, causal, key_padding_mask, document_ids)
    if not causal and position.needs_table:
        raise ValueError(f"causal=False is served for NoPE and Rotary only, got {type(position).__name__}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    scale = 1.0 / math.sqrt(q.shape[-1]) if softmax_scale is None else softmax_scale
    dtype = _autocast_dtype(q.device.type)
    if dtype is not None:  # as SDPA does; the precision inside is the backend's
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        relative_states = None if relative_states is None else relative_states.to(dtype)
    with _no_autocast(q.device.type):
        if isinstance(query_offset, Tensor):
            _check_slots(position, mask, q, query_offset, backend, dropout)
            terms = _terms(position, q, k, mask.query_offset, relative_states)
            from wavepos.attention.slots import slot_attention

            return slot_attention(terms, v, mask, query_offset, scale)
        terms = _terms(position, q, k, mask.query_offset, relative_states)
        match chosen_backend(backend, terms, mask, scale, dropout):
            case "banded":
                from wavepos.attention.banded import banded_attention

                return banded_attention(terms, v, mask, scale, position.factors)
            case "triton":
                from wavepos.attention.triton import triton_attention

                return triton_attention(terms, v, mask, scale, dropout)
            case "reference":
                from wavepos.attention.reference import reference_attention

                return reference_attention(terms, v, mask, scale, dropout)


def attention_map(
    q: Tensor,
    k: Tensor,
    *,
    position: Position,
    key_padding_mask: Tensor | None = None,
    document_ids: Tensor | None = None,
    query_offset: int | Tensor = 0,
    relative_states: Tensor | None = None,
) -> Tensor:
    """The weights that causal `attention` gives each value, to be looked at; memory grows as T·S.

    Args:
        q, k, position, key_padding_mask, document_ids, query_offset, relative_states: as `attention` takes them.

    Returns:
        [B,H,T,S], float32 (float64 for float64 input); rows of queries that see no key are zero.

    Raises:
        ValueError: as `attention`; a tensor as query_offset, for weights are not looked at in a compiled step.
    """
    from wavepos.attention.reference import attention_weights

    if isinstance(query_offset, Tensor):
        raise ValueError("attention_map takes an int as query_offset, got a tensor")
    mask = _checked_mask(q, k, k, query_offset, True, key_padding_mask, document_ids)
    with _no_autocast(q.device.type):
        terms = _terms(position, q, k, query_offset, relative_states)
        return attention_weights(terms, mask, 1.0 / math.sqrt(q.shape[-1]))


def _autocast_dtype(device: str) -> torch.dtype | None:
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def _no_autocast(device: str) -> AbstractContextManager[object]:
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _terms(position: Position, q: Tensor, k: Tensor, query_offset: int, relative_states: Tensor | None) -> ScoreTerms:
    if isinstance(position, ReadsRelativeStates):
        if relative_states is not None and (relative_states.dtype != q.dtype or relative_states.device != q.device):
            raise ValueError(
                f"relative_states must have q's dtype and device {q.dtype}, {q.device}, "
                f"got {relative_states.dtype}, {relative_states.device}"
            )
        return position.terms(q, k, q_offset=query_offset, relative_states_BHTE=relative_states)
    if relative_states is not None:
        raise ValueError(f"relative_states go with LearnedRelative only, got position {type(position).__name__}")
    return position.terms(q, k, q_offset=query_offset)


def _checked_mask(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_offset: int | Tensor,
    causal: bool,
    key_padding_mask: Tensor | None,
    document_ids: Tensor | None,
) -> Mask:
    """The mask of a call; with a tensor as offset, that of queries at the last slots."""
    _check_tensors(q, k, v)
    mask = Mask(
        num_queries=q.shape[2],
        num_keys=k.shape[2],
        query_offset=k.shape[2] - q.shape[2] if isinstance(query_offset, Tensor) else query_offset,
        causal=causal,
        key_padding_BS=key_padding_mask,
        document_ids_BS=document_ids,
    )
    _check_mask(mask, q)
    return mask


def _check_slots(
    position: Position, mask: Mask, q: Tensor, query_offset: Tensor, backend: Backend, dropout: float
) -> None:
    """Refuse what a query_offset on the device does not go with."""
    what = "a tensor as query_offset"
    if query_offset.dim() != 0 or query_offset.dtype != torch.int64:
        raise ValueError(
            f"{what} must be int64 without dimensions, got {query_offset.dtype} of shape {tuple(query_offset.shape)}"
        )
    if position.rotates:
        raise ValueError(f"{what} goes with keys that are rotated already: give Rotary.rotated's q and k and NoPE()")
    if not mask.causal or mask.document_ids_BS is not None or dropout > 0.0 or backend != "auto":
        raise ValueError(f"{what} takes causal=True, backend='auto', no dropout and no document_ids")
    scores = q.shape[0] * q.shape[1] * mask.num_queries * mask.num_keys
    if scores > REFERENCE_LIMIT:
        raise ValueError(f"{what} serves up to {REFERENCE_LIMIT} scores (B·H·T·S), got {scores}: give an int")


def _check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4:
            raise ValueError(f"{name} must be [batch, heads, length, head_dim], got shape {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"{name} must be of a floating-point dtype, got {x.dtype}")
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(f"{name} must have q's dtype and device {q.dtype}, {q.device}, got {x.dtype}, {x.device}")
    if k.shape != v.shape:
        raise ValueError(f"k and v must have the same shape, got {tuple(k.shape)} and {tuple(v.shape)}")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k must share batch and head_dim, got {tuple(q.shape)} and {tuple(k.shape)}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"k's heads must divide q's, got {q.shape[1]} query and {k.shape[1]} key/value heads")


def _check_mask(mask: Mask, q: Tensor) -> None:
    if mask.query_offset < 0:
        raise ValueError(f"query_offset must be at least 0, got {mask.query_offset}")
    expected = (q.shape[0], mask.num_keys)
    for name, x in (("key_padding_mask", mask.key_padding_BS), ("document_ids", mask.document_ids_BS)):
        if x is not None and tuple(x.shape) != expected:
            raise ValueError(f"{name} must have shape [batch, keys] = {expected}, got {tuple(x.shape)}")
    if mask.key_padding_BS is not None and mask.key_padding_BS.dtype != torch.bool:
        raise ValueError(f"key_padding_mask must be bool, True where a key takes part, got {mask.key_padding_BS.dtype}")
    if mask.document_ids_BS is not None and mask.query_offset + mask.num_queries > mask.num_keys:
        raise ValueError(
            f"document_ids cover {mask.num_keys} key positions, but queries end at position "
            f"{mask.query_offset + mask.num_queries - 1}"
        )
