"""The near part: windows of queries and keys in one reused buffer, in float32 or better, forward and backward."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wavepos.attention.band import Band, Window
from wavepos.attention.mask import Mask

_CPU_SCORES = 1 << 19
_GPU_SCORES = 1 << 26
"""Scores held at once: on a CPU what its caches hold, on a GPU enough to fill it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearCall:
    """What the near part is computed from.

    Attributes:
        q_BHTD: queries.
        k_BGSD: keys.
        v_BGSD: values.
        r_BHTE: what the table is multiplied with, or None.
        table_XRE: table with displacements falling, X = 1 or H, or None.
        bias_HR: bias with displacements falling, or None.
        band: which keys are near.
        mask: further conditions (padding, documents).
        softmax_scale: factor on q·k.
        relative_scale: factor on r·p.
    """

    q_BHTD: Tensor
    k_BGSD: Tensor
    v_BGSD: Tensor
    r_BHTE: Tensor | None
    table_XRE: Tensor | None
    bias_HR: Tensor | None
    band: Band
    mask: Mask
    softmax_scale: float
    relative_scale: float

    @property
    def dtype(self) -> torch.dtype:
        return torch.promote_types(self.q_BHTD.dtype, torch.float32)

    @property
    def num_groups(self) -> int:
        return self.k_BGSD.shape[1]

    @property
    def heads_per_group(self) -> int:
        return self.q_BHTD.shape[1] // self.k_BGSD.shape[1]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tile:
    """One window for some batch rows and key/value heads, with every query head of theirs."""

    call: NearCall
    window: Window
    batch: slice
    groups: slice

    def of_queries(self, x_BH: Tensor) -> Tensor:
        """x's part, a view: [batch, groups, heads of a group, C, …]."""
        return _split(x_BH, 1, self.call.num_groups)[self.batch, self.groups, :, self.window.rows]

    def of_keys(self, x_BGSD: Tensor) -> Tensor:
        """x's part: [batch · groups, K, D]; a view where x is contiguous."""
        return x_BGSD[self.batch, self.groups, self.window.keys].flatten(0, 1)

    def add_to_table(self, sum_XR: Tensor, x: Tensor) -> None:
        """Add a gradient once a head, [heads, R in use, …], to that of the reversed table."""
        used = sum_XR[:, sum_XR.shape[1] - self.window.table_length :]
        if used.shape[0] == 1:
            used.add_(x.sum(0, keepdim=True))
        else:
            heads = x.view(-1, self.groups.stop - self.groups.start, self.call.heads_per_group, *x.shape[1:])
            _split(used, 0, self.call.num_groups)[self.groups].add_(heads.sum(0))

    def of_heads(self, x_XR: Tensor) -> Tensor:
        """The rows of a reversed table in use, once a head: [batch · groups · heads of a group, R, …]."""
        used = x_XR[:, x_XR.shape[1] - self.window.table_length :].to(self.call.dtype)
        if used.shape[0] == 1:
            return used.expand(self.num_heads, *used.shape[1:])
        of_groups = _split(used, 0, self.call.num_groups)[self.groups]
        return of_groups.expand(self.batch.stop - self.batch.start, *of_groups.shape).flatten(0, 2)

    def stacked(self, x_BHTD: Tensor) -> Tensor:
        """The queries of a group one below the other: [batch · groups, heads of a group · C, D]."""
        return self.of_queries(x_BHTD).to(self.call.dtype).flatten(2, 3).flatten(0, 1)

    def by_head(self, x: Tensor) -> Tensor:
        """[heads, C, …] of what is stacked."""
        return x.view(self.num_heads, self.window.num_queries, *x.shape[2:])

    def by_stack(self, x: Tensor) -> Tensor:
        """Stacked [batch · groups, heads of a group · C, …] of [heads, C, …]."""
        return _split(x.flatten(0, 1), 0, self.num_stacks)

    def unstacked(self, x: Tensor) -> Tensor:
        """[batch, groups, heads of a group, C, …] of what is stacked, or of [heads, C, …]."""
        shape = (self.batch.stop - self.batch.start, -1, self.call.heads_per_group, self.window.num_queries)
        return x.reshape(*shape, *x.shape[2:])

    @property
    def has_far_rows(self) -> bool:
        """Whether some query of the window has keys in the far part."""
        return bool(self.window.rows.stop > self.call.band.first_far_row)

    @property
    def num_stacks(self) -> int:
        return int((self.batch.stop - self.batch.start) * (self.groups.stop - self.groups.start))

    @property
    def num_heads(self) -> int:
        return self.num_stacks * self.call.heads_per_group


def _tiles(call: NearCall) -> Iterator[_Tile]:
    """Windows in order; within each as many heads at once as the budget of scores holds."""
    batch, heads = call.q_BHTD.shape[:2]
    budget = _CPU_SCORES if call.q_BHTD.device.type == "cpu" else _GPU_SCORES
    for window in call.band.windows(_chunk(call)):
        stacks = max(1, budget // (call.heads_per_group * window.num_queries * window.row_length))
        num_batch, num_groups = max(1, stacks // call.num_groups), min(stacks, call.num_groups)
        for row in range(0, batch, num_batch):
            for group in range(0, call.num_groups, num_groups):
                yield _Tile(
                    call=call,
                    window=window,
                    batch=slice(row, min(row + num_batch, batch)),
                    groups=slice(group, min(group + num_groups, heads // call.heads_per_group)),
                )


def _chunk(call: NearCall) -> int:
    """Queries a window: few waste little of the band's edges, many make large products."""
    if call.q_BHTD.device.type != "cpu":
        return 256
    return 128 if call.band.num_keys > 512 else 64


class _Buffers:
    """Two reused buffers of scores, as large as the largest tile needs."""

    def __init__(self, call: NearCall) -> None:
        size = max(tile.num_heads * tile.window.num_queries * tile.window.row_length for tile in _tiles(call))
        self.skewable = torch.empty(size, dtype=call.dtype, device=call.q_BHTD.device)
        self._plain = torch.empty_like(self.skewable)

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
    buffers = _Buffers(call)
    for tile in _tiles(call):
        weights, largest = _softmax(tile, buffers)
        near = torch.bmm(tile.by_stack(weights), tile.of_keys(call.v_BGSD).to(call.dtype))
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
    buffers = _Buffers(call)
    for tile in _tiles(call):
        weights, _ = _softmax(tile, buffers)
        share = tile.stacked(share_BHT)[..., None]
        grad = tile.stacked(grad_BHTD) * share
        keys, values = (tile.of_keys(x).to(call.dtype) for x in (call.k_BGSD, call.v_BGSD))
        weights = tile.by_stack(weights)
        tile.of_keys(grads.dv_BGSD).baddbmm_(weights.mT, grad)
        dscores = tile.by_stack(tile.window.scores(buffers.skewable, tile.num_heads))
        torch.bmm(grad, values.mT, out=dscores)
        if tile.has_far_rows:
            dscores.sub_((grad * tile.stacked(out_BHTD)).sum(-1, keepdim=True)).mul_(weights)
        else:
            dscores.copy_(torch._softmax_backward_data(dscores, weights, -1, call.dtype))
        tile.of_keys(grads.dk_BGSD).baddbmm_(dscores.mT, tile.stacked(call.q_BHTD), alpha=call.softmax_scale)
        dq = torch.bmm(dscores, keys)
        tile.of_queries(grads.dq_BHTD).add_(tile.unstacked(dq), alpha=call.softmax_scale)
        _table_backward(tile, buffers, grads)


def _table_backward(tile: _Tile, buffers: _Buffers, grads: NearGrads) -> None:
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


def _softmax(tile: _Tile, buffers: _Buffers) -> tuple[Tensor, Tensor]:
    """The near part's own softmax [heads, C, K] and the largest score [heads, C] of each query."""
    scores = _scores(tile, buffers.skewable)
    largest = scores.amax(-1)
    weights = buffers.plain(*scores.shape)
    source = scores if scores.is_contiguous() else weights.copy_(scores)
    torch.softmax(source, -1, out=weights)
    return weights, largest


def _scores(tile: _Tile, buffer: Tensor) -> Tensor:
    """s = softmax_scale · q·k + relative_scale · r·p(δ) + b[δ], [heads, C, K], and the lowest number where hidden."""
    call, window = tile.call, tile.window
    scores = window.scores(buffer, tile.num_heads)
    stacked, keys = tile.by_stack(scores), tile.of_keys(call.k_BGSD).to(call.dtype)
    torch.baddbmm(stacked, tile.stacked(call.q_BHTD), keys.mT, beta=0, alpha=call.softmax_scale, out=stacked)
    if window.table_length:
        skewed = window.skewed(buffer, tile.num_heads)
        if call.r_BHTE is not None and call.table_XRE is not None:
            of_r = tile.by_head(tile.stacked(call.r_BHTE))
            skewed.baddbmm_(of_r, tile.of_heads(call.table_XRE).mT, alpha=call.relative_scale)
        if call.bias_HR is not None:
            skewed.add_(tile.of_heads(call.bias_HR)[:, None])
    _hide(tile, scores)
    return scores


def _hide(tile: _Tile, scores: Tensor) -> None:
    """Put the lowest number where a query may not see a key."""
    call, window = tile.call, tile.window
    lowest, size = _hidden(call.dtype), window.num_queries
    square = torch.ones(size, size, dtype=torch.bool, device=scores.device)
    if window.future:
        scores[..., window.num_keys - size :].masked_fill_(square.triu(1), lowest)
    if window.beyond is not None:
        scores[..., :size].masked_fill_(square.tril(window.beyond), lowest)
    allowed = call.mask.allowed_by_key(window.rows, window.keys)
    if allowed is not None:
        scores.view(-1, tile.num_heads // (tile.batch.stop - tile.batch.start), *scores.shape[1:]).masked_fill_(
            ~allowed[tile.batch], lowest
        )


def _split(x: Tensor, dim: int, count: int) -> Tensor:
    """Dimension `dim` as [count, …], a view."""
    return x.view(*x.shape[:dim], count, -1, *x.shape[dim + 1 :])


def _hidden(dtype: torch.dtype) -> float:
    """A score without weight beside any real one, finite so that a query that sees no key gives no NaN."""
    return torch.finfo(dtype).min / 4
