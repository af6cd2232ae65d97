"""The far part: every pair of query and key that is seen and not near, by PyTorch's own fused kernels.

One small adapter per device: their private signatures differ, and a test pins the one of the CPU. They check no
strides, as `scaled_dot_product_attention` does before it calls them, so every input is made to lie in memory as they
read it. Causal calls are square (T = S). No call here masks a whole row: the CPU's kernel would answer such a row with
a log-sum-exp of 0.
"""

import torch
from torch import Tensor

from wavepos.ops.banded.band import Band
from wavepos.ops.banded.fused_calls import FusedCall, fused_calls
from wavepos.ops.banded.gated import Columns
from wavepos.ops.banded.totals import Grads, Output, merge
from wavepos.ops.call import Call
from wavepos.ops.strides import rows_adjacent

_EFFICIENT_ALIGNMENT = 32
"""The efficient CUDA kernel reads log-sum-exps in rows whose length is a multiple of this."""
_BIAS_ALIGNMENT = 16
"""And rows of a bias that begin at multiples of so many entries."""


def far_forward(call: Call, band: Band, output: Output) -> slice:
    """Write the far part's output and log-sum-exp; the rows it has written, from the first with a key of it on."""
    calls = list(fused_calls(call, band))
    if not calls:
        return slice(0, 0)
    written = slice(min(x.rows.start for x in calls), max(x.rows.stop for x in calls))
    if any(not x.has_all(written) for x in calls):
        output.out_BHTD[:, :, written], output.lse_BHT[:, :, written] = 0.0, -torch.inf
        output.share_BHT[:, :, written] = 0.0
    for index, fused in enumerate(calls):
        q, k, v = fused.qkv(call.terms.q_BHTD, call.terms.k_BGSD, call.v_BGSD)
        out, lse = flash_forward(q, k, v, fused.causal, call.softmax_scale, fused.row())
        out, lse = fused.turned(out), fused.turned(fused.with_own_gates(lse))
        whole, whole_lse, weight = map(fused.of_rows, (output.out_BHTD, output.lse_BHT, output.share_BHT))
        if index == 0 and fused.has_all(written):
            whole.copy_(out)
            whole_lse.copy_(lse)
        else:
            merge(whole, whole_lse, out, lse, weight)
    return written


def far_backward(
    call: Call, band: Band, grad_BHTD: Tensor, output: Output, grads: Grads
) -> tuple[Tensor, Tensor, Tensor]:
    """dq in q's dtype, dk and dv in float32 or better: their far part, zero where there is none. That of c is added.

    The three are made one after the other, while the results of the first fused call are let go: both at once would be
    the most memory that a call takes.
    """
    calls = list(fused_calls(call, band))
    k, v = call.terms.k_BGSD, call.v_BGSD
    columns = Columns.of(call) if calls and grads.dsums_BHS is not None else None
    if columns is not None:
        k, v = columns.keys(k), columns.zeros(v)
    totals: list[Tensor] = []
    for fused in calls:
        qkv = fused.qkv(call.terms.q_BHTD, k, v)
        grad, out, lse = (fused.turned(fused.of_rows(x)) for x in (grad_BHTD, output.out_BHTD, output.lse_BHT))
        if columns is not None:
            qkv = (columns.queries(qkv[0]), *qkv[1:])
            grad, out = columns.zeros(grad), columns.zeros(out)
        forward = out, fused.without_own_gates(lse)
        row = fused.row()
        parts = [fused.turned(x) for x in flash_backward(grad, forward, qkv, fused.causal, call.softmax_scale, row)]
        if columns is not None and grads.dsums_BHS is not None:
            of_keys, of_queries = fused.of_sums(grads.dsums_BHS)
            of_keys.sub_(columns.sums_of_keys(parts[1]), alpha=1.0 / call.softmax_scale)
            of_queries.add_(columns.sums_of_queries(parts[0]), alpha=1.0 / call.softmax_scale)
        _add_parts(call, fused, totals, parts)
    dq, dk, dv = totals or (_zeros(call, index) for index in range(3))
    return dq, dk, dv


def _add_parts(call: Call, fused: FusedCall, totals: list[Tensor], parts: list[Tensor]) -> None:
    """Add a fused call's gradients of q, k and v to the totals, which the first one makes; `parts` is emptied."""
    for index in range(3):
        if len(totals) == index:
            totals.append(_zeros(call, index))
        own = fused.of_keys(totals[index]) if index else fused.of_rows(totals[index])
        own.add_(parts.pop(0)[..., : own.shape[-1]])


def _zeros(call: Call, index: int) -> Tensor:
    """A total of q, k or v, zero."""
    x = (call.terms.q_BHTD, call.terms.k_BGSD, call.v_BGSD)[index]
    return torch.zeros(x.shape, dtype=call.wide_dtype if index else x.dtype, device=x.device)


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
