"""Tip 1 of the paper (A.6): p_ij as a tensor [L,L,D], q·p by one matrix product a query position, as in Shaw et al."""

from torch import Tensor

from benchmarks.peers.peer import Built, Case, Pass, Peer
from wavepos import Wavelet


def build(case: Case) -> Built:
    position = Wavelet(case.head_dim)
    table = position.table(case.seq_len).to(case.device, case.dtype)
    displacement = case.displacement()
    p_LLD = table[displacement.clamp_min(0)]
    future = displacement < 0

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, length, dim = q.shape
        by_position = q.permute(2, 0, 1, 3).reshape(length, batch * heads, dim)
        relative = (by_position @ p_LLD.mT).view(length, batch, heads, length).permute(1, 2, 0, 3)
        scores = (q @ k.mT + relative) * case.softmax_scale
        return scores.masked_fill(future, float("-inf")).softmax(dim=-1) @ v

    return Built(run=run, position=position, state=(p_LLD, future))


def quadratic_bytes(case: Case, _: Pass) -> int:
    return case.seq_len**2 * case.head_dim * case.dtype.itemsize + case.score_bytes(4)


PEER = Peer(
    name="paper-tip1",
    title="Paper, Tip 1",
    formula="q·k + q·ψ(δ)",
    build=build,
    quadratic_bytes=quadratic_bytes,
)
