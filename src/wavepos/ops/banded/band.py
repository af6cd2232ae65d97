"""The band: which keys a run of queries meets, and the skewed view that puts a table over displacements at its place.

Scores of C queries and K keys lie in a buffer [C, slack + K]. With the table's rows reversed (displacements falling),
entry e of query i belongs to column first_column + e + i: in memory that is row i of a view whose row stride is one
more than the buffer's. So r·p is a matrix product written straight into the scores, and the gradient of the scores is
read back through the same view: no gather, no copy. Where a row of the view begins left of the first key, it falls
into the slack.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wavepos.ops.call import Call

GATED_BLOCK = 512
"""Queries whose far keys begin at one key where there are gates: at most a tile's queries, or a multiple of them."""

SHORT = 2048
"""Keys up to which everything is near on a CPU."""

_ALIGNMENT = 16
"""Rows of scores are multiples of this, 64 bytes in float32: matrix products into other rows are slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileLayout:
    """How the scores of a tile lie in a buffer; tiles past the first ones have one in common.

    Attributes:
        num_queries: C.
        num_keys: K.
        table_length: entries of the table in use; displacement 0 is the last of the reversed ones.
        slack: columns before the first key.
        first_column: where entry 0 of query 0 stands, in buffer columns.
        future: whether the last C columns hold keys ahead of their queries.
        beyond: query i leaves keys 0 … i + beyond of the tile to the far part; None: it has no key of theirs.
    """

    num_queries: int
    num_keys: int
    table_length: int
    slack: int
    first_column: int
    future: bool
    beyond: int | None

    @property
    def size(self) -> int:
        """Entries of the buffer that one head takes."""
        return self.num_queries * (self.slack + self.num_keys)

    def rows(self, buffer: Tensor, num_heads: int) -> Tensor:
        """[heads, C, slack + K] in the buffer."""
        return buffer[: num_heads * self.size].view(num_heads, self.num_queries, self.slack + self.num_keys)

    def skewed(self, buffer: Tensor, num_heads: int) -> Tensor:
        """[heads, C, table_length]: entry e of query i, displacements falling."""
        shape = (num_heads, self.num_queries, self.table_length)
        return buffer.as_strided(shape, (self.size, self.slack + self.num_keys + 1, 1), self.first_column)


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
    """The near part of one attention call.

    Attributes:
        num_queries: T.
        num_keys: S, at least query_offset + T where causal.
        query_offset: position of the first query.
        width: W: the near part holds displacements below it; None: all.
        block: with gates, queries that share the near part's first key, that of the first of them; None: each its own.
        table_length: R, at most W; 0 without a table.
        causal: no key ahead of its query is seen.
        first_keys: for every query a key before which neither it nor a later one sees any; None: 0.
    """

    num_queries: int
    num_keys: int
    query_offset: int
    width: int | None
    table_length: int
    causal: bool
    first_keys: Sequence[int] | None = None
    block: int | None = None

    @classmethod
    def of(cls, call: Call) -> "Band":
        """The near part of a prepared call.

        Padding and documents reach into the far part, which takes no mask: then all is near.
        """
        terms, mask = call.terms, call.mask
        length = next((x.shape[1] for x in (terms.table, terms.bias_HR) if x is not None), 0)
        masked = mask.key_padding_BS is not None or mask.document_ids_BS is not None
        gated = call.sums_BHS is not None
        width: int | None = 1 + aligned(length - 1) if length else int(gated)
        if masked or not mask.causal or ((length or gated) and _is_short(terms.q_BHTD, mask.num_keys)):
            width = None
        return cls(
            num_queries=mask.num_queries,
            num_keys=mask.num_keys,
            query_offset=mask.query_offset,
            width=width,
            table_length=length,
            causal=mask.causal,
            first_keys=mask.first_keys(),
            block=GATED_BLOCK if gated and width is not None else None,
        )

    @property
    def first_far_row(self) -> int:
        """The first query with a key in the far part; T if none has one."""
        if self.width is None:
            return self.num_queries
        first = max(0, self.width - self.query_offset)
        return min(self.num_queries, first if self.block is None else -(-first // self.block) * self.block)

    def first_near_key(self, row: int) -> int:
        """The first key of the near part of a tile or block that begins at that query."""
        if self.width is None:
            return 0
        row = row if self.block is None else row // self.block * self.block
        return max(0, self.query_offset + row - self.width + 1)

    def _leaves_a_staircase(self, end: int) -> bool:
        """Whether queries before position `end` leave keys to the far part of which each has one more than the last."""
        return self.width is not None and self.block is None and end > self.width

    def tiles(self, num_queries: int) -> Iterator[Tile]:
        """The tiles of so many queries each, in order."""
        for start in range(0, self.num_queries, num_queries):
            yield self._tile(slice(start, min(start + num_queries, self.num_queries)))

    def _tile(self, rows: slice) -> Tile:
        first, end = self.query_offset + rows.start, self.query_offset + rows.stop
        first_key = self.first_near_key(rows.start)
        if self.first_keys is not None:
            first_key = max(first_key, self.first_keys[rows.start])
        length = min(self.table_length, end - first_key)
        column = first - first_key - (length - 1)
        slack = aligned(max(0, -column)) if length else 0
        layout = TileLayout(
            num_queries=rows.stop - rows.start,
            num_keys=(end if self.causal else self.num_keys) - first_key,
            table_length=length,
            slack=slack,
            first_column=slack + column,
            future=self.causal,
            beyond=first - self.width - first_key if self._leaves_a_staircase(end) else None,
        )
        return Tile(rows=rows, keys=slice(first_key, first_key + layout.num_keys), layout=layout)


def aligned(length: int) -> int:
    """The length rounded up to the alignment of rows of scores."""
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _is_short(q_BHTD: Tensor, num_keys: int) -> bool:
    """Whether matrix products over all keys take less time than a band and a fused call beside it.

    On a CPU they do while the scores of a tile stay in its caches; bfloat16 fused calls are faster than that.
    """
    return q_BHTD.device.type == "cpu" and q_BHTD.dtype != torch.bfloat16 and num_keys <= SHORT
