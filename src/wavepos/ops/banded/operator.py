"""Exact attention in memory linear in the length: a near band with the table, and plain causal attention beyond it.

Beyond the table's R displacements every score is q·k alone, so queries m ≥ R with keys n ≤ m − R are one causal call
of a fused kernel; the band between is computed tile by tile. The two meet in their log-sum-exps. The backward pass
recomputes the band and gives the fused kernel's backward the output and log-sum-exp of the whole, as in ring attention.
Gates stay near plus far: the far part takes them as a row per block of queries (`fused_calls.py`).
For autograd and torch.compile all of it is one opaque operator with its own backward.
"""

from typing import Any

import torch
from torch import Tensor

from wavepos.ops.banded.band import Band
from wavepos.ops.banded.far import far_backward, far_forward
from wavepos.ops.banded.near import near_backward, near_forward
from wavepos.ops.banded.prepare import prepared
from wavepos.ops.banded.segments import segments
from wavepos.ops.banded.single import is_single, single_attention
from wavepos.ops.banded.totals import Grads, Output
from wavepos.ops.call import TABLE_TERMS, Call, Implementation
from wavepos.ops.derivatives import refuse_forward_mode, refuse_function_transforms
from wavepos.ops.mask import Mask
from wavepos.positions.terms import ScoreTerms


def _limits(call: Call) -> str | None:
    if call.dropout > 0.0:
        return (
            f"backend='banded' has no dropout on attention weights, got dropout={call.dropout}; use dropout=0.0 or "
            "backend='reference'"
        )
    if torch.onnx.is_in_onnx_export():
        return "backend='banded' is an operator that ONNX does not know; use backend='reference'"
    return None


def _attention(call: Call) -> Tensor:
    """[B,H,T,D] in q's dtype; memory grows as T + S. RuntimeError for a derivative that there is none of."""
    refuse_forward_mode("banded", *call.tensors())
    if is_single(call):
        return single_attention(call)
    refuse_function_transforms("banded", *call.tensors())
    call = prepared(call)
    terms, mask = call.terms, call.mask
    out: Tensor
    out, _, _ = banded_operator(
        terms.q_BHTD, terms.k_BGSD, call.v_BGSD, terms.r_BHTE, terms.table, terms.bias_HR, call.sums_BHS,
        mask.key_padding_BS, mask.document_ids_BS, mask.query_offset, mask.causal, mask.window,
        terms.first_displacement, call.softmax_scale, call.relative_scale,
    )  # fmt: skip
    return out


BANDED = Implementation(
    label="backend='banded'",
    serves=TABLE_TERMS | {"first_displacement", "gates_BHS"},
    limits=_limits,
    compute=_attention,
)


def _forward(call: Call) -> Output:
    q = call.terms.q_BHTD
    lse = torch.empty(q.shape[:3], dtype=call.wide_dtype, device=q.device)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    output = Output(out_BHTD=out, lse_BHT=lse, share_BHT=torch.empty_like(lse))
    parts = segments(call.mask)
    if parts is None:
        _forward_part(call, output)
        return output
    for x in (output.out_BHTD, output.lse_BHT, output.share_BHT):
        x.zero_()  # also for queries that see no key
    for part in parts:
        _forward_part(part.call(call), part.output(output))
    return output


def _forward_part(call: Call, output: Output) -> None:
    band = Band.of(call)
    far_rows = far_forward(call, band, output)
    if band.has_near:
        near_forward(call, band, output, far_rows)
        return
    for rows in (slice(0, far_rows.start), slice(far_rows.stop, None)):
        output.out_BHTD[:, :, rows], output.lse_BHT[:, :, rows] = 0.0, 0.0


def _backward(
    call: Call, grad_BHTD: Tensor, output: Output, wants: tuple[bool, bool, bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v, r, table, bias and c; `wants`: whether those of the last three are asked for."""
    terms = call.terms
    given = (terms.table, terms.bias_HR, call.sums_BHS)
    table, bias, sums = (x if wanted else None for x, wanted in zip(given, wants, strict=True))
    dr = None if terms.r_BHTE is None else torch.empty_like(terms.r_BHTE, memory_format=torch.contiguous_format)
    dtable, dbias = (None if x is None else x.new_zeros(x.shape, dtype=call.wide_dtype) for x in (table, bias))
    dsums = None if sums is None else torch.zeros_like(sums, memory_format=torch.contiguous_format)
    grads = Grads(dr_BHTE=dr, dtable_XRE=dtable, dbias_HR=dbias, dsums_BHS=dsums)
    parts = segments(call.mask)
    if parts is None:
        dq, dk, dv = _backward_part(call, grad_BHTD, output, grads)
    else:
        dq, dk, dv = (x.new_zeros(x.shape) for x in (terms.q_BHTD, terms.k_BGSD, call.v_BGSD))
        if dr is not None:
            dr.zero_()
        for part in parts:
            found = _backward_part(part.call(call), part.of_rows(grad_BHTD), part.output(output), part.grads(grads))
            for whole, own in zip((part.of_rows(dq), part.of_keys(dk), part.of_keys(dv)), found, strict=True):
                whole.copy_(own)
    dk = dk.to(terms.k_BGSD.dtype)  # one after the other: the wide ones are let go
    dv = dv.to(call.v_BGSD.dtype)
    if dtable is not None and table is not None:
        dtable = dtable.flip(1).mul_(call.relative_scale).to(table.dtype)
    if dbias is not None and bias is not None:
        dbias = dbias.flip(1).to(bias.dtype)
    return dq, dk, dv, dr, dtable, dbias, dsums


def _backward_part(call: Call, grad_BHTD: Tensor, output: Output, grads: Grads) -> tuple[Tensor, Tensor, Tensor]:
    """dq in q's dtype, dk and dv in float32 or better; the rest is added to `grads`."""
    band = Band.of(call)
    dqkv = far_backward(call, band, grad_BHTD, output, grads)
    if band.has_near:
        near_backward(call, band, grad_BHTD, output, dqkv, grads)
    return dqkv


def _call(
    tensors: tuple[Tensor | None, ...],
    query_offset: int,
    causal: bool,
    window: int | None,
    first_displacement: int,
    scales: tuple[float, float],
) -> Call:
    """The prepared call that the operator's arguments are."""
    q, k, v, r, table, bias, sums, padding, documents = tensors
    assert q is not None and k is not None and v is not None
    if padding is not None and bool(padding.all()):  # a compiled model cannot look, this operator can
        padding = None
    mask = Mask(
        num_queries=q.shape[2],
        num_keys=k.shape[2],
        query_offset=query_offset,
        causal=causal,
        window=window,
        key_padding_BS=padding,
        document_ids_BS=documents,
    )
    terms = ScoreTerms(
        q_BHTD=q,
        k_BGSD=k,
        r_BHTE=r,
        table=table,
        bias_HR=bias,
        tail="zero",
        first_displacement=first_displacement,
        relative_scale=scales[1],
    )
    return Call(terms=terms, v_BGSD=v, mask=mask, softmax_scale=scales[0], sums_BHS=sums)


@torch.library.custom_op("wavepos::banded", mutates_args=())
def banded_operator(  # noqa: PLR0913 - an operator's schema is flat
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None,
    table: Tensor | None,
    bias: Tensor | None,
    sums: Tensor | None,
    key_padding: Tensor | None,
    document_ids: Tensor | None,
    query_offset: int,
    causal: bool,
    window: int | None,
    first_displacement: int,
    softmax_scale: float,
    relative_scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The fields of `Output` for a prepared call."""
    tensors = (q, k, v, r, table, bias, sums, key_padding, document_ids)
    output = _forward(_call(tensors, query_offset, causal, window, first_displacement, (softmax_scale, relative_scale)))
    return output.out_BHTD, output.lse_BHT, output.share_BHT


@banded_operator.register_fake
def _(q: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    lse = q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
    return torch.empty_like(q, memory_format=torch.contiguous_format), lse, torch.empty_like(lse)


@torch.library.custom_op("wavepos::banded_backward", mutates_args=())
def backward_operator(  # noqa: PLR0913 - an operator's schema is flat
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    share: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None,
    table: Tensor | None,
    bias: Tensor | None,
    sums: Tensor | None,
    key_padding: Tensor | None,
    document_ids: Tensor | None,
    query_offset: int,
    causal: bool,
    window: int | None,
    first_displacement: int,
    softmax_scale: float,
    relative_scale: float,
    wants_table: bool,
    wants_bias: bool,
    wants_sums: bool,
) -> list[Tensor]:
    """Gradients in the order of the arguments, empty tensors for those that do not exist or are not asked for."""
    tensors = (q, k, v, r, table, bias, sums, key_padding, document_ids)
    call = _call(tensors, query_offset, causal, window, first_displacement, (softmax_scale, relative_scale))
    wants = wants_table, wants_bias, wants_sums
    grads = _backward(call, grad, Output(out_BHTD=out, lse_BHT=lse, share_BHT=share), wants)
    return [q.new_empty(0) if x is None else x for x in grads]


@backward_operator.register_fake
def _(grad: Tensor, out: Tensor, lse: Tensor, share: Tensor, *args: Any) -> list[Tensor]:
    given = (*args[:4], *(x if wanted else None for x, wanted in zip(args[4:7], args[-3:], strict=True)))
    empty = grad.new_empty(0)
    return [empty if x is None else torch.empty_like(x, memory_format=torch.contiguous_format) for x in given]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:9])
    ctx.numbers = inputs[9:]
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 15
    out, lse, share, *tensors = ctx.saved_tensors
    wants = ctx.needs_input_grad[4:7]
    grads = backward_operator(grad, out, lse, share, *tensors, *ctx.numbers, *wants)
    asked = (x if x.numel() and asked else None for x, asked in zip(grads, ctx.needs_input_grad[:7], strict=True))
    return (*asked, *(None,) * 8)


def _refuse_double(ctx: Any, *_: Any) -> None:
    raise RuntimeError(
        "banded attention has no second derivative; use backend='reference' where a gradient of a gradient is needed"
    )


banded_operator.register_autograd(_differentiate, setup_context=_setup)
backward_operator.register_autograd(_refuse_double)
