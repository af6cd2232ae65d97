"""The work of the near part in tiles: one window of the band for as many heads as the caches hold scores of.

PyTorch's calls cost microseconds whatever they do, so a tile makes few: what windows share is made once a block.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wavepos.ops.banded.band import Band, Layout, Window
from wavepos.ops.mask import Mask

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
        table_XRE: what r is multiplied with, relative_scale included, X = 1 or H, displacements falling; or None.
        bias_HR: bias, displacements falling; or None. Both are of the near part's dtype.
        band: which keys are near.
        mask: further conditions (padding, documents).
        softmax_scale: factor on q·k.
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

    @property
    def dtype(self) -> torch.dtype:
        return torch.promote_types(self.q_BHTD.dtype, torch.float32)

    @property
    def product_dtype(self) -> torch.dtype:
        """What weights and score gradients are rounded to before their products, as in fused kernels."""
        device, dtype = self.q_BHTD.device.type, self.q_BHTD.dtype
        if device == "cpu" and not (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
            return self.dtype
        return dtype

    @property
    def num_groups(self) -> int:
        return self.k_BGSD.shape[1]

    @property
    def heads_per_group(self) -> int:
        return self.q_BHTD.shape[1] // self.k_BGSD.shape[1]


class Buffers:
    """Two reused buffers of scores, as large as the largest tile needs, and the triangles that hide scores."""

    def __init__(self, call: NearCall, num_scores: int) -> None:
        self.scores = torch.empty(num_scores, dtype=call.dtype, device=call.q_BHTD.device)
        self.weights = torch.empty_like(self.scores)
        self._triangles: dict[tuple[int, int, bool], Tensor] = {}

    def triangle(self, size: int, diagonal: int, *, upper: bool) -> Tensor:
        """[size, size]: from that diagonal on, upwards or downwards, what hides a score it is added to; else 0."""
        key = size, diagonal, upper
        if key not in self._triangles:
            square = self.scores.new_full((size, size), hidden_score(self.scores.dtype))
            self._triangles[key] = square.triu(diagonal) if upper else square.tril(diagonal)
        return self._triangles[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """The scores of a window's queries and keys: views of the buffers, made once a layout.

    Attributes:
        scores: [heads, C, K].
        stacked: the same, [stacks, heads of a group · C, K].
        weights: the other buffer, [heads, C, K].
        stacked_weights: the same, [stacks, heads of a group · C, K].
        skewed: the scores by displacement, [heads, C, R in use], falling; None without table and bias.
        slack: what the skewed view holds left of the first key; None where it holds nothing there.
        triangles: parts of the scores, and what to add to each to hide the keys that its queries may not see.
        table: the part of the table in use once a head, [heads, R, E], or None.
        bias: that of the bias, [heads, 1, R], or None.
    """

    scores: Tensor
    stacked: Tensor
    weights: Tensor
    stacked_weights: Tensor
    skewed: Tensor | None
    slack: Tensor | None
    triangles: tuple[tuple[Tensor, Tensor], ...]
    table: Tensor | None
    bias: Tensor | None


class Block:
    """Some batch rows and key/value heads, with every query head of theirs, whose scores are held at once.

    Its q, k, v and r are what `of_heads` and `of_groups` give of the call's.
    """

    def __init__(self, call: NearCall, buffers: Buffers, batch: slice, groups: slice) -> None:
        self.call, self.batch, self.groups = call, batch, groups
        self.num_stacks = int((batch.stop - batch.start) * (groups.stop - groups.start))
        self.num_heads = self.num_stacks * call.heads_per_group
        self.q, self.k, self.v = self.of_heads(call.q_BHTD), self.of_groups(call.k_BGSD), self.of_groups(call.v_BGSD)
        self.r = None if call.r_BHTE is None else self.of_heads(call.r_BHTE)
        self._buffers = buffers
        self._sheets: dict[Layout, Sheet] = {}

    def of_heads(self, x_BH: Tensor) -> Tensor:
        """The block's part of what has one row a query: [batch, groups, heads of a group, T, …], a view."""
        return _split(x_BH, 1, self.call.num_groups)[self.batch, self.groups]

    def of_groups(self, x_BG: Tensor) -> Tensor:
        """The block's part of what has one row a key: [batch, groups, S, …], a view."""
        return x_BG[self.batch, self.groups]

    def sheet(self, layout: Layout) -> Sheet:
        """Where the scores of a window lie."""
        if layout not in self._sheets:
            self._sheets[layout] = self._made(layout)
        return self._sheets[layout]

    def add_to_table(self, sum_XR: Tensor, x: Tensor) -> None:
        """Add a gradient once a head, [heads, R in use, …], to that of the reversed table."""
        used = sum_XR[:, sum_XR.shape[1] - x.shape[1] :]
        if used.shape[0] == 1:
            used.add_(x.sum(0, keepdim=True))
        else:
            heads = x.view(-1, self.groups.stop - self.groups.start, self.call.heads_per_group, *x.shape[1:])
            _split(used, 0, self.call.num_groups)[self.groups].add_(heads.sum(0))

    def _made(self, layout: Layout) -> Sheet:
        call, size = self.call, layout.num_queries
        rows = layout.rows(self._buffers.scores, self.num_heads)
        scores = rows[:, :, layout.slack :]
        weights = self._buffers.weights[: scores.numel()].view(scores.shape)
        triangles = []
        if layout.future:
            future = self._buffers.triangle(size, 1, upper=True)
            triangles.append((scores[..., layout.num_keys - size :], future))
        if layout.beyond is not None:
            beyond = self._buffers.triangle(size, layout.beyond, upper=False)
            triangles.append((scores[..., :size], beyond))
        return Sheet(
            scores=scores,
            stacked=self._by_stack(scores),
            weights=weights,
            stacked_weights=self._by_stack(weights),
            skewed=layout.skewed(self._buffers.scores, self.num_heads) if layout.table_length else None,
            slack=rows[:, :, : layout.slack] if layout.slack else None,
            triangles=tuple(triangles),
            table=None if call.table_XRE is None else self._once_a_head(call.table_XRE, layout.table_length),
            bias=None if call.bias_HR is None else self._once_a_head(call.bias_HR, layout.table_length)[:, None],
        )

    def _once_a_head(self, x_XR: Tensor, length: int) -> Tensor:
        """The rows of a reversed table in use: [batch · groups · heads of a group, R, …]."""
        used = x_XR[:, x_XR.shape[1] - length :]
        if used.shape[0] == 1:
            return used.expand(self.num_heads, *used.shape[1:])
        of_groups = _split(used, 0, self.call.num_groups)[self.groups]
        return of_groups.expand(self.batch.stop - self.batch.start, *of_groups.shape).flatten(0, 2)

    def _by_stack(self, x: Tensor) -> Tensor:
        """Stacked [batch · groups, heads of a group · C, …] of [heads, C, …]."""
        return _split(x.flatten(0, 1), 0, self.num_stacks)


def tiles(call: NearCall) -> Iterator[tuple[Block, Iterable[Window]]]:
    """Blocks of as many heads as the budget of scores holds, each with the windows in order."""
    windows = list(call.band.windows(_chunk(call)))
    batch, size = call.q_BHTD.shape[0], max(window.layout.size for window in windows)
    budget = _CPU_SCORES if call.q_BHTD.device.type == "cpu" else _GPU_SCORES
    stacks = min(max(1, budget // (call.heads_per_group * size)), batch * call.num_groups)
    num_batch, num_groups = max(1, stacks // call.num_groups), min(stacks, call.num_groups)
    buffers = Buffers(call, num_batch * num_groups * call.heads_per_group * size)
    for row in range(0, batch, num_batch):
        for group in range(0, call.num_groups, num_groups):
            rows = slice(row, min(row + num_batch, batch))
            groups = slice(group, min(group + num_groups, call.num_groups))
            yield Block(call, buffers, rows, groups), windows


def stacked(x: Tensor, rows: slice) -> Tensor:
    """The queries of a group one below the other, [stacks, heads of a group · C, …] of what `Block.of_heads` gives."""
    return x[:, :, :, rows].flatten(2, 3).flatten(0, 1)


def hidden_score(dtype: torch.dtype) -> float:
    """A score without weight beside any real one, finite so that a query that sees no key gives no NaN."""
    return torch.finfo(dtype).min / 4


def _chunk(call: NearCall) -> int:
    """Queries a window: few waste little of the band's edges, many make large products."""
    if call.q_BHTD.device.type != "cpu":
        return 256
    return 128 if call.band.num_keys > 512 else 64


def _split(x: Tensor, dim: int, count: int) -> Tensor:
    """Dimension `dim` as [count, …], a view."""
    return x.view(*x.shape[:dim], count, -1, *x.shape[dim + 1 :])
