"""The one way into the backends: who computes a call, the rule of "auto", and the proof that it asks of a backend on a
GPU that it has not met.
"""

import functools
import warnings
from typing import get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from wavepos.ops.banded.operator import BANDED
from wavepos.ops.banded.single import is_single
from wavepos.ops.call import DENSE_LIMIT, Backend, Call, Implementation
from wavepos.ops.finite import compute_finite
from wavepos.ops.fused.backend import TRITON
from wavepos.ops.mask import Mask
from wavepos.ops.reference import REFERENCE, WEIGHTS
from wavepos.ops.slots import SLOT_WEIGHTS, SLOTS
from wavepos.positions.terms import ScoreTerms

IMPLEMENTATIONS = {
    "banded": BANDED,
    "triton": TRITON,
    "reference": REFERENCE,
    "weights": WEIGHTS,
    "slots": SLOTS,
    "slot_weights": SLOT_WEIGHTS,
}
"""Backends that users name, the dense weights of `attention_map`, and both for queries whose place the device knows."""

PROOF_LENGTH, PROOF_TABLE = 600, 250
"""Long enough for tiles on the diagonal, in the band and beyond it."""
PROOF_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Of the largest entry; a wrong tile is off by about all of it."""
NEXT = {
    "triton": "backend='auto' takes 'banded' there, which is exact and slower",
    "banded": f"backend='auto' takes the dense reference there, up to {DENSE_LIMIT} scores",
}


def run_backend(name: str, call: Call) -> Tensor:
    """What a backend computes, once it has been asked whether it serves the call.

    Args:
        name: "auto" or one of `IMPLEMENTATIONS`.
        call: the call; the terms are the position's.

    Returns:
        [B,H,T,D] in q's dtype; for "weights" and "slot_weights" [B,H,T,S], float32 or better.

    Raises:
        ValueError: the named backend does not serve the call or one of its terms, or "auto" finds none that does within
            the reference's limit.
        ImportError: "triton" without the package.
    """
    return compute_finite(choose(name, call), call)


def choose(name: str, call: Call) -> Implementation:
    """A backend named explicitly is taken or refuses; "auto": triton on CUDA, then banded, then the reference.

    Raises:
        ValueError: as `run_backend`.
    """
    if call.is_empty and name in get_args(Backend):  # nothing to compute, and kernels do not take it
        name = "reference"
    if name == "auto":
        return _automatic(call)
    chosen = IMPLEMENTATIONS[name]
    if refusal := chosen.refusal(call):
        raise ValueError(refusal)
    return chosen


def _automatic(call: Call) -> Implementation:
    if _takes_triton(call):
        return IMPLEMENTATIONS["triton"]
    banded = IMPLEMENTATIONS["banded"]
    refusal = banded.refusal(call) or _distrust(call)
    if refusal is None:
        return banded
    if call.num_scores > DENSE_LIMIT:
        raise ValueError(
            f"{refusal}. backend='auto' takes the dense reference up to {DENSE_LIMIT} scores, and this call has "
            f"{call.num_scores}; backend='reference' computes it all the same"
        )
    return choose("reference", call)


def _distrust(call: Call) -> str | None:
    """Why "auto" does not give the banded backend a call that it serves: on a GPU it has not proven itself."""
    q = call.terms.q_BHTD
    gated = call.terms.gates_BHS is not None
    if not _on_gpu(q) or is_single(call) or proven("banded", q.device, q.dtype, q.shape[-1], gated, False, True):
        return None
    return f"backend='banded' does not work on {q.device} for {q.dtype} and head_dim {q.shape[-1]}"


def _takes_triton(call: Call) -> bool:
    """Plain attention and single queries are PyTorch's own calls in the banded backend; the rest the kernel's."""
    q = call.terms.q_BHTD
    if (
        not _on_gpu(q)
        or call.mask.num_queries == 1
        or {"table", "bias_HR", "gates_BHS"}.isdisjoint(call.terms.in_use())
    ):
        return False
    try:
        refusal = IMPLEMENTATIONS["triton"].refusal(call)
    except ImportError:
        return False
    gated, windowed = call.terms.gates_BHS is not None, call.mask.window is not None
    return refusal is None and proven(
        "triton", q.device, q.dtype, q.shape[-1], gated, windowed, call.mask.causal
    )  # each is compiled apart


def _on_gpu(q_BHTD: Tensor) -> bool:
    return q_BHTD.is_cuda


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator] # torch's decorator has no types
def proven(
    name: str, device: torch.device, dtype: torch.dtype, head_dim: int, gated: bool, windowed: bool, causal: bool
) -> bool:
    """Whether a backend works there, with a table, a gate per key beside it, a window, keys ahead of their query.

    A constant of compiled graphs.
    """
    return _prove(name, device, dtype, head_dim, gated, windowed, causal)


@functools.cache
def _prove(
    name: str, device: torch.device, dtype: torch.dtype, head_dim: int, gated: bool, windowed: bool, causal: bool
) -> bool:
    """Whether a backend gives the reference's output and gradients there; asked once per process, it takes a moment.

    Kernels are compiled on the device they run on, and compilers err; private signatures of PyTorch's own change. Where
    a backend fails or is off, a warning says so and "auto" goes on with the next.
    """
    why = None
    try:
        with _disable_current_modes(), torch.inference_mode(False), torch.enable_grad():
            mask = Mask(
                num_queries=PROOF_LENGTH,
                num_keys=PROOF_LENGTH,
                causal=causal,
                window=PROOF_LENGTH // 3 if windowed else None,
            )
            found, expected = (_proof(each, device, dtype, head_dim, gated, mask) for each in (name, "reference"))
        for x, truth in zip(found, expected, strict=True):
            off = float((x.double() - truth.double()).abs().max() / truth.double().abs().max())
            if not off <= PROOF_TOLERANCE[dtype]:
                why = f"it is off by {off:.2g} of the largest entry"
    except Exception as error:
        why = repr(error)
    if why is not None:
        message = (
            f"backend={name!r} does not work on {device} for {dtype} and head_dim {head_dim} ({why}): {NEXT[name]}"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return why is None


def _proof(name: str, device: torch.device, dtype: torch.dtype, head_dim: int, gated: bool, mask: Mask) -> list[Tensor]:
    """The output and the gradients of q, k, v, r, table and gates of a small call with grouped heads."""
    generator = torch.Generator().manual_seed(0)  # the user's own stay as they are

    def leaf(*shape: int, of: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, of).requires_grad_()

    q, r = (leaf(1, 2, PROOF_LENGTH, head_dim, of=dtype) for _ in range(2))
    k, v = (leaf(1, 1, PROOF_LENGTH, head_dim, of=dtype) for _ in range(2))
    table = leaf(PROOF_TABLE, head_dim, of=torch.float32)
    leaves = [q, k, v, r, table]
    gates = None
    if gated:
        gates = (leaf(1, 2, PROOF_LENGTH, of=torch.float32).detach() - 3.0).sigmoid().neg().requires_grad_()
        leaves.append(gates)
    terms = ScoreTerms(
        q_BHTD=q,
        k_BGSD=k,
        r_BHTE=r,
        table=table,
        gates_BHS=gates,
        tail="zero" if mask.causal else "clamp",
        first_displacement=0 if mask.causal else -(PROOF_TABLE // 3),
    )
    out = run_backend(name, Call(terms=terms, v_BGSD=v, mask=mask, softmax_scale=head_dim**-0.5))
    upstream = torch.randn(out.shape, generator=generator).to(device, dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]
