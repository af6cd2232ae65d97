"""The near part: windows of queries and keys in reused buffers, in float32 or better, forward and backward."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wavepos.ops.banded.band import Window
from wavepos.ops.banded.tile import Block, NearCall, Sheet, hidden_score, stacked, tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class NearGrads:
    """Gradients, filled in window by window: dq and dr in their own dtype, the rest in the near part's.

    Attributes:
        dq_BHTD: holds the far part's share when the near part begins.
        dk_BGSD: likewise.
        dv_BGSD: likewise.
        dr_BHTE: or None.
        dtable_XRE: that of the call's table; None where no one asks for it.
        dbias_HR: likewise.
    """

    dq_BHTD: Tensor
    dk_BGSD: Tensor
    dv_BGSD: Tensor
    dr_BHTE: Tensor | None
    dtable_XRE: Tensor | None
    dbias_HR: Tensor | None


def near_forward(call: NearCall, out_BHTD: Tensor, lse_BHT: Tensor, share_BHT: Tensor) -> None:
    """Merge the near part into the far part's output and log-sum-exp, in place.

    Args:
        call: the near part.
        out_BHTD: the far part's output in the rows that have one; then the whole output.
        lse_BHT: the far part's log-sum-exp in the rows that have one; then that of all keys.
        share_BHT: receives the part of the softmax that lies in the near part; 0 where a query sees no key.
    """
    rounded = call.product_dtype
    for block, windows in tiles(call):
        wholes = [block.of_heads(x) for x in (out_BHTD, lse_BHT, share_BHT)]
        for window in windows:
            sheet = block.sheet(window.layout)
            _scores(block, window, sheet)
            largest = sheet.scores.amax(-1)
            _softmax(sheet)
            values = block.v[:, :, window.keys].flatten(0, 1).to(rounded)
            near = torch.bmm(sheet.stacked_weights.to(rounded), values).to(call.dtype)
            near_lse = largest.sub_(sheet.weights.amax(-1).log_())
            out, lse, share = (x[:, :, :, window.rows] for x in wholes)
            near, near_lse = near.view(out.shape), near_lse.view(lse.shape)
            if window.rows.stop > call.band.first_far_row:
                _merge(near, near_lse, (out, lse, share), call.band.first_far_row - window.rows.start)
            else:
                share.copy_(near_lse > hidden_score(call.dtype) / 2)
                lse.copy_(near_lse)
                torch.mul(near, share[..., None], out=near)
                out.copy_(near)


def _merge(near: Tensor, near_lse: Tensor, far: tuple[Tensor, Tensor, Tensor], without: int) -> None:
    """Merge a tile into the far part's output and log-sum-exp, which its first `without` queries do not have."""
    out, lse, share = far
    if without > 0:
        lse[..., :without], out[..., :without, :] = -torch.inf, 0.0
    torch.sub(near_lse, lse, out=share).sigmoid_()
    torch.logaddexp(near_lse, lse, out=lse)
    if out.dtype == near.dtype:
        out.lerp_(near, share[..., None])
    else:
        out.copy_(torch.lerp(out.to(near.dtype), near, share[..., None]))


def near_backward(call: NearCall, grad_BHTD: Tensor, out_BHTD: Tensor, share_BHT: Tensor, grads: NearGrads) -> None:
    """Add the near part of every gradient, recomputing its scores.

    Args:
        call: the near part.
        grad_BHTD: the gradient of the output.
        out_BHTD: the output.
        share_BHT: what `near_forward` found.
        grads: where to add.
    """
    rounded = call.product_dtype
    for block, windows in tiles(call):
        wholes = [block.of_heads(x) for x in (grad_BHTD, out_BHTD, share_BHT)]
        dk_dv = [block.of_groups(x) for x in (grads.dk_BGSD, grads.dv_BGSD)]
        dq = block.of_heads(grads.dq_BHTD)
        for window in windows:
            sheet = block.sheet(window.layout)
            q, k = _scores(block, window, sheet)
            _softmax(sheet)
            grad, out, share = (stacked(x, window.rows) for x in wholes)
            grad = grad * share[..., None]
            dk, dv = (x[:, :, window.keys].view(k.shape) for x in dk_dv)
            _add_product(dv, sheet.stacked_weights.to(rounded).mT, grad.to(rounded))
            values = block.v[:, :, window.keys].flatten(0, 1).to(call.dtype)
            torch.bmm(grad, values.mT, out=sheet.stacked)
            sheet.stacked.sub_((grad * out).sum(-1, keepdim=True)).mul_(sheet.stacked_weights)
            narrow = sheet.stacked.to(rounded)
            _add_product(dk, narrow.mT, q.to(rounded), call.softmax_scale)
            own = torch.bmm(narrow, k.to(rounded))
            rows = dq[:, :, :, window.rows]
            rows.add_(own.view(rows.shape), alpha=call.softmax_scale)
            _table_backward(block, window, sheet, grads)


def _add_product(total: Tensor, first: Tensor, second: Tensor, factor: float = 1.0) -> None:
    """total += factor · first · second."""
    if total.dtype == first.dtype:
        total.baddbmm_(first, second, alpha=factor)
    else:
        total.add_(torch.bmm(first, second), alpha=factor)


def _table_backward(block: Block, window: Window, sheet: Sheet, grads: NearGrads) -> None:
    """Gradients of r, table and bias from the gradient of the scores, read through the skewed view."""
    if sheet.skewed is None:
        return
    if sheet.slack is not None:
        sheet.slack.zero_()
    if grads.dr_BHTE is not None and sheet.table is not None:
        rows = block.of_heads(grads.dr_BHTE)[:, :, :, window.rows]
        rows.copy_(torch.bmm(sheet.skewed, sheet.table).view(rows.shape))
    if grads.dtable_XRE is not None and block.r is not None:
        block.add_to_table(grads.dtable_XRE, torch.bmm(sheet.skewed.mT, _by_head(block, block.r, window)))
    if grads.dbias_HR is not None:
        block.add_to_table(grads.dbias_HR, sheet.skewed.sum(1))


def _softmax(sheet: Sheet) -> None:
    """Fill in the near part's own softmax."""
    source = sheet.scores if sheet.slack is None else sheet.weights.copy_(sheet.scores)
    torch.softmax(source, -1, out=sheet.weights)


def _scores(block: Block, window: Window, sheet: Sheet) -> tuple[Tensor, Tensor]:
    """Fill in s = softmax_scale · q·k + relative_scale · r·p(δ) + b[δ], and next to nothing where hidden; q and k."""
    call = block.call
    q, k = stacked(block.q, window.rows), block.k[:, :, window.keys].flatten(0, 1)
    wide_q, wide_k = q.to(call.dtype), k.to(call.dtype)
    torch.baddbmm(sheet.stacked, wide_q, wide_k.mT, beta=0, alpha=call.softmax_scale, out=sheet.stacked)
    if sheet.skewed is not None and sheet.table is not None and block.r is not None:
        sheet.skewed.baddbmm_(_by_head(block, block.r, window), sheet.table.mT)
    if sheet.skewed is not None and sheet.bias is not None:
        sheet.skewed.add_(sheet.bias)
    for part, triangle in sheet.triangles:
        part.add_(triangle)
    allowed = call.mask.allowed_by_key(window.rows, window.keys)
    if allowed is not None:
        by_row = sheet.scores.view(-1, block.num_heads // allowed[block.batch].shape[0], *sheet.scores.shape[1:])
        by_row.masked_fill_(~allowed[block.batch], hidden_score(call.dtype))
    return q, k


def _by_head(block: Block, x: Tensor, window: Window) -> Tensor:
    """[heads, C, …] of what `Block.of_heads` gives, in the near part's dtype."""
    rows = x[:, :, :, window.rows]
    return rows.reshape(block.num_heads, *rows.shape[3:]).to(block.call.dtype)
