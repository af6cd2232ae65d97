"""The one attention call: it checks its input, asks the position for its terms and hands them to a backend."""

from contextlib import AbstractContextManager, nullcontext
from typing import get_args

import torch
from torch import Tensor

from wavepos.ops.checks import (
    check_mask,
    check_parameters,
    check_position,
    check_states,
    check_tensors,
    check_terms,
    checked_offset,
    checked_scale,
)
from wavepos.ops.choice import REFERENCE_LIMIT, Backend, chosen_backend, require_served
from wavepos.ops.mask import Mask
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
    query_offset: int | Tensor | None = None,
    relative_states: Tensor | None = None,
) -> Tensor:
    """Attention with a positional method: softmax(softmax_scale · (q·k + r·p(δ)) + b) v, δ = m − n (Eq. 10).

    Keys stand at positions 0 … S − 1 and queries at the last T of them, as with a cache of S keys that already holds
    the T newest ones; `query_offset` puts them elsewhere, at query_offset … query_offset + T − 1.

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
        softmax_scale: factor on q·k + r·p, finite and above 0; None: 1/√D.
        dropout: probability with which an attention weight is dropped; apply it in training only.
        key_padding_mask: bool [B,S], True where a key takes part (the sense of SDPA's and transformers' masks).
        document_ids: integers [B,S]; a query sees keys of its own document only.
        query_offset: position of the first query, in tokens; None: S − T, the last query at the last key. An int64
            tensor without dimensions serves steps that are compiled once for all positions (static caches): causal,
            with T·S memory, without document_ids; `Rotary` then needs keys that are already rotated.
        relative_states: [B,H,T,E] in q's dtype, what `LearnedRelative` multiplies with its table; None elsewhere.

    Returns:
        [B,H,T,D] in q's dtype; queries that see no key give zero.

    Raises:
        ValueError: shapes, dtypes, devices or values that do not fit together, named with what was got and what is
            taken; T > S without query_offset, where the scores depend on it.
        TypeError: a position that is none: a method's name, a class, a config.
        RuntimeError: a derivative that only "reference" has: torch.func, forward mode, the second.
    """
    check_position(position)
    check_tensors(q, k, v)
    if isinstance(query_offset, Tensor):
        offset = max(0, k.shape[2] - q.shape[2])  # the last one that there can be
    else:
        offset = checked_offset(q, k, query_offset, causal, position.rotates)
    mask = _checked_mask(q, k, offset, causal, key_padding_mask, document_ids)
    _check_direction(position, causal)
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    scale = checked_scale(softmax_scale, q.shape[-1])
    q, k, v, relative_states = _autocast(q.device.type, q, k, v, relative_states)
    with _no_autocast(q.device.type):
        if isinstance(query_offset, Tensor):
            _check_slots(position, mask, q, query_offset, backend, dropout)
        terms = _terms(position, q, k, offset, relative_states)
        empty = 0 in (*q.shape, *k.shape)  # nothing to compute, and kernels do not take it
        if isinstance(query_offset, Tensor) and not empty:
            from wavepos.ops.slots import slot_attention

            require_served(terms, "slots")
            return slot_attention(terms, v, mask, query_offset, scale)
        match chosen_backend("reference" if empty else backend, terms, mask, dropout):
            case "banded":
                from wavepos.ops.banded.backend import banded_attention

                return banded_attention(terms, v, mask, scale, position.factors)
            case "triton":
                from wavepos.ops.fused.backend import triton_attention

                return triton_attention(terms, v, mask, scale, dropout)
            case "reference":
                from wavepos.ops.reference import reference_attention

                return reference_attention(terms, v, mask, scale, dropout)


def attention_map(  # noqa: PLR0913 - the public call: one argument a property of attention
    q: Tensor,
    k: Tensor,
    *,
    position: Position,
    causal: bool = True,
    softmax_scale: float | None = None,
    key_padding_mask: Tensor | None = None,
    document_ids: Tensor | None = None,
    query_offset: int | Tensor | None = None,
    relative_states: Tensor | None = None,
) -> Tensor:
    """The weights that `attention` gives each value, to be looked at; memory grows as T·S.

    Args:
        q, k, position, causal, softmax_scale, key_padding_mask, document_ids, query_offset, relative_states: as
            `attention` takes them; under autocast q, k and relative_states are cast as there.

    Returns:
        [B,H,T,S], float32 (float64 for float64 input); rows of queries that see no key are zero.

    Raises:
        ValueError, TypeError: as `attention`; a tensor as query_offset, for weights are not looked at in a
            compiled step.
    """
    from wavepos.ops.reference import attention_weights

    if isinstance(query_offset, Tensor):
        raise ValueError("attention_map takes an int as query_offset, got a tensor")
    check_position(position)
    check_tensors(q, k, k)
    offset = checked_offset(q, k, query_offset, causal, position.rotates)
    mask = _checked_mask(q, k, offset, causal, key_padding_mask, document_ids)
    _check_direction(position, causal)
    scale = checked_scale(softmax_scale, q.shape[-1])
    q, k, _, relative_states = _autocast(q.device.type, q, k, k, relative_states)
    with _no_autocast(q.device.type):
        terms = _terms(position, q, k, offset, relative_states)
        require_served(terms, "reference")
        return attention_weights(terms, mask, scale)


def _autocast(
    device: str, q: Tensor, k: Tensor, v: Tensor, relative_states: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The inputs cast as SDPA casts its own; the precision inside is the backend's."""
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return q, k, v, relative_states
    dtype = torch.get_autocast_dtype(device)
    return q.to(dtype), k.to(dtype), v.to(dtype), None if relative_states is None else relative_states.to(dtype)


def _no_autocast(device: str) -> AbstractContextManager[object]:
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _terms(position: Position, q: Tensor, k: Tensor, query_offset: int, relative_states: Tensor | None) -> ScoreTerms:
    """The position's terms, on q's device and of its heads and sizes."""
    check_states(position, q, relative_states)
    try:
        if isinstance(position, ReadsRelativeStates):
            terms = position.terms(q, k, q_offset=query_offset, relative_states_BHTE=relative_states)
        else:
            terms = position.terms(q, k, q_offset=query_offset)
    except RuntimeError as error:  # PyTorch's own words for tensors on two devices name neither
        check_parameters(position, q, error)
        raise
    check_terms(terms, position, q, k)
    return terms


def _check_direction(position: Position, causal: bool) -> None:
    if not causal and position.needs_table:
        raise ValueError(f"causal=False is served for NoPE and Rotary only, got {type(position).__name__}")


def _checked_mask(
    q: Tensor,
    k: Tensor,
    query_offset: int,
    causal: bool,
    key_padding_mask: Tensor | None,
    document_ids: Tensor | None,
) -> Mask:
    mask = Mask(
        num_queries=q.shape[2],
        num_keys=k.shape[2],
        query_offset=query_offset,
        causal=causal,
        key_padding_BS=key_padding_mask,
        document_ids_BS=document_ids,
    )
    check_mask(mask, q)
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
    if mask.num_queries > mask.num_keys > 0:
        raise ValueError(f"{what} serves at most one query a slot, got {mask.num_queries} for {mask.num_keys} slots")
    if position.rotates:
        raise ValueError(f"{what} goes with keys that are rotated already: give Rotary.rotated's q and k and NoPE()")
    if not mask.causal or mask.document_ids_BS is not None or dropout > 0.0 or backend != "auto":
        raise ValueError(f"{what} takes causal=True, backend='auto', no dropout and no document_ids")
    scores = q.shape[0] * q.shape[1] * mask.num_queries * mask.num_keys
    if scores > REFERENCE_LIMIT:
        raise ValueError(f"{what} serves up to {REFERENCE_LIMIT} scores (B·H·T·S), got {scores}: give an int")
