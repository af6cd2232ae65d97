"""ALiBi as most models use it: the bias in an [H,L,L] mask that SDPA adds."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.peers.peer import Built, Case, Peer, dense
from wavepos import ALiBi
from wavepos.positions.alibi import alibi_slopes


def build(case: Case) -> Built:
    slopes = torch.tensor(alibi_slopes(case.num_heads), device=case.device)[:, None, None]
    displacement = case.displacement()
    bias = (-slopes * displacement).masked_fill(displacement < 0, float("-inf")).to(case.dtype)[None]

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, attn_mask=bias)

    return Built(run=run, position=ALiBi(case.num_heads), state=(bias,))


PEER = Peer(name="alibi-mask", title="ALiBi in SDPA's mask", formula="q·k − slope·δ", build=build,
            quadratic_bytes=dense(1, 1))  # fmt: skip
