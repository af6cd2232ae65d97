"""Plain attention with its log-sum-exp, forward and backward, through PyTorch's own fused kernels.

One small adapter a device: their private signatures differ, and a test pins the one of the CPU. They check no strides,
as `scaled_dot_product_attention` does before it calls them, so every input is made to lie in memory as they read it.
Causal calls are square (T = S). No call here masks a whole row: the CPU's kernel would answer such a row with a
log-sum-exp of 0.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wavepos.ops.strides import rows_adjacent

_EFFICIENT_ALIGNMENT = 32
"""The efficient CUDA kernel reads log-sum-exps in rows whose length is a multiple of this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashCall:
    """softmax(softmax_scale · q kᵀ) v.

    Attributes:
        q_BHTD: queries.
        k_BGSD: keys, G dividing H.
        v_BGSD: values.
        causal: query i sees keys 0 … i; T = S.
        softmax_scale: factor on q·k.
    """

    q_BHTD: Tensor
    k_BGSD: Tensor
    v_BGSD: Tensor
    causal: bool
    softmax_scale: float


def flash_forward(call: FlashCall) -> tuple[Tensor, Tensor]:
    """The output [B,H,T,D] in q's dtype and the log-sum-exp of the scores [B,H,T] in float32 (natural logarithm)."""
    call = _with_rows_adjacent(call)
    if call.q_BHTD.device.type == "cuda":
        return _cuda_forward(call)
    q, k, v = _cpu_inputs(call.q_BHTD, call.k_BGSD, call.v_BGSD)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, call.causal, scale=call.softmax_scale
    )
    return out.to(call.q_BHTD.dtype), lse


def flash_backward(call: FlashCall, grad_BHTD: Tensor, out_BHTD: Tensor, lse_BHT: Tensor) -> tuple[Tensor, ...]:
    """Gradients of q, k and v, given an output and a log-sum-exp that may be those of a wider softmax.

    With the output and log-sum-exp of attention over more keys than the call's own, the gradients are the part of the
    wider attention's that falls to the call's keys.
    """
    call, grad_BHTD, out_BHTD = _with_rows_adjacent(call), rows_adjacent(grad_BHTD), rows_adjacent(out_BHTD)
    if call.q_BHTD.device.type == "cuda":
        return _cuda_backward(call, grad_BHTD, out_BHTD, lse_BHT)
    grad, q, k, v, out = _cpu_inputs(grad_BHTD, call.q_BHTD, call.k_BGSD, call.v_BGSD, out_BHTD)
    grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, lse_BHT, 0.0, call.causal, scale=call.softmax_scale
    )
    return tuple(x.to(call.q_BHTD.dtype) for x in grads)


def _with_rows_adjacent(call: FlashCall) -> FlashCall:
    q, k, v = (rows_adjacent(x) for x in (call.q_BHTD, call.k_BGSD, call.v_BGSD))
    return replace(call, q_BHTD=q, k_BGSD=k, v_BGSD=v)


def _cpu_inputs(*tensors: Tensor) -> tuple[Tensor, ...]:
    """float16 in float32: the CPU emulates half products, an order of magnitude slower than float32's."""
    return tuple(x.float() if x.dtype == torch.float16 else x for x in tensors)


def _uses_flash(call: FlashCall) -> bool:
    """Whether the CUDA flash kernel takes the call; the efficient kernel takes the rest."""
    return call.q_BHTD.dtype in (torch.float16, torch.bfloat16) and call.q_BHTD.shape[-1] % 8 == 0


def _cuda_forward(call: FlashCall) -> tuple[Tensor, Tensor]:
    if _uses_flash(call):
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            call.q_BHTD, call.k_BGSD, call.v_BGSD, 0.0, call.causal, False, scale=call.softmax_scale
        )
        return out, lse
    k, v = _repeated(call)
    out, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
        call.q_BHTD, k, v, None, True, 0.0, call.causal, scale=call.softmax_scale
    )
    return out, lse[..., : call.q_BHTD.shape[2]]


def _cuda_backward(call: FlashCall, grad_BHTD: Tensor, out_BHTD: Tensor, lse_BHT: Tensor) -> tuple[Tensor, ...]:
    no_dropout = torch.zeros((2,), dtype=torch.int64, device=call.q_BHTD.device)
    if _uses_flash(call):
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad_BHTD, call.q_BHTD, call.k_BGSD, call.v_BGSD, out_BHTD, lse_BHT.contiguous(),
            None, None, call.q_BHTD.shape[2], call.k_BGSD.shape[2], 0.0, call.causal, no_dropout, no_dropout,
            scale=call.softmax_scale,
        )  # fmt: skip
        return dq, dk, dv
    k, v = _repeated(call)
    rest = -lse_BHT.shape[-1] % _EFFICIENT_ALIGNMENT
    lse = torch.nn.functional.pad(lse_BHT, (0, rest), value=torch.inf)
    dq, dk, dv, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad_BHTD, call.q_BHTD, k, v, None, out_BHTD, lse, no_dropout[0], no_dropout[1], 0.0,
        [True, True, True, False], call.causal, scale=call.softmax_scale,
    )  # fmt: skip
    groups = call.k_BGSD.shape[1]
    return dq, dk.unflatten(1, (groups, -1)).sum(2), dv.unflatten(1, (groups, -1)).sum(2)


def _repeated(call: FlashCall) -> tuple[Tensor, Tensor]:
    """Keys and values once a query head: the efficient kernel knows no groups."""
    repeats = call.q_BHTD.shape[1] // call.k_BGSD.shape[1]
    if repeats == 1:
        return call.k_BGSD, call.v_BGSD
    return call.k_BGSD.repeat_interleave(repeats, 1), call.v_BGSD.repeat_interleave(repeats, 1)
