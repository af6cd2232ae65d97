"""FlexAttention with the relative scores [B,H,L,W] captured by score_mod."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks.peers.peer import Built, Case, Pass, Peer
from wavepos import Wavelet


def compiled() -> Any:
    return torch.compile(flex_attention, dynamic=False)


def build(case: Case) -> Built:
    position = Wavelet(case.head_dim)
    reach = min(position.reach(), case.seq_len)
    table_RD = position.table(reach).to(case.device, case.dtype)
    length = case.seq_len
    mask: Any = create_block_mask(lambda b, h, m, n: m >= n, None, None, length, length, device=case.device)
    attend = compiled()

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        relative = q @ table_RD.mT * case.softmax_scale

        def add(score: Tensor, b: Tensor, h: Tensor, m: Tensor, n: Tensor) -> Tensor:
            displacement = m - n
            value = relative[b, h, m, displacement.clamp(0, reach - 1)]
            return score + torch.where(displacement < reach, value, 0.0)

        out: Tensor = attend(q, k, v, score_mod=add, block_mask=mask)
        return out

    return Built(run=run, position=position, state=(table_RD,))


def _refusal(case: Case, kind: Pass) -> str | None:
    if kind == "forward+backward" and not case.device.startswith("cuda"):
        return "FlexAttention has no backward on the CPU"
    return None


PEER = Peer(
    name="flex",
    title="FlexAttention",
    formula="q·k + q·ψ(δ)",
    build=build,
    refusal=_refusal,
    compiled=True,
)
