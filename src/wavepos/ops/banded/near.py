"""The near part: tiles of queries and keys in reused buffers, in float32 or better, forward and backward."""

import torch
from torch import Tensor

from wavepos.ops.banded.band import Band, Tile
from wavepos.ops.banded.tile import Heads, ScoreViews, hidden_score, schedule, stacked
from wavepos.ops.banded.totals import Grads, Output, merge
from wavepos.ops.call import Call


def near_forward(call: Call, band: Band, output: Output, far_rows: slice) -> None:
    """Merge the near part into the far part's output and log-sum-exp, which need not be set outside of `far_rows`."""
    for heads, tiles in schedule(call, band):
        dtype, product_dtype = heads.workspace.dtype, heads.workspace.product_dtype
        wholes = [heads.of_heads(x) for x in (output.out_BHTD, output.lse_BHT, output.share_BHT)]
        for tile in tiles:
            views = heads.views(tile.layout)
            _scores(heads, tile, views)
            largest = views.scores.amax(-1)
            _softmax(views)
            values = heads.v[:, :, tile.keys].flatten(0, 1).to(product_dtype)
            near = torch.bmm(views.stacked_weights.to(product_dtype), values).to(dtype)
            near_lse = largest.sub_(views.weights.amax(-1).log_())
            out, lse, share = (x[:, :, :, tile.rows] for x in wholes)
            near, near_lse = near.view(out.shape), near_lse.view(lse.shape)
            if tile.rows.stop > far_rows.start and tile.rows.start < far_rows.stop:
                for rows in _without(tile.rows, far_rows):
                    lse[..., rows], out[..., rows, :] = -torch.inf, 0.0
                merge(out, lse, near, near_lse, share)
                if band.is_blind:
                    seen = lse > hidden_score(dtype) / 2
                    share.mul_(seen)
                    out.mul_(seen[..., None])
            else:
                share.copy_(near_lse > hidden_score(dtype) / 2)
                lse.copy_(near_lse)
                torch.mul(near, share[..., None], out=near)
                out.copy_(near)


def near_backward(
    call: Call,
    band: Band,
    grad_BHTD: Tensor,
    output: Output,
    dqkv: tuple[Tensor, Tensor, Tensor],
    grads: Grads,
) -> None:
    """Add the near part of every gradient, recomputing its scores."""
    for heads, tiles in schedule(call, band):
        dtype, product_dtype = heads.workspace.dtype, heads.workspace.product_dtype
        wholes = [heads.of_heads(x) for x in (grad_BHTD, output.out_BHTD, output.share_BHT)]
        dk_dv = [heads.of_groups(x) for x in dqkv[1:]]
        dq = heads.of_heads(dqkv[0])
        for tile in tiles:
            views = heads.views(tile.layout)
            q, k = _scores(heads, tile, views)
            _softmax(views)
            grad, out, share = (stacked(x, tile.rows) for x in wholes)
            grad = grad * share[..., None]
            dk, dv = (x[:, :, tile.keys].view(k.shape) for x in dk_dv)
            _add_product(dv, views.stacked_weights.to(product_dtype).mT, grad.to(product_dtype))
            values = heads.v[:, :, tile.keys].flatten(0, 1).to(dtype)
            torch.bmm(grad, values.mT, out=views.stacked)
            views.stacked.sub_((grad * out).sum(-1, keepdim=True)).mul_(views.stacked_weights)
            narrow = views.stacked.to(product_dtype)
            _add_product(dk, narrow.mT, q.to(product_dtype), call.softmax_scale)
            own = torch.bmm(narrow, k.to(product_dtype))
            rows = dq[:, :, :, tile.rows]
            rows.add_(own.view(rows.shape), alpha=call.softmax_scale)
            if grads.dsums_BHS is not None:
                _add_to_sums(heads, tile, views.scores, heads.of_heads(grads.dsums_BHS))
            _table_backward(heads, tile, views, grads)


def _add_to_sums(heads: Heads, tile: Tile, dscores: Tensor, dsums: Tensor) -> None:
    """The gradient of c[m] − c[n]: the sum of a query's row to c[m], those of the keys' columns from c[n].

    Rows sum to zero but for rounding; without theirs, rounding would count once per key that c has run over. So would
    that of float32 sums: a gate's gradient is a sum over all that crosses it.
    """
    of_keys, of_queries = dsums[..., tile.keys], dsums[..., heads.positions(tile)]
    of_keys.sub_(dscores.sum(1, dtype=dsums.dtype).view(of_keys.shape))
    of_queries.add_(dscores.sum(-1, dtype=dsums.dtype).view(of_queries.shape))


def _without(rows: slice, far_rows: slice) -> tuple[slice, slice]:
    """The rows before and after the far ones, counted from the first."""
    size = rows.stop - rows.start
    return slice(0, max(0, far_rows.start - rows.start)), slice(max(0, min(size, far_rows.stop - rows.start)), size)


def _add_product(total: Tensor, first: Tensor, second: Tensor, factor: float = 1.0) -> None:
    """total += factor · first · second."""
    if total.dtype == first.dtype:
        total.baddbmm_(first, second, alpha=factor)
    else:
        total.add_(torch.bmm(first, second), alpha=factor)


def _table_backward(heads: Heads, tile: Tile, views: ScoreViews, grads: Grads) -> None:
    """Gradients of r, table and bias from the gradient of the scores, read through the skewed view."""
    if views.skewed is None:  # there is no table, or its queries are too far from all keys
        if grads.dr_BHTE is not None:
            heads.of_heads(grads.dr_BHTE)[:, :, :, tile.rows] = 0.0
        return
    for slack in views.slack:
        slack.zero_()
    if grads.dr_BHTE is not None and views.table is not None:
        rows = heads.of_heads(grads.dr_BHTE)[:, :, :, tile.rows]
        rows.copy_(torch.bmm(views.skewed, views.table).view(rows.shape))
    if grads.dtable_XRE is not None and heads.r is not None:
        product = torch.bmm(views.skewed.mT, _by_head(heads, heads.r, tile))
        heads.add_to_table(grads.dtable_XRE, product, tile.layout.entries)
    if grads.dbias_HR is not None:
        heads.add_to_table(grads.dbias_HR, views.skewed.sum(1), tile.layout.entries)


def _softmax(views: ScoreViews) -> None:
    """Fill in the near part's own softmax."""
    source = views.weights.copy_(views.scores) if views.slack else views.scores
    torch.softmax(source, -1, out=views.weights)


def _scores(heads: Heads, tile: Tile, views: ScoreViews) -> tuple[Tensor, Tensor]:
    """Fill in s = softmax_scale · q·k + relative_scale · r·p(δ) + b[δ] + c, next to nothing where hidden; q and k."""
    call, dtype = heads.workspace.call, heads.workspace.dtype
    q, k = stacked(heads.q, tile.rows), heads.k[:, :, tile.keys].flatten(0, 1)
    wide_q, wide_k = q.to(dtype), k.to(dtype)
    if heads.sums is not None:
        _gates(heads, tile, heads.sums.flatten(0, 2), views.scores)
    beta = 0 if heads.sums is None else 1
    torch.baddbmm(views.stacked, wide_q, wide_k.mT, beta=beta, alpha=call.softmax_scale, out=views.stacked)
    if views.skewed is not None and views.table is not None and heads.r is not None:
        views.skewed.baddbmm_(_by_head(heads, heads.r, tile), views.table.mT)
    if views.skewed is not None and views.bias is not None:
        views.skewed.add_(views.bias)
    for part, triangle in views.triangles:
        part.masked_fill_(triangle, hidden_score(dtype))
    allowed = call.mask.allowed_by_key(tile.rows, tile.keys)
    if allowed is not None:
        by_row = views.scores.view(-1, heads.count // allowed[heads.batch].shape[0], *views.scores.shape[1:])
        by_row.masked_fill_(~allowed[heads.batch], hidden_score(dtype))
    return q, k


def _gates(heads: Heads, tile: Tile, sums_HP: Tensor, scores: Tensor) -> None:
    """Fill in c[m] − c[n]: for keys before the tile's queries a sum of two numbers of one sign: nothing cancels."""
    positions = heads.positions(tile)
    own, origin = sums_HP[:, positions], sums_HP[:, positions.start : positions.start + 1]
    num_before = min(positions.start - tile.keys.start, scores.shape[-1])
    before, after = sums_HP[:, tile.keys].tensor_split([num_before], -1)
    column, row = (own - origin)[..., None].to(scores.dtype), (origin - before)[:, None].to(scores.dtype)
    torch.add(column, row, out=scores[..., :num_before])
    scores[..., num_before:].copy_(own[..., None] - after[:, None])


def _by_head(heads: Heads, x: Tensor, tile: Tile) -> Tensor:
    """[heads, C, …] of what `Heads.of_heads` gives, in the near part's dtype."""
    rows = x[:, :, :, tile.rows]
    return rows.reshape(heads.count, *rows.shape[3:]).to(heads.workspace.dtype)
