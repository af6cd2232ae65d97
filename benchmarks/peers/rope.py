"""RoPE + SDPA, as in transformers' Llama: cos and sin made once a forward pass for all layers, then flash attention."""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.peers.peer import Built, Case, Pass, Peer
from wavepos import Rotary

THETA = 10000.0


def cos_sin(length: int, head_dim: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """[L,D] each; angles in float64 so that the check against float64 sees rounding alone."""
    inverse_frequency = 1.0 / THETA ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), inverse_frequency.double())
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def build(case: Case) -> Built:
    cos, sin = cos_sin(case.seq_len, case.head_dim, case.dtype, case.device)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)

    return Built(run=run, position=Rotary(case.head_dim, theta=THETA), state=(cos, sin))


def build_cudnn(case: Case) -> Built:
    plain = build(case)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return plain.run(q, k, v)

    return Built(run=run, position=plain.position, state=plain.state)


def _needs_cuda(case: Case, _: Pass) -> str | None:
    if not case.device.startswith("cuda") or case.dtype == torch.float32:
        return "cuDNN attention takes bf16 and fp16 on CUDA"
    return None


PEER = Peer(name="rope", title="RoPE + SDPA", formula="rotate(q)·rotate(k)", build=build)
CUDNN = Peer(
    name="rope-cudnn", title="RoPE + cuDNN", formula="rotate(q)·rotate(k)", build=build_cudnn, refusal=_needs_cuda
)
