"""The gather of DeBERTa's disentangled attention: q times every table row, gathered by displacement into a bias."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.peers.peer import Built, Case, Peer, dense
from wavepos import Wavelet


def build(case: Case) -> Built:
    position = Wavelet(case.head_dim)
    reach = min(position.reach(), case.seq_len)
    table_RD = position.table(reach).to(case.device, case.dtype)
    displacement = case.displacement()
    index, beyond, future = displacement.clamp(0, reach - 1), displacement >= reach, displacement < 0

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        relative = q @ table_RD.mT * case.softmax_scale
        bias = torch.gather(relative, -1, index.expand(*q.shape[:2], -1, -1)).masked_fill(beyond, 0.0)
        return scaled_dot_product_attention(q, k, v, attn_mask=bias.masked_fill(future, float("-inf")))

    return Built(run=run, position=position, state=(table_RD, index, beyond, future))


PEER = Peer(name="gather", title="Gather (as DeBERTa)", formula="q·k + q·ψ(δ)", build=build,
            quadratic_bytes=dense(5, 8))  # fmt: skip
