"""x-transformers' relative position bias (T5's buckets) in its flash attention, as `rel_pos_bias=True` sets it up."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.peer import Built, Case, Peer, dense
from wavepos import T5Bias


def build(case: Case) -> Built:
    from x_transformers.attend import Attend
    from x_transformers.x_transformers import RelativePositionBias

    scale = case.head_dim**0.5
    bias: Any = RelativePositionBias(scale=scale, causal=True, heads=case.num_heads).to(case.device, case.dtype)
    attend: Any = Attend(causal=True, flash=True)
    weight = bias.relative_attention_bias.weight
    with torch.no_grad():
        weight.copy_(0.1 * case.draw(*weight.shape, stream=5))

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = attend(q, k, v, attn_bias=bias(case.seq_len, case.seq_len))[0]
        return out

    position = T5Bias(case.num_heads)
    with torch.no_grad():
        position.weight.copy_((weight * scale).mT)
    return Built(run=run, position=position, learned=(weight,))


PEER = Peer(
    name="x-transformers",
    title="x-transformers' relative bias",
    formula="q·k + b(bucket(δ)), b learned",
    build=build,
    quadratic_bytes=dense(8, 8),
    module="x_transformers.x_transformers",
)
