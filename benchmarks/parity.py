"""No number without the right answer: what is measured is first held against the reference in float64.

The bound is twice that of `wavepos.testing`, so four times the error of dense attention in the same precision plus
rounding, for it also judges kernels that are not ours: PyTorch's own flash attention on the CPU needs 2.3 times.
"""

import copy
import dataclasses
from typing import Any

from torch import Tensor

from benchmarks.peers import Case, Pass, Peer
from wavepos.testing import Error, compare

PARITY_LENGTHS = (1000, 250)
"""The first is tried that a peer can hold; at 1000 the wavelets of the default grid have ended."""
HELD_BYTES = 2**29
SLACK = 2.0
"""On the yardstick's bound."""


class ParityError(ValueError):
    """What is to be measured does not compute what it says."""


def check_peer(peer: Peer, case: Case) -> list[dict[str, Any]]:
    """Errors of a peer at a length near that of `PARITY_LENGTHS` that it can hold.

    Raises:
        ParityError: an error beyond its bound.
    """
    case = dataclasses.replace(case, batch=1, seq_len=_length(peer, case))
    kind: Pass = "forward" if peer.refusal(case, "forward+backward") else "forward+backward"
    built = peer.build(case)
    q, k, v, grad = case.inputs()
    given = {name: x.detach() if isinstance(x, Tensor) else x for name, x in built.arguments.items()}

    def run(*, q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        return built.run(q, k, v)

    position = copy.deepcopy(built.position).requires_grad_(False)  # what a peer learns it holds itself
    upstream = grad if kind == "forward+backward" else None
    return judge(peer.name, compare(run, position, {"q": q, "k": k, "v": v}, upstream, **given))


def judge(name: str, errors: list[Error]) -> list[dict[str, Any]]:
    """The errors as records.

    Raises:
        ParityError: an error beyond its bound.
    """
    records: list[dict[str, Any]] = [
        {"tensor": e.tensor, "error": e.error, "bound": SLACK * e.bound, "magnitude": e.magnitude} for e in errors
    ]
    wrong = [record for record in records if not record["error"] <= record["bound"]]
    if wrong:
        beyond = "; ".join(
            f"{record['tensor']} is off by {record['error']:.2e}, at most {record['bound']:.2e} is rounding"
            for record in wrong
        )
        raise ParityError(f"{name} differs from the reference, so nothing is measured: {beyond}")
    return records


def _length(peer: Peer, case: Case) -> int:
    wanted = [length for length in PARITY_LENGTHS if length <= case.seq_len] or [case.seq_len]
    for length in wanted:
        if peer.quadratic_bytes(dataclasses.replace(case, seq_len=length), "forward+backward") <= HELD_BYTES:
            return length
    return wanted[-1]
