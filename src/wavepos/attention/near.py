"""The near part: windows of queries and keys in reused buffers, in float32 or better, forward and backward."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wavepos.attention.tile import NearCall, Tile, tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class NearGrads:
    """Gradients, filled in window by window: dq and dr in their own dtype, the rest in the near part's.

    Attributes:
        dq_BHTD: holds the far part's share when the near part begins.
        dk_BGSD: likewise.
        dv_BGSD: likewise.
        dr_BHTE: or None.
        dtable_XRE: displacements falling; None where no one asks for it.
        dbias_HR: likewise.
    """

    dq_BHTD: Tensor
    dk_BGSD: Tensor
    dv_BGSD: Tensor
    dr_BHTE: Tensor | None
    dtable_XRE: Tensor | None
    dbias_HR: Tensor | None


class _Buffers:
    """Two reused buffers of scores, as large as the largest tile needs, and the triangles that hide scores."""

    def __init__(self, call: NearCall) -> None:
        size = max(tile.num_heads * tile.window.num_queries * tile.window.row_length for tile in tiles(call))
        self.skewable = torch.empty(size, dtype=call.dtype, device=call.q_BHTD.device)
        self._plain = torch.empty_like(self.skewable)
        self._triangles: dict[tuple[int, int, bool], Tensor] = {}

    def triangle(self, size: int, diagonal: int, *, upper: bool) -> Tensor:
        """bool [size, size], true from that diagonal on, upwards or downwards."""
        key = size, diagonal, upper
        if key not in self._triangles:
            square = torch.ones(size, size, dtype=torch.bool, device=self.skewable.device)
            self._triangles[key] = square.triu(diagonal) if upper else square.tril(diagonal)
        return self._triangles[key]

    def plain(self, num_heads: int, num_queries: int, num_keys: int) -> Tensor:
        return self._plain[: num_heads * num_queries * num_keys].view(num_heads, num_queries, num_keys)


def near_forward(call: NearCall, out_BHTD: Tensor, lse_BHT: Tensor, share_BHT: Tensor) -> None:
    """Merge the near part into the far part's output and log-sum-exp, in place.

    Args:
        call: the near part.
        out_BHTD: the far part's output in the rows that have one; then the whole output.
        lse_BHT: the far part's log-sum-exp in the rows that have one; then that of all keys.
        share_BHT: receives the part of the softmax that lies in the near part; 0 where a query sees no key.
    """
    buffers, rounded = _Buffers(call), call.product_dtype
    for tile in tiles(call):
        weights, largest = _softmax(tile, buffers)
        near = torch.bmm(tile.by_stack(weights).to(rounded), tile.of_keys(call.v_BGSD).to(rounded)).to(call.dtype)
        near_lse = tile.unstacked(largest - weights.amax(-1).log_())
        out, lse, share = (tile.of_queries(x) for x in (out_BHTD, lse_BHT, share_BHT))
        near = tile.unstacked(near)
        if tile.has_far_rows:
            without = max(0, call.band.first_far_row - tile.window.rows.start)
            lse[..., :without], out[..., :without, :] = -torch.inf, 0.0
            torch.sigmoid(near_lse - lse, out=share)
            lse.copy_(torch.logaddexp(near_lse, lse))
            near = torch.lerp(out.to(near.dtype), near, share[..., None])
        else:
            share.copy_(tile.unstacked(largest > _hidden(call.dtype) / 2))
            lse.copy_(near_lse)
            near.mul_(share[..., None])
        out.copy_(near)


def near_backward(call: NearCall, grad_BHTD: Tensor, out_BHTD: Tensor, share_BHT: Tensor, grads: NearGrads) -> None:
    """Add the near part of every gradient, recomputing its scores.

    Args:
        call: the near part.
        grad_BHTD: the gradient of the output.
        out_BHTD: the output.
        share_BHT: what `near_forward` found.
        grads: where to add.
    """
    buffers, rounded = _Buffers(call), call.product_dtype
    for tile in tiles(call):
        weights, _ = _softmax(tile, buffers)
        share = tile.stacked(share_BHT)[..., None]
        grad = tile.stacked(grad_BHTD) * share
        weights = tile.by_stack(weights)
        tile.of_keys(grads.dv_BGSD).add_(torch.bmm(weights.to(rounded).mT, grad.to(rounded)))
        dscores = tile.by_stack(tile.window.scores(buffers.skewable, tile.num_heads))
        torch.bmm(grad, tile.of_keys(call.v_BGSD).to(call.dtype).mT, out=dscores)
        if tile.has_far_rows:
            dscores.sub_((grad * tile.stacked(out_BHTD)).sum(-1, keepdim=True)).mul_(weights)
        else:
            dscores.copy_(torch._softmax_backward_data(dscores, weights, -1, call.dtype))
        narrow = dscores.to(rounded)
        dk = torch.bmm(narrow.mT, tile.stacked(call.q_BHTD, rounded))
        tile.of_keys(grads.dk_BGSD).add_(dk, alpha=call.softmax_scale)
        dq = torch.bmm(narrow, tile.of_keys(call.k_BGSD).to(rounded))
        tile.of_queries(grads.dq_BHTD).add_(tile.unstacked(dq), alpha=call.softmax_scale)
        _table_backward(tile, buffers, grads)


def _table_backward(tile: Tile, buffers: _Buffers, grads: NearGrads) -> None:
    """Gradients of r, table and bias from the gradient of the scores, read through the skewed view."""
    call, length = tile.call, tile.window.table_length
    if not length:
        return
    tile.window.clear_slack(buffers.skewable, tile.num_heads)
    dproducts = tile.window.skewed(buffers.skewable, tile.num_heads)
    if grads.dr_BHTE is not None and call.table_XRE is not None and call.r_BHTE is not None:
        dr = torch.bmm(dproducts, tile.of_heads(call.table_XRE)).mul_(call.relative_scale)
        tile.of_queries(grads.dr_BHTE).copy_(tile.unstacked(dr))
        if grads.dtable_XRE is not None:
            of_r = tile.by_head(tile.stacked(call.r_BHTE))
            tile.add_to_table(grads.dtable_XRE, torch.bmm(dproducts.mT, of_r).mul_(call.relative_scale))
    if grads.dbias_HR is not None:
        tile.add_to_table(grads.dbias_HR, dproducts.sum(1))


def _softmax(tile: Tile, buffers: _Buffers) -> tuple[Tensor, Tensor]:
    """The near part's own softmax [heads, C, K] and the largest score [heads, C] of each query."""
    scores = _scores(tile, buffers)
    largest = scores.amax(-1)
    weights = buffers.plain(*scores.shape)
    source = scores if scores.is_contiguous() else weights.copy_(scores)
    torch.softmax(source, -1, out=weights)
    return weights, largest


def _scores(tile: Tile, buffers: _Buffers) -> Tensor:
    """s = softmax_scale · q·k + relative_scale · r·p(δ) + b[δ], [heads, C, K], and the lowest number where hidden."""
    call, window = tile.call, tile.window
    scores = window.scores(buffers.skewable, tile.num_heads)
    stacked, keys = tile.by_stack(scores), tile.of_keys(call.k_BGSD).to(call.dtype)
    torch.baddbmm(stacked, tile.stacked(call.q_BHTD), keys.mT, beta=0, alpha=call.softmax_scale, out=stacked)
    if window.table_length:
        skewed = window.skewed(buffers.skewable, tile.num_heads)
        if call.r_BHTE is not None and call.table_XRE is not None:
            of_r = tile.by_head(tile.stacked(call.r_BHTE))
            skewed.baddbmm_(of_r, tile.of_heads(call.table_XRE).mT, alpha=call.relative_scale)
        if call.bias_HR is not None:
            skewed.add_(tile.of_heads(call.bias_HR)[:, None])
    _hide(tile, scores, buffers)
    return scores


def _hide(tile: Tile, scores: Tensor, buffers: _Buffers) -> None:
    """Put the lowest number where a query may not see a key."""
    call, window = tile.call, tile.window
    lowest, size = _hidden(call.dtype), window.num_queries
    if window.future:
        scores[..., window.num_keys - size :].masked_fill_(buffers.triangle(size, 1, upper=True), lowest)
    if window.beyond is not None:
        scores[..., :size].masked_fill_(buffers.triangle(size, window.beyond, upper=False), lowest)
    allowed = call.mask.allowed_by_key(window.rows, window.keys)
    if allowed is not None:
        scores.view(-1, tile.num_heads // (tile.batch.stop - tile.batch.start), *scores.shape[1:]).masked_fill_(
            ~allowed[tile.batch], lowest
        )


def _hidden(dtype: torch.dtype) -> float:
    """A score without weight beside any real one, finite so that a query that sees no key gives no NaN."""
    return torch.finfo(dtype).min / 4
