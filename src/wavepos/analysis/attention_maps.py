"""Attention maps in bounded memory (Fig. 2, 3, 7, 8): tiles of rows, counted and drawn as they come.

A map of 16,384 × 16,384 weights of 8 heads is 8 GiB in float32. Here a tile of some rows exists at a time; what is kept
is an image of at most `pixels` a side, counts for each row and for each column, and the last row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wavepos.ops.attention import attention_map
from wavepos.positions import Position

TILE_ELEMENTS = 2**22
"""Weights of a tile: 16 MiB in float32, and some five times that while they are computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionInputs:
    """What one layer's causal attention sees of one sequence.

    Attributes:
        q_BHTD: queries, before their position; B is 1.
        k_BGSD: keys, likewise; S = T.
        v_BGSD: values.
        position: the method.
        relative_states_BHTE: what `LearnedRelative` multiplies with its table; None elsewhere.
        gates_BHS: the log gates of `ForgetGate`, `Cable` or a `Wavelet` with a gate; None elsewhere.
        softmax_scale: of the scores; None: 1/√D.
        window: the layer's own, beside the position's; None: it has none.
    """

    q_BHTD: Tensor
    k_BGSD: Tensor
    v_BGSD: Tensor
    position: Position
    relative_states_BHTE: Tensor | None = None
    gates_BHS: Tensor | None = None
    softmax_scale: float | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if self.q_BHTD.shape[0] != 1 or self.q_BHTD.shape[2] != self.k_BGSD.shape[2]:
            raise ValueError(
                f"a map is of one sequence with a key for every query, got q {tuple(self.q_BHTD.shape)} and "
                f"k {tuple(self.k_BGSD.shape)}"
            )

    @property
    def num_heads(self) -> int:
        """H."""
        return self.q_BHTD.shape[1]

    @property
    def length(self) -> int:
        """T."""
        return self.q_BHTD.shape[2]

    @torch.no_grad()
    def rows(self, first: int, last: int) -> Tensor:
        """The weights of queries first … last − 1, [H, last − first, T], float32 (float64 for float64 input)."""
        relative = self.relative_states_BHTE
        windows = [one for one in (self.window, self.position.window) if one is not None]
        given: dict[str, Any] = {"window": min(windows)} if windows else {}
        weights_BHTS = attention_map(
            self.q_BHTD[:, :, first:last],
            self.k_BGSD,
            position=self.position,
            query_offset=first,
            relative_states=None if relative is None else relative[:, :, first:last],
            gates=self.gates_BHS,
            softmax_scale=self.softmax_scale,
            **given,
        )
        return weights_BHTS[0]

    def tiles(self, elements: int = TILE_ELEMENTS) -> Iterator[tuple[int, Tensor]]:
        """The whole map as (first row, weights [H, rows, T]), each of at most that many weights, or of one row."""
        rows = max(1, elements // (self.num_heads * self.length))
        for first in range(0, self.length, rows):
            yield first, self.rows(first, min(first + rows, self.length))

    @torch.no_grad()
    def output(self) -> Tensor:
        """Weights times values, tile by tile, [H, T, D]: what the layer's own attention gives."""
        share = self.num_heads // self.v_BGSD.shape[1]
        values_HSD = self.v_BGSD[0].repeat_interleave(share, dim=0)
        return torch.cat([weights @ values_HSD.to(weights.dtype) for _, weights in self.tiles()], dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionMap:
    """A map at one threshold.

    Attributes:
        threshold: weights of at least this are black.
        image_HPP: share of black pairs in each cell, float32; exact, 0 or 1, where T ≤ pixels. Cells wholly in the
            future are 0.
        row_counts_HT: black keys of each query, int64.
        column_counts_HS: queries strictly after each key in whose row it is black, int64.
        last_row_HS: the weights of the last query.
    """

    threshold: float
    image_HPP: Tensor
    row_counts_HT: Tensor
    column_counts_HS: Tensor
    last_row_HS: Tensor

    @property
    def length(self) -> int:
        """T."""
        return self.row_counts_HT.shape[1]

    @property
    def black_pairs_H(self) -> Tensor:
        """Black pairs of each head, int64 [H]."""
        return self.row_counts_HT.sum(-1)

    def column_shares(self) -> Tensor:
        """Of the queries after each key, the share in whose row it is black, float64 [H, S]; NaN for the last."""
        after = torch.arange(self.length - 1, -1, -1, device=self.column_counts_HS.device, dtype=torch.float64)
        return self.column_counts_HS / after.where(after > 0, torch.nan)


def attention_picture(
    inputs: AttentionInputs, threshold: float = 1e-3, pixels: int = 1024, elements: int = TILE_ELEMENTS
) -> AttentionMap:
    """The map of one layer at a threshold, tile by tile.

    Args:
        inputs: of the layer.
        threshold: 0.001 in Fig. 2, 3 and 8, 0.01 in Fig. 7.
        pixels: the largest side of the image.
        elements: weights that exist at a time.

    Raises:
        ValueError: a threshold that is not between 0 and 1, or no pixels.
    """
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold must lie between 0 and 1, got {threshold!r}")
    if pixels < 1:
        raise ValueError(f"pixels must be at least 1, got {pixels!r}")
    heads, length, device = inputs.num_heads, inputs.length, inputs.q_BHTD.device
    side = min(pixels, length)
    cell_T = torch.arange(length, device=device) * side // length
    image = torch.zeros(heads, side, side, device=device)
    row_counts = torch.zeros(heads, length, dtype=torch.int64, device=device)
    column_counts = torch.zeros(heads, length, dtype=torch.int64, device=device)
    last_row = torch.zeros(heads, length, device=device)
    for first, weights in inputs.tiles(elements):
        black = weights >= threshold
        rows = torch.arange(first, first + weights.shape[1], device=device)
        row_counts[:, rows] = black.sum(-1)
        column_counts += black.sum(1)
        column_counts[:, rows] -= black[:, rows - first, rows].to(torch.int64)
        pooled = torch.zeros(heads, rows.numel(), side, device=device).index_add_(2, cell_T, black.to(image.dtype))
        image.index_add_(1, cell_T[rows], pooled)
        last_row = weights[:, -1]
    sizes = torch.bincount(cell_T, minlength=side).to(image.dtype)
    return AttentionMap(
        threshold=threshold,
        image_HPP=image / (sizes[:, None] * sizes),
        row_counts_HT=row_counts,
        column_counts_HS=column_counts,
        last_row_HS=last_row,
    )


def always_attended(found: AttentionMap, share: float = 0.95, rows_after: int | None = None) -> Tensor:
    """Columns that are black in at least that share of the rows after them, bool [H, S] (section 6.3.2, A.11).

    Args:
        found: the map.
        share: above 0, at most 1.
        rows_after: queries that must follow for a column to count; None: half of the length, for near the end every
            column within a window is black in all the few rows that follow.

    Raises:
        ValueError: an argument out of its range.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must lie above 0 and at most at 1, got {share!r}")
    rows_after = found.length // 2 if rows_after is None else rows_after
    if rows_after < 1:
        raise ValueError(f"rows_after must be at least 1, got {rows_after!r}")
    position = torch.arange(found.length, device=found.column_counts_HS.device)
    followed = found.length - 1 - position >= rows_after
    return (found.column_shares() >= share) & followed


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendedToken:
    """A token that some heads always attend to.

    Attributes:
        index: its place in the sequence.
        token: its text.
        heads: the heads whose column is black in the asked share of the rows after it, counted from 0.
        share_H: that share, by head.
    """

    index: int
    token: str
    heads: tuple[int, ...]
    share_H: tuple[float, ...]


def attended_tokens(
    found: AttentionMap, tokens: list[str], share: float = 0.95, rows_after: int | None = None
) -> list[AttendedToken]:
    """Which tokens the always attended columns are, in the order of the text (Fig. 7).

    Args:
        found, share, rows_after: as `always_attended` takes them.
        tokens: the text of each key.

    Raises:
        ValueError: another number of tokens than columns.
    """
    if len(tokens) != found.length:
        raise ValueError(f"tokens must hold one text for each of the {found.length} keys, got {len(tokens)}")
    always, shares = always_attended(found, share, rows_after), found.column_shares()
    return [
        AttendedToken(
            index=index,
            token=tokens[index],
            heads=tuple(always[:, index].nonzero()[:, 0].tolist()),
            share_H=tuple(shares[:, index].tolist()),
        )
        for index in always.any(0).nonzero()[:, 0].tolist()
    ]
