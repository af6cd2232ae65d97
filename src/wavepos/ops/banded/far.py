"""The far part: every pair of query and key that is seen and not near, by PyTorch's own fused kernels.

One small adapter per device: their private signatures differ, and a test pins the one of the CPU. They check no
strides, as `scaled_dot_product_attention` does before it calls them, so every input is made to lie in memory as they
read it. Causal calls are square (T = S). No call here masks a whole row: the CPU's kernel would answer such a row with
a log-sum-exp of 0.
"""

import torch
from torch import Tensor

from wavepos.ops.banded.band import Band
from wavepos.ops.banded.pieces import Piece
from wavepos.ops.banded.totals import Grads, Output, merge
from wavepos.ops.call import Call
from wavepos.ops.strides import rows_adjacent

_EFFICIENT_ALIGNMENT = 32
"""The efficient CUDA kernel reads log-sum-exps in rows whose length is a multiple of this."""


def far_forward(call: Call, band: Band, output: Output) -> slice:
    """Write the far part's output and log-sum-exp; the rows it has written, from the first with a key of it on."""
    pieces = band.far()
    if not pieces:
        return slice(0, 0)
    written = slice(min(x.rows.start for x in pieces), max(x.rows.stop for x in pieces))
    if any(x.rows != written for x in pieces):
        output.out_BHTD[:, :, written], output.lse_BHT[:, :, written] = 0.0, -torch.inf
        output.share_BHT[:, :, written] = 0.0
    for index, piece in enumerate(pieces):
        whole, whole_lse, weight = (x[:, :, piece.rows] for x in (output.out_BHTD, output.lse_BHT, output.share_BHT))
        q, k, v = (_turned(piece, x) for x in _qkv(call, piece))
        out, lse = (_turned(piece, x) for x in flash_forward(q, k, v, piece.shape != "whole", call.softmax_scale))
        if index == 0 and piece.rows == written:
            whole.copy_(out)
            whole_lse.copy_(lse)
        else:
            merge(whole, whole_lse, out, lse, weight)
    return written


def far_backward(call: Call, band: Band, grad_BHTD: Tensor, output: Output, grads: Grads) -> None:
    """Write the far part of the gradients of q, k and v, zero where there is none."""
    pieces = band.far()
    alone = len(pieces) == 1
    for total in (grads.dq_BHTD, grads.dk_BGSD, grads.dv_BGSD) if not alone else ():
        total.zero_()
    for piece in pieces:
        given = grad_BHTD[:, :, piece.rows], output.out_BHTD[:, :, piece.rows], output.lse_BHT[:, :, piece.rows]
        grad, out, lse = (_turned(piece, x) for x in given)
        q, k, v = (_turned(piece, x) for x in _qkv(call, piece))
        parts = flash_backward(grad, (out, lse), (q, k, v), piece.shape != "whole", call.softmax_scale)
        totals = (grads.dq_BHTD, piece.rows), (grads.dk_BGSD, piece.keys), (grads.dv_BGSD, piece.keys)
        for (total, at), part in zip(totals, parts, strict=True):
            if alone:
                total[:, :, : at.start], total[:, :, at.stop :] = 0.0, 0.0
                total[:, :, at] = _turned(piece, part)
            else:
                total[:, :, at].add_(_turned(piece, part))


def _qkv(call: Call, piece: Piece) -> tuple[Tensor, Tensor, Tensor]:
    return (call.terms.q_BHTD[:, :, piece.rows], call.terms.k_BGSD[:, :, piece.keys], call.v_BGSD[:, :, piece.keys])


def _turned(piece: Piece, x: Tensor) -> Tensor:
    """Rows or keys in the order in which the piece is causal attention."""
    return x.flip(2) if piece.shape == "upper" else x


def flash_forward(
    q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, causal: bool, softmax_scale: float
) -> tuple[Tensor, Tensor]:
    """The output [B,H,T,D] in q's dtype and the log-sum-exp of the scores [B,H,T] in float32 (natural logarithm)."""
    q, k, v = (rows_adjacent(x) for x in (q_BHTD, k_BGSD, v_BGSD))
    if q.device.type == "cuda":
        return _cuda_forward(q, k, v, causal, softmax_scale)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *_cpu_inputs(q, k, v), 0.0, causal, scale=softmax_scale
    )
    return out.to(q.dtype), lse


def flash_backward(
    grad_BHTD: Tensor,
    forward: tuple[Tensor, Tensor],
    qkv: tuple[Tensor, Tensor, Tensor],
    causal: bool,
    softmax_scale: float,
) -> tuple[Tensor, ...]:
    """Gradients of q, k and v, given an output and a log-sum-exp that may be those of a wider softmax.

    With the output and log-sum-exp of attention over more keys than the call's own, the gradients are the part of the
    wider attention's that falls to the call's keys.
    """
    grad, out, q, k, v = (rows_adjacent(x) for x in (grad_BHTD, forward[0], *qkv))
    if q.device.type == "cuda":
        return _cuda_backward(grad, (out, forward[1]), (q, k, v), causal, softmax_scale)
    grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *_cpu_inputs(grad, q, k, v, out), forward[1], 0.0, causal, scale=softmax_scale
    )
    return tuple(x.to(q.dtype) for x in grads)


def _cpu_inputs(*tensors: Tensor) -> tuple[Tensor, ...]:
    """float16 in float32: the CPU emulates half products, an order of magnitude slower than float32's."""
    return tuple(x.float() if x.dtype == torch.float16 else x for x in tensors)


def _uses_flash(q: Tensor) -> bool:
    """Whether the CUDA flash kernel takes the call; the efficient kernel takes the rest."""
    return q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0


def _cuda_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, softmax_scale: float) -> tuple[Tensor, Tensor]:
    if _uses_flash(q):
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            q, k, v, 0.0, causal, False, scale=softmax_scale
        )
        return out, lse
    k, v = _repeated(q, k, v)
    out, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, None, True, 0.0, causal, scale=softmax_scale
    )
    return out, lse.narrow(2, 0, q.shape[2])


def _cuda_backward(
    grad: Tensor,
    forward: tuple[Tensor, Tensor],
    qkv: tuple[Tensor, Tensor, Tensor],
    causal: bool,
    softmax_scale: float,
) -> tuple[Tensor, ...]:
    (out, lse), (q, k, v) = forward, qkv
    no_dropout = torch.zeros((2,), dtype=torch.int64, device=q.device)
    if _uses_flash(q):
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse.contiguous(), None, None, q.shape[2], k.shape[2], 0.0, causal,
            no_dropout, no_dropout, scale=softmax_scale,
        )  # fmt: skip
        return dq, dk, dv
    groups = k.shape[1]
    k, v = _repeated(q, k, v)
    lse = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % _EFFICIENT_ALIGNMENT), value=torch.inf)
    dq, dk, dv, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad, q, k, v, None, out, lse, *no_dropout.unbind(), 0.0, [True, True, True, False], causal,
        scale=softmax_scale,
    )  # fmt: skip
    return dq, dk.unflatten(1, (groups, -1)).sum(2), dv.unflatten(1, (groups, -1)).sum(2)


def _repeated(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values once per query head: the efficient kernel knows no groups."""
    repeats = q.shape[1] // k.shape[1]
    if repeats == 1:
        return k, v
    return k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
