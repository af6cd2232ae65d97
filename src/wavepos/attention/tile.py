"""The work of the near part in tiles: one window of the band for as many heads as the caches hold scores of."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
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

    def stacked(self, x_BHTD: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The queries of a group one below the other: [batch · groups, heads of a group · C, D]."""
        return self.of_queries(x_BHTD).to(dtype or self.call.dtype).flatten(2, 3).flatten(0, 1)

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


def tiles(call: NearCall) -> Iterator[Tile]:
    """Windows in order; within each as many heads at once as the budget of scores holds."""
    batch, heads = call.q_BHTD.shape[:2]
    budget = _CPU_SCORES if call.q_BHTD.device.type == "cpu" else _GPU_SCORES
    for window in call.band.windows(_chunk(call)):
        stacks = max(1, budget // (call.heads_per_group * window.num_queries * window.row_length))
        num_batch, num_groups = max(1, stacks // call.num_groups), min(stacks, call.num_groups)
        for row in range(0, batch, num_batch):
            for group in range(0, call.num_groups, num_groups):
                yield Tile(
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


def _split(x: Tensor, dim: int, count: int) -> Tensor:
    """Dimension `dim` as [count, …], a view."""
    return x.view(*x.shape[:dim], count, -1, *x.shape[dim + 1 :])
