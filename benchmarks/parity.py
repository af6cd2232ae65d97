"""No number without the right answer: what is measured is first held against the reference in float64.

The bound is four times the error of dense attention in the same precision, plus rounding. It is wider than that of the
tests, for it also judges kernels that are not ours: PyTorch's own flash attention on the CPU needs 2.3 times.
"""

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import Built, Case, Pass, Peer
from wavepos import attention
from wavepos.ops.call import Call
from wavepos.ops.choice import run_backend
from wavepos.ops.mask import Mask
from wavepos.positions.terms import Position, ReadsRelativeStates, ScoreTerms

PARITY_LENGTHS = (1000, 250)
"""The first is tried that a peer can hold; at 1000 the wavelets of the default grid have ended."""
HELD_BYTES = 2**29


class ParityError(ValueError):
    """What is to be measured does not compute what it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """Largest absolute error of one tensor beside that of dense attention, and the largest true value."""

    tensor: str
    error: float
    dense: float
    magnitude: float
    eps: float

    @property
    def bound(self) -> float:
        return 4.0 * self.dense + 8.0 * self.eps * self.magnitude

    def record(self) -> dict[str, Any]:
        return {"tensor": self.tensor, "error": self.error, "bound": self.bound, "magnitude": self.magnitude}


def check_peer(peer: Peer, case: Case) -> list[dict[str, Any]]:
    """Errors of a peer at a length near that of `PARITY_LENGTHS` that it can hold.

    Raises:
        ParityError: an error beyond its bound.
    """
    case = dataclasses.replace(case, batch=1, seq_len=_length(peer, case))
    kind: Pass = "forward" if peer.refusal(case, "forward+backward") else "forward+backward"
    built = peer.build(case)
    q, k, v, grad = case.inputs()
    truth = _results(_reference(built), (q.double(), k.double(), v.double()), grad.double(), kind)
    dense = _results(_dense(built, case), (q, k, v), grad, kind)
    found = _results(built.run, (q, k, v), grad, kind)
    return judge(peer.name, [_error(name, found[name], dense[name], truth[name]) for name in truth])


def judge(name: str, errors: list[Error]) -> list[dict[str, Any]]:
    """The errors as records.

    Raises:
        ParityError: an error beyond its bound.
    """
    wrong = [error for error in errors if not error.error <= error.bound]
    if wrong:
        beyond = "; ".join(f"{e.tensor} is off by {e.error:.2e}, at most {e.bound:.2e} is rounding" for e in wrong)
        raise ParityError(f"{name} differs from the reference, so nothing is measured: {beyond}")
    return [error.record() for error in errors]


def _error(name: str, found: Tensor, dense: Tensor, truth: Tensor) -> Error:
    return Error(
        tensor=name,
        error=float((found.double() - truth).abs().max()),
        dense=float((dense.double() - truth).abs().max()),
        magnitude=float(truth.abs().max()),
        eps=torch.finfo(found.dtype).eps,
    )


def _length(peer: Peer, case: Case) -> int:
    wanted = [length for length in PARITY_LENGTHS if length <= case.seq_len] or [case.seq_len]
    for length in wanted:
        if peer.quadratic_bytes(dataclasses.replace(case, seq_len=length), "forward+backward") <= HELD_BYTES:
            return length
    return wanted[-1]


def _results(run: Any, qkv: tuple[Tensor, ...], grad: Tensor, kind: Pass) -> dict[str, Tensor]:
    if kind == "forward":
        with torch.no_grad():
            return {"out": run(*qkv)}
    leaves = [x.clone().requires_grad_() for x in qkv]
    out = run(*leaves)
    gradients = torch.autograd.grad(out, leaves, grad)
    return {"out": out.detach(), **dict(zip(("dq", "dk", "dv"), gradients, strict=True))}


def _reference(built: Built) -> Any:
    position = copy.deepcopy(built.position).double()
    states = None if built.relative_states is None else built.relative_states.detach().double()

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        position.to(q.device)
        return attention(q, k, v, position=position, backend="reference", relative_states=states)

    return run


def _dense(built: Built, case: Case) -> Any:
    """Dense attention whose inputs and weights are rounded to the case's dtype."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        terms = position_terms(built.position.to(q.device), q, k, built.relative_states)
        mask = Mask(num_queries=q.shape[2], num_keys=k.shape[2])
        weights = run_backend("weights", Call(terms=terms, v_BGSD=v, mask=mask, softmax_scale=case.softmax_scale))
        return weights.to(q.dtype) @ v

    return run


def position_terms(position: Position, q: Tensor, k: Tensor, states: Tensor | None) -> ScoreTerms:
    """The terms of a position, with its relative states where it reads any."""
    if isinstance(position, ReadsRelativeStates):
        return position.terms(q, k, relative_states_BHTE=states)
    return position.terms(q, k)
