"""Which backend computes a call: the terms that each serves, the rule of "auto", and the proof that it asks of the
fused kernel on a new device.
"""

import functools
import warnings
from typing import Literal

import torch
from torch import Tensor

from wavepos.ops.mask import Mask
from wavepos.positions.terms import ScoreTerms

Backend = Literal["auto", "banded", "triton", "reference"]

REFERENCE_LIMIT = 2**28
"""Scores (B·H·T·S) up to which "auto" falls back on the dense reference: 1 GiB in float32."""

_TERMS = frozenset({"q_BHTD", "k_BGSD", "r_BHTE", "table", "bias_HR", "tail", "relative_scale"})
SERVED = {
    "reference": _TERMS | {"first_displacement"},
    "slots": _TERMS | {"first_displacement"},
    "banded": _TERMS,
    "triton": _TERMS,
}
"""The fields of `ScoreTerms` that each backend computes."""

PROOF_LENGTH, PROOF_TABLE = 600, 250
"""Long enough for tiles on the diagonal, in the band and beyond it."""
PROOF_TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Of the largest entry; a wrong tile is off by about all of it."""


def unserved(terms: ScoreTerms, name: str) -> str | None:
    """Why a backend of `SERVED` must not be given these terms: it would leave one out; None where it reads them all."""
    missing = terms.in_use() - SERVED[name]
    if not missing:
        return None
    what = "a tensor as query_offset" if name == "slots" else f"backend={name!r}"
    return f"{what} does not serve {', '.join(sorted(missing))} of the position's terms"


def require_served(terms: ScoreTerms, name: str) -> None:
    """Raise ValueError where the terms hold one that the backend does not compute."""
    if refusal := unserved(terms, name):
        raise ValueError(refusal)


def chosen_backend(
    backend: Backend, terms: ScoreTerms, mask: Mask, dropout: float
) -> Literal["banded", "triton", "reference"]:
    """A backend named explicitly is taken or refuses; "auto": triton on CUDA, then banded, then the reference.

    Raises:
        ValueError: the named backend does not serve the call or one of its terms, or none does within the reference's
            limit.
    """
    from wavepos.ops.banded.backend import banded_refusal

    if backend in ("triton", "reference"):
        require_served(terms, backend)
        return backend
    if backend == "auto" and _takes_triton(terms, mask, dropout):
        return "triton"
    refusal = unserved(terms, "banded") or (
        f"backend='banded' has no dropout on attention weights, got dropout={dropout}; use dropout=0.0 or "
        "backend='reference'"
        if dropout > 0.0
        else banded_refusal(terms, mask)
    )
    if refusal is None:
        return "banded"
    if backend == "banded":
        raise ValueError(refusal)
    scores = terms.q_BHTD.shape[0] * terms.q_BHTD.shape[1] * mask.num_queries * mask.num_keys
    if scores > REFERENCE_LIMIT:
        raise ValueError(
            f"{refusal}. backend='auto' takes the dense reference up to {REFERENCE_LIMIT} scores, and this call has "
            f"{scores}; backend='reference' computes it all the same"
        )
    require_served(terms, "reference")
    return "reference"


def _takes_triton(terms: ScoreTerms, mask: Mask, dropout: float) -> bool:
    """Plain attention and single queries are PyTorch's own calls in the banded backend; the rest the kernel's."""
    q = terms.q_BHTD
    if not _on_gpu(q) or mask.num_queries == 1 or (terms.table is None and terms.bias_HR is None):
        return False
    if unserved(terms, "triton"):
        return False
    from wavepos.ops.fused.backend import triton_refusal

    try:
        refusal = triton_refusal(terms, mask, dropout)
    except ImportError:
        return False
    return refusal is None and proven(q.device, q.dtype, q.shape[-1])


def _on_gpu(q_BHTD: Tensor) -> bool:
    return q_BHTD.is_cuda


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator] # torch's decorator has no types
def proven(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether the kernel works there; a constant of compiled graphs."""
    return _prove(device, dtype, head_dim)


@functools.cache
def _prove(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether the kernel gives the reference's output and gradients there; asked once a process, it takes a moment.

    Kernels are compiled on the device they run on, and compilers err: where the kernel fails or is off, a warning says
    so and "auto" goes on with the banded backend.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            found, expected = (_proof(name, device, dtype, head_dim) for name in ("triton", "reference"))
    except Exception as error:
        warnings.warn(_unproven(device, dtype, head_dim, repr(error)), RuntimeWarning, stacklevel=2)
        return False
    for x, truth in zip(found, expected, strict=True):
        off = float((x.double() - truth.double()).abs().max() / truth.double().abs().max())
        if not off <= PROOF_TOLERANCE[dtype]:
            why = f"it is off by {off:.2g} of the largest entry"
            warnings.warn(_unproven(device, dtype, head_dim, why), RuntimeWarning, stacklevel=2)
            return False
    return True


def _unproven(device: torch.device, dtype: torch.dtype, head_dim: int, why: str) -> str:
    return (
        f"the fused kernel does not work on {device} for {dtype} and head_dim {head_dim} ({why}): backend='auto' takes "
        "'banded' there, which is exact and slower"
    )


def _proof(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> list[Tensor]:
    """The output and the gradients of q, k, v, r and the table of a small call with grouped heads."""
    from wavepos.ops.fused.backend import triton_attention
    from wavepos.ops.reference import reference_attention

    generator = torch.Generator().manual_seed(0)  # the user's own stay as they are

    def leaf(*shape: int, of: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, of).requires_grad_()

    q, r = (leaf(1, 2, PROOF_LENGTH, head_dim, of=dtype) for _ in range(2))
    k, v = (leaf(1, 1, PROOF_LENGTH, head_dim, of=dtype) for _ in range(2))
    table = leaf(PROOF_TABLE, head_dim, of=torch.float32)
    terms = ScoreTerms(q_BHTD=q, k_BGSD=k, r_BHTE=r, table=table, tail="zero")
    mask = Mask(num_queries=PROOF_LENGTH, num_keys=PROOF_LENGTH)
    attend = triton_attention if name == "triton" else reference_attention
    out = attend(terms, v, mask, head_dim**-0.5)
    upstream = torch.randn(out.shape, generator=generator).to(device, dtype)
    return [out.detach(), *torch.autograd.grad(out, [q, k, v, r, table], upstream)]
