"""The work of the near part: one tile of the band after the other, for as many heads as the caches hold scores of.

PyTorch's calls cost microseconds whatever they do, so a tile makes few: what tiles have in common is made once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wavepos.ops.banded.band import Band, Tile, TileLayout
from wavepos.ops.banded.gated import first_keys_of_masked
from wavepos.ops.call import Call

_CPU_SCORES = 1 << 19
_GPU_SCORES = 1 << 26
"""Scores held at once: on a CPU what its caches hold, on a GPU enough to fill it."""


class Workspace:
    """What the tiles of a call have in common: dtypes, table and bias as they are read, two buffers, triangles.

    Args:
        call: a prepared call.
        num_scores: how many the largest tile needs, of all heads that are held at once.
    """

    def __init__(self, call: Call, num_scores: int) -> None:
        q, table, bias = call.terms.q_BHTD, call.terms.table, call.terms.bias_HR
        self.call = call
        self.dtype = call.wide_dtype
        self.product_dtype = _product_dtype(q, self.dtype)
        self.num_groups = call.terms.k_BGSD.shape[1]
        self.heads_per_group = q.shape[1] // self.num_groups
        # displacements falling; the table holds relative_scale
        self.table_XRE = None if table is None else table.to(self.dtype).flip(1).mul_(call.relative_scale)
        self.bias_HR = None if bias is None else bias.to(self.dtype).flip(1)
        self.scores = torch.empty(num_scores, dtype=self.dtype, device=q.device)
        self.weights = torch.empty_like(self.scores)
        self._triangles: dict[tuple[int, int, int, bool], Tensor] = {}

    def triangle(self, size: tuple[int, int], diagonal: int, *, upper: bool) -> Tensor:
        """Of that size: True from that diagonal on, upwards or downwards, where a score is hidden."""
        key = *size, diagonal, upper
        if key not in self._triangles:
            hiding = torch.ones(size, dtype=torch.bool, device=self.scores.device)
            self._triangles[key] = hiding.triu(diagonal) if upper else hiding.tril(diagonal)
        return self._triangles[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreViews:
    """The scores of a tile's queries and keys: views of the buffers, made once per layout.

    Attributes:
        scores: [heads, C, K].
        stacked: the same, [stacks, heads of a group · C, K].
        weights: the other buffer, [heads, C, K].
        stacked_weights: the same, [stacks, heads of a group · C, K].
        skewed: the scores by displacement, [heads, C, R in use], falling; None without table and bias.
        slack: what the skewed view holds left of the first key and right of the last, where it holds something there.
        triangles: parts of the scores, and where in each a query may not see the key.
        table: the part of the table in use, once per head, [heads, R, E], or None.
        bias: that of the bias, [heads, 1, R], or None.
    """

    scores: Tensor
    stacked: Tensor
    weights: Tensor
    stacked_weights: Tensor
    skewed: Tensor | None
    slack: tuple[Tensor, ...]
    triangles: tuple[tuple[Tensor, Tensor], ...]
    table: Tensor | None
    bias: Tensor | None


class Heads:
    """Some batch rows and key/value heads, with every query head of theirs, whose scores are held at once.

    Its q, k, v, r and c are what `of_heads` and `of_groups` give of the call's.
    """

    def __init__(self, workspace: Workspace, batch: slice, groups: slice) -> None:
        self.workspace, self.batch, self.groups = workspace, batch, groups
        self.num_stacks = int((batch.stop - batch.start) * (groups.stop - groups.start))
        self.count = self.num_stacks * workspace.heads_per_group
        terms = workspace.call.terms
        self.q, self.k = self.of_heads(terms.q_BHTD), self.of_groups(terms.k_BGSD)
        self.v = self.of_groups(workspace.call.v_BGSD)
        self.r = None if terms.r_BHTE is None else self.of_heads(terms.r_BHTE)
        sums = workspace.call.sums_BHS
        self.sums = None if sums is None else self.of_heads(sums)
        self._views: dict[TileLayout, ScoreViews] = {}

    def of_heads(self, x_BH: Tensor) -> Tensor:
        """Their part of what has one row per query: [batch, groups, heads of a group, T, …], a view."""
        return _split(x_BH, 1, self.workspace.num_groups)[self.batch, self.groups]

    def of_groups(self, x_BG: Tensor) -> Tensor:
        """Their part of what has one row per key: [batch, groups, S, …], a view."""
        return x_BG[self.batch, self.groups]

    def positions(self, tile: Tile) -> slice:
        """Those of a tile's queries."""
        offset = self.workspace.call.mask.query_offset
        return slice(offset + tile.rows.start, offset + tile.rows.stop)

    def views(self, layout: TileLayout) -> ScoreViews:
        """Where the scores of a tile lie."""
        if layout not in self._views:
            self._views[layout] = self._made(layout)
        return self._views[layout]

    def add_to_table(self, sum_XR: Tensor, x: Tensor, entries: slice) -> None:
        """Add a gradient, once per head, [heads, R in use, …], to those entries of the reversed table's."""
        used = sum_XR[:, entries]
        if used.shape[0] == 1:
            used.add_(x.sum(0, keepdim=True))
        else:
            heads = x.view(-1, self.groups.stop - self.groups.start, self.workspace.heads_per_group, *x.shape[1:])
            _split(used, 0, self.workspace.num_groups)[self.groups].add_(heads.sum(0))

    def _made(self, layout: TileLayout) -> ScoreViews:
        workspace, size, num_keys = self.workspace, layout.num_queries, layout.num_keys
        rows = layout.rows(workspace.scores, self.count)
        left, right = layout.slack, layout.slack + num_keys
        scores = rows[:, :, left:right]
        weights = workspace.weights[: scores.numel()].view(scores.shape)
        triangles = []
        if (width := num_keys - layout.ahead) > 0:
            ahead = workspace.triangle((size, width), 0, upper=True)
            triangles.append((scores[..., layout.ahead :], ahead))
        if (width := min(num_keys, size + layout.beyond)) > 0:
            beyond = workspace.triangle((size, width), layout.beyond, upper=False)
            triangles.append((scores[..., :width], beyond))
        return ScoreViews(
            scores=scores,
            stacked=self._by_stack(scores),
            weights=weights,
            stacked_weights=self._by_stack(weights),
            skewed=layout.skewed(workspace.scores, self.count) if layout.table_length else None,
            slack=tuple(x for x in (rows[:, :, :left], rows[:, :, right:]) if x.shape[-1]),
            triangles=tuple(triangles),
            table=self._once_per_head(workspace.table_XRE, layout.entries),
            bias=None if (bias := self._once_per_head(workspace.bias_HR, layout.entries)) is None else bias[:, None],
        )

    def _once_per_head(self, x_XR: Tensor | None, entries: slice) -> Tensor | None:
        """Those rows of a reversed table: [batch · groups · heads of a group, R in use, …]; None: there are none."""
        if x_XR is None or entries.start == entries.stop:
            return None
        used = x_XR[:, entries]
        if used.shape[0] == 1:
            return used.expand(self.count, *used.shape[1:])
        of_groups = _split(used, 0, self.workspace.num_groups)[self.groups]
        return of_groups.expand(self.batch.stop - self.batch.start, *of_groups.shape).flatten(0, 2)

    def _by_stack(self, x: Tensor) -> Tensor:
        """Stacked [batch · groups, heads of a group · C, …] of [heads, C, …]."""
        return _split(x.flatten(0, 1), 0, self.num_stacks)


def schedule(call: Call, band: Band) -> Iterator[tuple[Heads, Iterable[Tile]]]:
    """As many heads at once as the budget of scores holds, each time with the tiles in order.

    With gates and a mask the tiles leave out keys that weigh nothing to any of the heads.
    """
    q, num_groups = call.terms.q_BHTD, call.terms.k_BGSD.shape[1]
    batch, heads_per_group = q.shape[0], q.shape[1] // num_groups
    queries_per_tile, firsts_BGT = _queries_per_tile(q, band), first_keys_of_masked(call, band)
    tiles = list(band.tiles(queries_per_tile))
    size = max(tile.layout.size for tile in tiles)
    budget = _CPU_SCORES if q.device.type == "cpu" else _GPU_SCORES
    stacks = min(max(1, budget // (heads_per_group * size)), batch * num_groups)
    num_rows, num_stacked = max(1, stacks // num_groups), min(stacks, num_groups)
    workspace = Workspace(call, num_rows * num_stacked * heads_per_group * size)
    for row in range(0, batch, num_rows):
        for group in range(0, num_groups, num_stacked):
            rows = slice(row, min(row + num_rows, batch))
            groups = slice(group, min(group + num_stacked, num_groups))
            heads = Heads(workspace, rows, groups)
            if firsts_BGT is None:
                yield heads, tiles
            else:
                yield heads, band.beginning_at(firsts_BGT[rows, groups].amin((0, 1)).tolist()).tiles(queries_per_tile)


def stacked(x: Tensor, rows: slice) -> Tensor:
    """The queries of a group one below the other, [stacks, heads of a group · C, …] of what `Heads.of_heads` gives."""
    return x[:, :, :, rows].flatten(2, 3).flatten(0, 1)


def hidden_score(dtype: torch.dtype) -> float:
    """A score without weight beside any real one, finite so that a query that sees no key gives no NaN."""
    return torch.finfo(dtype).min / 4


def _queries_per_tile(q_BHTD: Tensor, band: Band) -> int:
    """Few waste little of the band's edges, many make large products."""
    on_cpu = 128 if band.num_keys > 512 else 64
    size = on_cpu if q_BHTD.device.type == "cpu" else 256
    return size if band.block is None else min(size, band.block)


def _product_dtype(q: Tensor, wide: torch.dtype) -> torch.dtype:
    """What weights and gradients of scores are rounded to before their products, as in fused kernels."""
    if q.device.type == "cpu" and not (q.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return wide
    return q.dtype


def _split(x: Tensor, dim: int, count: int) -> Tensor:
    """Dimension `dim` as [count, …], a view."""
    return x.view(*x.shape[:dim], count, -1, *x.shape[dim + 1 :])
