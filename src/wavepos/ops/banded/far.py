"""The far part: every pair of query and key at displacement W or more, by PyTorch's own fused kernels.

One small adapter per device: their private signatures differ, and a test pins the one of the CPU. They check no
strides, as `scaled_dot_product_attention` does before it calls them, so every input is made to lie in memory as they
read it. Causal calls are square (T = S). No call here masks a whole row: the CPU's kernel would answer such a row with
a log-sum-exp of 0.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from wavepos.ops.banded.band import Band
from wavepos.ops.banded.totals import Grads, Output, merge
from wavepos.ops.call import Call
from wavepos.ops.strides import rows_adjacent

_EFFICIENT_ALIGNMENT = 32
"""The efficient CUDA kernel reads log-sum-exps in rows whose length is a multiple of this."""
_BIAS_ALIGNMENT = 16
"""And rows of a bias that begin at multiples of so many entries."""


def far_forward(call: Call, band: Band, output: Output) -> None:
    """Write the far part's output and log-sum-exp into the rows that have one."""
    rows = slice(band.first_far_row, None)
    whole, whole_lse, weight = (x[:, :, rows] for x in (output.out_BHTD, output.lse_BHT, output.share_BHT))
    for index, (keys, causal) in enumerate(_key_ranges(band)):
        out, lse = flash_forward(*_qkv(call, rows, keys), causal, call.softmax_scale)
        if index == 0:
            whole.copy_(out)
            whole_lse.copy_(lse)
        else:
            merge(whole, whole_lse, out, lse, weight)


def far_backward(call: Call, band: Band, grad_BHTD: Tensor, output: Output, grads: Grads) -> None:
    """Write the far part of the gradients of q, k and v, zero where there is none."""
    first, end = band.first_far_row, 0
    rows = slice(first, None)
    forward = output.out_BHTD[:, :, rows], output.lse_BHT[:, :, rows]
    for index, (keys, causal) in enumerate(_key_ranges(band)):
        end = keys.stop
        qkv = _qkv(call, rows, keys)
        dq, dk, dv = flash_backward(grad_BHTD[:, :, rows], forward, qkv, causal, call.softmax_scale)
        grads.dq_BHTD[:, :, rows] = dq if index == 0 else dq + grads.dq_BHTD[:, :, rows]
        grads.dk_BGSD[:, :, keys], grads.dv_BGSD[:, :, keys] = dk, dv
    grads.dq_BHTD[:, :, : first if end else None] = 0.0
    grads.dk_BGSD[:, :, end:], grads.dv_BGSD[:, :, end:] = 0.0, 0.0


def _key_ranges(band: Band) -> Iterator[tuple[slice, bool]]:
    """The keys before every far query's band (none in a call without a cache), then the square above the diagonal."""
    first = band.first_far_row
    if band.width is None or first == band.num_queries:
        return
    split = band.query_offset + first - band.width
    for keys, causal in ((slice(0, split), False), (slice(split, split + band.num_queries - first), True)):
        if keys.stop > keys.start:
            yield keys, causal


def _qkv(call: Call, rows: slice, keys: slice) -> tuple[Tensor, Tensor, Tensor]:
    return call.terms.q_BHTD[:, :, rows], call.terms.k_BGSD[:, :, keys], call.v_BGSD[:, :, keys]


def flash_forward(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    causal: bool,
    softmax_scale: float,
    row_BH1S: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The output [B,H,T,D] in q's dtype and the log-sum-exp of the scores [B,H,T] in float32 (natural logarithm).

    `row_BH1S` is added to the scores of every query, in float32 or better.
    """
    q, k, v = (rows_adjacent(x) for x in (q_BHTD, k_BGSD, v_BGSD))
    if q.device.type == "cuda":
        return _cuda_forward((q, k, v), causal, softmax_scale, row_BH1S)
    mask = None if row_BH1S is None else row_BH1S.expand(-1, -1, q.shape[2], -1)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *_cpu_inputs(q, k, v), 0.0, causal, attn_mask=mask, scale=softmax_scale
    )
    return out.to(q.dtype), lse


def flash_backward(
    grad_BHTD: Tensor,
    forward: tuple[Tensor, Tensor],
    qkv: tuple[Tensor, Tensor, Tensor],
    causal: bool,
    softmax_scale: float,
    row_BH1S: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of q, k and v, given an output and a log-sum-exp that may be those of a wider softmax.

    With the output and log-sum-exp of attention over more keys than the call's own, the gradients are the part of the
    wider attention's that falls to the call's keys.
    """
    grad, out, q, k, v = (rows_adjacent(x) for x in (grad_BHTD, forward[0], *qkv))
    if q.device.type == "cuda":
        return _cuda_backward(grad, (out, forward[1]), (q, k, v), causal, softmax_scale, row_BH1S)
    mask = None if row_BH1S is None else row_BH1S.expand(-1, -1, q.shape[2], -1)
    grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *_cpu_inputs(grad, q, k, v, out), forward[1], 0.0, causal, attn_mask=mask, scale=softmax_scale
    )
    return tuple(x.to(q.dtype) for x in grads)


def _cpu_inputs(*tensors: Tensor) -> tuple[Tensor, ...]:
    """float16 in float32: the CPU emulates half products, an order of magnitude slower than float32's."""
    return tuple(x.float() if x.dtype == torch.float16 else x for x in tensors)


def _uses_flash(q: Tensor, row_BH1S: Tensor | None) -> bool:
    """Whether the CUDA flash kernel takes the call; the efficient kernel takes the rest."""
    return q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0 and row_BH1S is None


def _cuda_bias(q: Tensor, row_BH1S: Tensor | None) -> Tensor | None:
    """The row for every query, in q's dtype and in rows of memory that begin where the efficient kernel asks it."""
    if row_BH1S is None:
        return None
    length = row_BH1S.shape[-1]
    aligned = torch.nn.functional.pad(row_BH1S.to(q.dtype), (0, -length % _BIAS_ALIGNMENT))
    return aligned.narrow(-1, 0, length).expand(-1, -1, q.shape[2], -1)


def _cuda_forward(
    qkv: tuple[Tensor, Tensor, Tensor], causal: bool, softmax_scale: float, row_BH1S: Tensor | None
) -> tuple[Tensor, Tensor]:
    q, k, v = qkv
    if _uses_flash(q, row_BH1S):
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            q, k, v, 0.0, causal, False, scale=softmax_scale
        )
        return out, lse
    k, v = _repeated(q, k, v)
    out, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, _cuda_bias(q, row_BH1S), True, 0.0, causal, scale=softmax_scale
    )
    return out, lse.narrow(2, 0, q.shape[2])


def _cuda_backward(
    grad: Tensor,
    forward: tuple[Tensor, Tensor],
    qkv: tuple[Tensor, Tensor, Tensor],
    causal: bool,
    softmax_scale: float,
    row_BH1S: Tensor | None,
) -> tuple[Tensor, ...]:
    (out, lse), (q, k, v) = forward, qkv
    no_dropout = torch.zeros((2,), dtype=torch.int64, device=q.device)
    if _uses_flash(q, row_BH1S):
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse.contiguous(), None, None, q.shape[2], k.shape[2], 0.0, causal,
            no_dropout, no_dropout, scale=softmax_scale,
        )  # fmt: skip
        return dq, dk, dv
    groups = k.shape[1]
    k, v = _repeated(q, k, v)
    lse = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % _EFFICIENT_ALIGNMENT), value=torch.inf)
    dq, dk, dv, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad, q, k, v, _cuda_bias(q, row_BH1S), out, lse, *no_dropout.unbind(), 0.0, [True, True, True, False], causal,
        scale=softmax_scale,
    )  # fmt: skip
    return dq, dk.unflatten(1, (groups, -1)).sum(2), dv.unflatten(1, (groups, -1)).sum(2)


def _repeated(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values once per query head: the efficient kernel knows no groups."""
    repeats = q.shape[1] // k.shape[1]
    if repeats == 1:
        return k, v
    return k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
