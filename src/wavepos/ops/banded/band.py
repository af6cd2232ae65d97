"""The band: which keys a run of queries meets, and the skewed view that puts a table over displacements at its place.

Scores of C queries and K keys lie in a buffer [C, pitch], some columns before the first key and some behind the last.
With the table's rows reversed (displacements falling), entry e of query i belongs to column first_column + e + i: in
memory that is row i of a view whose row stride is one more than the buffer's. So r·p is a matrix product written
straight into the scores, and the gradient of the scores is read back through the same view: no gather, no copy. Where
a row of the view begins left of the first key or ends right of the last, it falls into the slack there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wavepos.ops.banded.pieces import Piece, at_least, at_most, stripe
from wavepos.ops.call import Call

GATED_BLOCK = 512
"""Queries whose far keys end at one key where there are gates: at most a tile's queries, or a multiple of them."""

SHORT = 2048
"""Keys up to which everything is near on a CPU."""

STRIPE = 512
"""Keys between band and window below which a fused call for them does not pay: then they are near."""

_ALIGNMENT = 16
"""Rows of scores are multiples of this, 64 bytes in float32: matrix products into other rows are slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileLayout:
    """How the scores of a tile lie in a buffer; tiles past the first ones have one in common.

    Attributes:
        num_queries: C.
        num_keys: K.
        table_length: entries of the table in use.
        first_entry: the first of them, in the reversed table.
        slack: columns before the first key.
        pitch: columns of the buffer, with those behind the last key.
        first_column: where the first entry in use of query 0 stands, in buffer columns.
        beyond: query i does not see keys 0 … i + beyond of the tile.
        ahead: nor keys from i + ahead on.
    """

    num_queries: int
    num_keys: int
    table_length: int
    first_entry: int
    slack: int
    pitch: int
    first_column: int
    beyond: int
    ahead: int

    @property
    def size(self) -> int:
        """Entries of the buffer that one head takes."""
        return self.num_queries * self.pitch

    @property
    def entries(self) -> slice:
        """Those of the reversed table in use."""
        return slice(self.first_entry, self.first_entry + self.table_length)

    def rows(self, buffer: Tensor, num_heads: int) -> Tensor:
        """[heads, C, pitch] in the buffer."""
        return buffer[: num_heads * self.size].view(num_heads, self.num_queries, self.pitch)

    def skewed(self, buffer: Tensor, num_heads: int) -> Tensor:
        """[heads, C, table_length]: entry e of query i, displacements falling."""
        shape = (num_heads, self.num_queries, self.table_length)
        return buffer.as_strided(shape, (self.size, self.pitch + 1, 1), self.first_column)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """C queries and the K keys that they may see in the near part.

    Attributes:
        rows: the queries' indices.
        keys: the keys' positions.
        layout: of their scores.
    """

    rows: slice
    keys: slice
    layout: TileLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The near part of one attention call: the displacements δ with −ahead < δ < behind.

    Attributes:
        num_queries: T.
        num_keys: S.
        query_offset: position of the first query.
        behind: keys so far behind their query are no longer near; 0: none is.
        ahead: keys so far ahead of their query are no longer near; 1 in causal attention.
        first: the displacement of the table's first entry.
        table_length: R, at most behind − first; 0 without a table.
        causal: no key ahead of its query is seen.
        window: a query sees keys at distances below it; None: at every one.
        first_keys: for every query a key before which it sees none that weighs anything; None: 0.
        block: with gates and a far part, queries that share the near part's first key, that of the first of them. There
            is a key at every position then, and none is hidden. None: each query has a first key of its own.
    """

    num_queries: int
    num_keys: int
    query_offset: int
    behind: int
    ahead: int
    first: int
    table_length: int
    causal: bool
    window: int | None = None
    first_keys: Sequence[int] | None = None
    block: int | None = None

    @classmethod
    def of(cls, call: Call) -> "Band":
        """The near part of a prepared call.

        Padding and documents that reach into the far part, which takes no mask, make all near, and so do queries with
        gates that stand beyond the last key.
        """
        terms, mask = call.terms, call.mask
        first = terms.first_displacement
        length = next((x.shape[1] for x in (terms.table, terms.bias_HR) if x is not None), 0)
        end, gated = mask.query_offset + mask.num_queries, call.sums_BHS is not None
        behind, ahead = (1 + aligned(first + length - 1) if length else int(gated)), 1 + aligned(-first)
        masked = mask.key_padding_BS is not None or mask.document_ids_BS is not None
        masked = masked or (gated and end > mask.num_keys)
        if masked or ((length or gated or mask.window is not None) and _is_short(call)):
            behind, ahead = end, max(1, mask.num_keys - mask.query_offset)
        if mask.window is not None:
            behind, ahead = (mask.window if mask.window - x < STRIPE else x for x in (behind, ahead))
        return cls(
            num_queries=mask.num_queries,
            num_keys=mask.num_keys,
            query_offset=mask.query_offset,
            behind=behind,
            ahead=1 if mask.causal else ahead,
            first=first,
            table_length=length,
            causal=mask.causal,
            window=mask.window,
            first_keys=mask.first_keys(),
            block=GATED_BLOCK if gated and behind < min(end, mask.window or end) else None,
        )

    def far(self) -> tuple[Piece, ...]:
        """The far part: every pair that is seen and not near, each in one piece."""
        if self.block is not None:
            return tuple(piece for block in self.blocks() for piece in self.far_of(block))
        rows, keys, offset = slice(0, self.num_queries), slice(0, self.num_keys), self.query_offset
        pieces: list[Piece] = []
        if self.window is None:
            pieces.extend(at_most(rows, keys, offset - self.behind))
            if not self.causal:
                pieces.extend(at_least(rows, keys, offset + self.ahead))
            return tuple(pieces)
        if self.behind < self.window:
            pieces.extend(stripe(rows, keys, offset - self.window + 1, offset - self.behind))
        if not self.causal and self.ahead < self.window:
            pieces.extend(stripe(rows, keys, offset + self.ahead, offset + self.window - 1))
        return tuple(pieces)

    def blocks(self) -> Iterator[slice]:
        """The rows that share a first near key and leave keys before it to the far part; none without gates."""
        if self.block is None:
            return
        first = -(-max(0, self.behind - self.query_offset) // self.block) * self.block
        for start in range(first, self.num_queries, self.block):
            yield slice(start, min(start + self.block, self.num_queries))

    def far_of(self, block: slice, first_key: int = 0) -> Iterator[Piece]:
        """The far part of the rows of such a block, but for the keys before one."""
        keys = slice(first_key, self._first_near_key(block.start))
        return at_least(block, keys, self.query_offset - self._reach + 1)

    def _first_near_key(self, row: int) -> int:
        """That of the block of a row."""
        assert self.block is not None
        return max(0, self.query_offset + row // self.block * self.block - self.behind + 1)

    @property
    def _reach(self) -> int:
        """Keys so far behind their query are not seen: of those outside the window, or of none that there is."""
        return self.query_offset + self.num_queries if self.window is None else self.window

    @property
    def has_near(self) -> bool:
        """Whether there is a near part."""
        return self.behind > 0 or self.ahead > 1

    @property
    def is_blind(self) -> bool:
        """Whether some query sees no key: the window of the last one ends behind the last key."""
        last = self.query_offset + self.num_queries - 1
        return self.window is not None and last - self.window + 1 >= self.num_keys

    def beginning_at(self, first_keys: Sequence[int]) -> "Band":
        """With further keys left out, those before one per query."""
        merged = first_keys if self.first_keys is None else list(map(max, self.first_keys, first_keys))
        return replace(self, first_keys=merged)

    def tiles(self, num_queries: int) -> Iterator[Tile]:
        """The tiles of so many queries each, in order."""
        for start in range(0, self.num_queries, num_queries):
            yield self._tile(slice(start, min(start + num_queries, self.num_queries)))

    def _tile(self, rows: slice) -> Tile:
        """Every tile has a key; where its queries see none, it is hidden."""
        begin, end = self.query_offset + rows.start, self.query_offset + rows.stop
        size = rows.stop - rows.start
        if self.block is None:
            first_key, hidden = max(0, begin - aligned(self.behind - 1)), begin - self.behind
        else:
            first_key, hidden = self._first_near_key(rows.start), begin - self._reach
        first_key = min(first_key, self.num_keys - 1)
        if self.first_keys is not None:
            first_key = max(first_key, min(*self.first_keys[rows], self.num_keys - 1))
        num_keys = min(self.num_keys, end - 1 + self.ahead) - first_key
        lowest = max(self.first, begin - first_key - num_keys + 1)  # displacements of the table that the tile has
        highest = min(self.first + self.table_length - 1, end - 1 - first_key)
        length = max(0, highest + 1 - lowest)
        column = begin - first_key - highest
        slack = aligned(max(0, -column)) if length else 0
        behind = max(0, column + length + size - 1 - num_keys) if length else 0
        layout = TileLayout(
            num_queries=size,
            num_keys=num_keys,
            table_length=length,
            first_entry=self.first + self.table_length - 1 - highest,
            slack=slack,
            pitch=slack + (aligned(num_keys + behind) if behind else num_keys),
            first_column=slack + column,
            beyond=max(hidden - first_key, -size),
            ahead=begin + self.ahead - first_key,
        )
        return Tile(rows=rows, keys=slice(first_key, first_key + num_keys), layout=layout)


def aligned(length: int) -> int:
    """The length rounded up to the alignment of rows of scores."""
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _is_short(call: Call) -> bool:
    """Whether matrix products over all keys in reach take less time than a band and fused calls beside it.

    On a CPU they do while the scores of a tile stay in its caches. In bfloat16 fused calls over all keys are faster
    than that, but not those over a window, half of which is masked.
    """
    q, mask = call.terms.q_BHTD, call.mask
    if q.device.type != "cpu":
        return False
    if mask.window is not None and mask.window <= SHORT:
        return True
    return q.dtype != torch.bfloat16 and mask.num_keys <= SHORT
