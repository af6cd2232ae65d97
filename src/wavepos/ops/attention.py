"""The one attention call: it checks its input, asks the position for its terms and hands one object to a backend.

From here to the product q·kᵀ: `choice.run_backend` picks who computes, `banded/operator.py`, `fused/backend.py`,
`reference.py` or `slots.py` does, and of these the first two multiply in `banded/near.py` and `banded/far.py`, and in
`fused/kernels.py`.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from wavepos.ops.call import Backend, Call
from wavepos.ops.checks import (
    check_arguments,
    check_position,
    check_tensors,
    checked_mask,
    checked_offset,
    checked_scale,
    checked_terms,
)
from wavepos.ops.choice import run_backend
from wavepos.positions.terms import Position

AUTOCAST_DEVICES = tuple(
    device for device in ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla") if torch.amp.is_autocast_available(device)
)
"""Types of device that autocast knows. Asked once: the compiler of torch 2.9 cannot read the question."""


def attention(  # noqa: PLR0913 - the public call: one argument a property of attention
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    position: Position,
    causal: bool = True,
    window: int | None = None,
    backend: Backend = "auto",
    softmax_scale: float | None = None,
    dropout: float = 0.0,
    key_padding_mask: Tensor | None = None,
    document_ids: Tensor | None = None,
    query_offset: int | Tensor | None = None,
    relative_states: Tensor | None = None,
    gates: Tensor | None = None,
) -> Tensor:
    """Attention with a positional method: softmax(softmax_scale · (q·k + r·p(δ)) + b + c) v, δ = m − n (Eq. 10).

    Keys stand at positions 0 … S − 1 and queries at the last T of them, as with a cache of S keys that already holds
    the T newest ones; `query_offset` puts them elsewhere, at query_offset … query_offset + T − 1.

    Args:
        q: queries [B,H,T,D]; float32, float64, float16 or bfloat16.
        k: keys [B,G,S,D], G dividing H (grouped-query attention), of q's dtype and device.
        v: values [B,G,S,D].
        position: `Wavelet`, `Rotary`, `ALiBi`, `T5Bias`, `ShawRelative`, `TransformerXLRelative`, `LearnedRelative`,
            `Kerple`, `ForgetGate`, `Cable`, `NoPE` or your own.
        causal: a query sees keys at its own position and before. False: keys on both sides, as in encoders and across
            two sequences; for `NoPE`, `Rotary`, `Wavelet`, `ALiBi`, `Kerple` and `TransformerXLRelative`, and for
            `T5Bias` and `ShawRelative` made with bidirectional=True, and without gates.
        window: W, at least 1: a query sees keys less than W tokens away (0 ≤ δ < W where causal, else |δ| < W), in any
            backend but triton; time and memory of a call grow as T·W and T + S. None: the position's own `window`, and
            without one at any distance.
        backend: "banded" (exact, memory linear in T + S, no dropout), "triton" (one fused CUDA kernel, head_dim 64 and
            128, no key_padding_mask or window), "reference" (dense, T·S memory, float32) or "auto": on CUDA triton for
            several queries with a table or bias that it serves, once it has given the reference's numbers on this
            device; else banded; for what banded refuses the reference up to 2**28 scores (B·H·T·S).
        softmax_scale: factor on q·k + r·p, finite and above 0; None: 1/√D.
        dropout: probability with which an attention weight is dropped; apply it in training only.
        key_padding_mask: bool [B,S], True where a key takes part (the sense of SDPA's and transformers' masks). At
            either end of a row it costs what a shorter row does.
        document_ids: integers [B,S]; a query sees keys of its own document only. Documents side by side, with ids that
            never fall, cost what a call for each does.
        query_offset: position of the first query, in tokens; None: S − T, the last query at the last key. An int64
            tensor without dimensions serves steps that are compiled once for all positions (static caches): causal,
            with T·S memory, without document_ids; `Rotary` then needs keys that are already rotated.
        relative_states: [B,H,T,E] in q's dtype, what `LearnedRelative` multiplies with its table; None elsewhere.
        gates: [B,H,S], float32 or q's dtype, the logarithms of the gates of `ForgetGate`, `Cable` or a `Wavelet` with a
            gate, as the position's `gates` makes them; None elsewhere. c_n is their sum up to key n, hidden keys
            counted. They need causal=True. That they are finite and at most 0 is asked on the CPU; elsewhere, and in
            compiled models, looking would stop the device, and others give wrong numbers.

    Returns:
        [B,H,T,D] in q's dtype; queries that see no key give zero. A key or value that is not finite makes the queries
        that see it NaN, and no others, in the gradients too; on a GPU, in compiled models and for a single query
        keys ahead do not reach earlier outputs, the rest is as in SDPA, where 0 · NaN leaks out of hidden values.

    Raises:
        ValueError: shapes, dtypes, devices or values that do not fit together, named with what was got and what is
            taken; T > S without query_offset, where the scores depend on it; causal=False with a position that has
            nothing to say of keys ahead of their query.
        TypeError: a position that is none: a method's name, a class, a config.
        RuntimeError: a derivative that only "reference" has: torch.func, forward mode, the second.
    """
    check_position(position)
    window = position.window if window is None else window
    check_tensors(q, k, v)
    check_arguments(position, causal, backend, dropout, query_offset, window)
    placed = causal or window is not None or position.rotates or position.needs_table or bool(position.temperature)
    offset = checked_offset(q, k, query_offset, placed)
    mask = checked_mask(q, k, offset, causal, key_padding_mask, document_ids, window)
    scale = checked_scale(softmax_scale, q.shape[-1])
    q, k, v, relative_states = _autocast(q, k, v, relative_states)
    with _no_autocast(q.device.type):
        call = Call(
            terms=checked_terms(position, q, k, offset, relative_states, gates, causal).tempered(
                position.temperature, offset if query_offset is None else query_offset
            ),
            v_BGSD=v,
            mask=mask,
            softmax_scale=scale,
            dropout=dropout,
            device_offset=query_offset if isinstance(query_offset, Tensor) else None,
            factors=position.factors,
        )
        return run_backend(backend if call.device_offset is None else "slots", call)


def attention_map(  # noqa: PLR0913 - the public call: one argument a property of attention
    q: Tensor,
    k: Tensor,
    *,
    position: Position,
    causal: bool = True,
    window: int | None = None,
    softmax_scale: float | None = None,
    key_padding_mask: Tensor | None = None,
    document_ids: Tensor | None = None,
    query_offset: int | Tensor | None = None,
    relative_states: Tensor | None = None,
    gates: Tensor | None = None,
) -> Tensor:
    """The weights that `attention` gives each value, to be looked at; memory grows as T·S.

    Args:
        q, k, position: as `attention` takes them, and so are all others; under autocast q, k and relative_states are
            cast as there.

    Returns:
        [B,H,T,S], float32 (float64 for float64 input); rows of queries that see no key are zero.

    Raises:
        ValueError, TypeError: as `attention`.
    """
    check_position(position)
    window = position.window if window is None else window
    check_tensors(q, k, k)
    check_arguments(position, causal, query_offset=query_offset, window=window)
    placed = causal or window is not None or position.rotates or position.needs_table or bool(position.temperature)
    offset = checked_offset(q, k, query_offset, placed)
    mask = checked_mask(q, k, offset, causal, key_padding_mask, document_ids, window)
    scale = checked_scale(softmax_scale, q.shape[-1])
    q, k, _, relative_states = _autocast(q, k, k, relative_states)
    with _no_autocast(q.device.type):
        terms = checked_terms(position, q, k, offset, relative_states, gates, causal)
        terms = terms.tempered(position.temperature, offset if query_offset is None else query_offset)
        on_device = query_offset if isinstance(query_offset, Tensor) else None
        call = Call(terms=terms, v_BGSD=k, mask=mask, softmax_scale=scale, device_offset=on_device)
        return run_backend("weights" if on_device is None else "slot_weights", call)


def _autocast(
    q: Tensor, k: Tensor, v: Tensor, relative_states: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The inputs cast as SDPA casts its own; the precision inside is the backend's."""
    dtype = autocast_dtype(q.device.type)
    if dtype is None:
        return q, k, v, relative_states
    return q.to(dtype), k.to(dtype), v.to(dtype), None if relative_states is None else relative_states.to(dtype)


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype that autocast gives SDPA's inputs on a type of device; None where it is off."""
    if device not in AUTOCAST_DEVICES or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def _no_autocast(device: str) -> AbstractContextManager[object]:
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device, enabled=False)
