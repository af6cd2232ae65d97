"""The banded attention as one opaque operator with its own backward, for autograd and torch.compile."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wavepos.ops.banded.band import Band, aligned
from wavepos.ops.banded.far import FarCall, far_backward, far_forward
from wavepos.ops.banded.near import NearGrads, near_backward, near_forward
from wavepos.ops.banded.tile import NearCall
from wavepos.ops.mask import Mask

SHORT = 2048
"""Keys up to which everything is near on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandedCall:
    """The arguments of the operator.

    Attributes:
        q_BHTD: queries.
        k_BGSD: keys; causal calls hold query_offset + T of them.
        v_BGSD: values.
        r_BHTE: what the table is multiplied with, or None.
        table_XRE: p(δ) from δ = 0 on, X = 1 or H, zero beyond; None without r.
        bias_HR: b[h,δ] from δ = 0 on, zero beyond, or None; as long as the table if there are both.
        mask: which keys a query may see.
        softmax_scale: factor on q·k.
        relative_scale: factor on r·p.
    """

    q_BHTD: Tensor
    k_BGSD: Tensor
    v_BGSD: Tensor
    r_BHTE: Tensor | None
    table_XRE: Tensor | None
    bias_HR: Tensor | None
    mask: Mask
    softmax_scale: float
    relative_scale: float

    @property
    def band(self) -> Band:
        """Padding and documents reach into the far part, which takes no mask: then all is near."""
        length = next((x.shape[1] for x in (self.table_XRE, self.bias_HR) if x is not None), 0)
        masked = self.mask.key_padding_BS is not None or self.mask.document_ids_BS is not None
        width: int | None = 1 + aligned(length - 1) if length else 0
        if masked or not self.mask.causal or (length and self._is_short):
            width = None
        return Band(
            num_queries=self.mask.num_queries,
            num_keys=self.mask.num_keys,
            query_offset=self.mask.query_offset,
            width=width,
            table_length=length,
            causal=self.mask.causal,
        )

    @property
    def _is_short(self) -> bool:
        """Whether matrix products over all keys take less time than a band and a fused call beside it.

        On a CPU they do while the scores of a window stay in its caches; bfloat16 fused calls are faster than that.
        """
        q = self.q_BHTD
        return q.device.type == "cpu" and q.dtype != torch.bfloat16 and self.mask.num_keys <= SHORT

    def far(self) -> FarCall:
        return FarCall(
            q_BHTD=self.q_BHTD,
            k_BGSD=self.k_BGSD,
            v_BGSD=self.v_BGSD,
            band=self.band,
            softmax_scale=self.softmax_scale,
        )

    def near(self) -> NearCall:
        dtype = torch.promote_types(self.q_BHTD.dtype, torch.float32)
        return NearCall(
            q_BHTD=self.q_BHTD,
            k_BGSD=self.k_BGSD,
            v_BGSD=self.v_BGSD,
            r_BHTE=self.r_BHTE,
            table_XRE=None if self.table_XRE is None else self.table_XRE.to(dtype).flip(1).mul_(self.relative_scale),
            bias_HR=None if self.bias_HR is None else self.bias_HR.to(dtype).flip(1),
            band=replace(self.band, first_keys=self.mask.first_keys()),
            mask=self.mask,
            softmax_scale=self.softmax_scale,
        )


def banded_forward(call: BandedCall) -> tuple[Tensor, Tensor, Tensor]:
    """The output [B,H,T,D], its log-sum-exp [B,H,T] and the share of the softmax that is near [B,H,T]."""
    dtype = torch.promote_types(call.q_BHTD.dtype, torch.float32)
    out = torch.empty_like(call.q_BHTD, memory_format=torch.contiguous_format)
    lse = torch.empty(out.shape[:3], dtype=dtype, device=out.device)
    share = torch.empty_like(lse)
    far_forward(call.far(), out, lse)
    if call.band.width != 0:
        near_forward(call.near(), out, lse, share)
    return out, lse, share


def banded_backward(
    call: BandedCall, grad_BHTD: Tensor, forward: tuple[Tensor, Tensor, Tensor], wants: tuple[bool, bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v, r, table and bias.

    Args:
        call: the arguments of the operator.
        grad_BHTD: the gradient of the output.
        forward: what `banded_forward` returned.
        wants: whether the gradients of the table and of the bias are asked for.
    """
    out, lse, share = forward
    dtype = lse.dtype
    near = call.near()
    dq = torch.empty_like(call.q_BHTD, memory_format=torch.contiguous_format)
    dk, dv = (torch.empty(x.shape, dtype=dtype, device=x.device) for x in (call.k_BGSD, call.v_BGSD))
    dr = None if call.r_BHTE is None else torch.empty_like(call.r_BHTE, memory_format=torch.contiguous_format)
    dtable = torch.zeros_like(near.table_XRE, dtype=dtype) if wants[0] and near.table_XRE is not None else None
    dbias = torch.zeros_like(near.bias_HR, dtype=dtype) if wants[1] and near.bias_HR is not None else None
    far_backward(call.far(), grad_BHTD, out, lse, (dq, dk, dv))
    if call.band.width != 0:
        grads = NearGrads(dq_BHTD=dq, dk_BGSD=dk, dv_BGSD=dv, dr_BHTE=dr, dtable_XRE=dtable, dbias_HR=dbias)
        near_backward(near, grad_BHTD, out, share, grads)
    dk, dv = dk.to(call.k_BGSD.dtype), dv.to(call.v_BGSD.dtype)
    if dtable is not None and call.table_XRE is not None:
        dtable = dtable.flip(1).mul_(call.relative_scale).to(call.table_XRE.dtype)
    dbias = None if dbias is None or call.bias_HR is None else dbias.flip(1).to(call.bias_HR.dtype)
    return dq, dk, dv, dr, dtable, dbias


def _call(
    tensors: tuple[Tensor | None, ...], query_offset: int, causal: bool, scales: tuple[float, float]
) -> BandedCall:
    q, k, v, r, table, bias, padding, documents = tensors
    assert q is not None and k is not None and v is not None
    if padding is not None and bool(padding.all()):  # a compiled model cannot look, this operator can
        padding = None
    mask = Mask(
        num_queries=q.shape[2],
        num_keys=k.shape[2],
        query_offset=query_offset,
        causal=causal,
        key_padding_BS=padding,
        document_ids_BS=documents,
    )
    return BandedCall(
        q_BHTD=q,
        k_BGSD=k,
        v_BGSD=v,
        r_BHTE=r,
        table_XRE=table,
        bias_HR=bias,
        mask=mask,
        softmax_scale=scales[0],
        relative_scale=scales[1],
    )


@torch.library.custom_op("wavepos::banded", mutates_args=())
def banded_operator(  # noqa: PLR0913 - an operator's schema is flat
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None,
    table: Tensor | None,
    bias: Tensor | None,
    key_padding: Tensor | None,
    document_ids: Tensor | None,
    query_offset: int,
    causal: bool,
    softmax_scale: float,
    relative_scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`banded_forward` of the arguments that `BandedCall` describes."""
    tensors = (q, k, v, r, table, bias, key_padding, document_ids)
    return banded_forward(_call(tensors, query_offset, causal, (softmax_scale, relative_scale)))


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
    key_padding: Tensor | None,
    document_ids: Tensor | None,
    query_offset: int,
    causal: bool,
    softmax_scale: float,
    relative_scale: float,
    wants_table: bool,
    wants_bias: bool,
) -> list[Tensor]:
    """Gradients in the order of the arguments, empty tensors for those that do not exist or are not asked for."""
    tensors = (q, k, v, r, table, bias, key_padding, document_ids)
    call = _call(tensors, query_offset, causal, (softmax_scale, relative_scale))
    grads = banded_backward(call, grad, (out, lse, share), (wants_table, wants_bias))
    return [q.new_empty(0) if x is None else x for x in grads]


@backward_operator.register_fake
def _(grad: Tensor, out: Tensor, lse: Tensor, share: Tensor, *args: Any) -> list[Tensor]:
    given = (*args[:4], args[4] if args[12] else None, args[5] if args[13] else None)
    empty = grad.new_empty(0)
    return [empty if x is None else torch.empty_like(x, memory_format=torch.contiguous_format) for x in given]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:8])
    ctx.numbers = inputs[8:]
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 12
    out, lse, share, *tensors = ctx.saved_tensors
    wants = ctx.needs_input_grad[4], ctx.needs_input_grad[5]
    grads = backward_operator(grad, out, lse, share, *tensors, *ctx.numbers, *wants)
    asked = (x if x.numel() and asked else None for x, asked in zip(grads, ctx.needs_input_grad[:6], strict=True))
    return (*asked, *(None,) * 6)


def _refuse_double(ctx: Any, *_: Any) -> None:
    raise RuntimeError(
        "banded attention has no second derivative; use backend='reference' where a gradient of a gradient is needed"
    )


banded_operator.register_autograd(_backward, setup_context=_setup)
backward_operator.register_autograd(_refuse_double)
