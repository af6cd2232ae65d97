"""Tip 2 of the paper (A.6): a (d, length) table, one 2-D product with the query, torch.scatter to the attention mask.

Entry (m, δ) belongs to key m − δ; where that is negative, scatter puts it, modulo L, on a key of the future, which the
causal mask hides.
"""

import torch
from torch import Tensor

from benchmarks.peers.peer import Built, Case, Peer, dense
from wavepos import Wavelet


def build(case: Case) -> Built:
    position = Wavelet(case.head_dim)
    table_DL = position.table(case.seq_len).to(case.device, case.dtype).mT.contiguous()
    key_of = case.displacement() % case.seq_len
    future = case.displacement() < 0

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        products = (q.reshape(-1, case.head_dim) @ table_DL).view(*q.shape[:3], -1)
        scores = q @ k.mT
        relative = torch.zeros_like(scores).scatter(-1, key_of.expand_as(scores), products)
        scores = ((scores + relative) * case.softmax_scale).masked_fill(future, float("-inf"))
        return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v

    return Built(run=run, position=position, state=(table_DL, key_of, future))


PEER = Peer(name="paper-tip2", title="Paper, Tip 2", formula="q·k + q·ψ(δ)", build=build,
            quadratic_bytes=dense(7, 7))  # fmt: skip
