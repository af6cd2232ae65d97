"""The far part as calls of a fused kernel: pieces without a mask, and with gates a row that is added to their scores.

What depends on the query alone is a constant of its row, which a softmax does not see. So of c[m] − c[n] a fused call
needs c[o] − c[n] only, with o the first of its queries: a row of numbers at most 0 whose rounding is that of the scores
themselves, however long the sequence. The rest, c[m] − c[o], is added to the log-sum-exps before parts are merged. A
block of queries meets the keys before its band in one call without a causal mask, the staircase between being near; a
window cuts the other side as it does without gates.

On a CPU, keys whose weight is zero to the accumulation's rounding are left out, by a bound and not by a threshold
(`gated.first_keys`), so that a steep gate costs no more than the window that it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from wavepos.ops.banded.band import Band
from wavepos.ops.banded.gated import first_keys
from wavepos.ops.banded.pieces import Piece
from wavepos.ops.call import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedCall:
    """One call of the kernel.

    Attributes:
        call: the attention call that it is a part of, prepared.
        piece: its queries and keys.
        batch: its batch rows.
        groups: its key/value heads.
    """

    call: Call
    piece: Piece
    batch: slice
    groups: slice

    @property
    def rows(self) -> slice:
        """The queries' indices."""
        return self.piece.rows

    @property
    def causal(self) -> bool:
        """Whether the kernel's own mask applies."""
        return self.piece.shape != "whole"

    def has_all(self, rows: slice) -> bool:
        """Whether it has those rows of every batch row and head."""
        num_rows, num_groups = self.call.terms.k_BGSD.shape[:2]
        return (self.rows, self.batch, self.groups) == (rows, slice(0, num_rows), slice(0, num_groups))

    def of_rows(self, x_BHT: Tensor) -> Tensor:
        """Its part of what has one row per query, a view."""
        return self._of_heads(x_BHT)[:, :, self.rows]

    def of_keys(self, x_BGS: Tensor) -> Tensor:
        """Its part of what has one row per key, a view."""
        return x_BGS[self.batch, self.groups, self.piece.keys]

    def of_sums(self, x_BHP: Tensor) -> tuple[Tensor, Tensor]:
        """Its keys' and its queries' part of what has one entry per head and position, views."""
        offset, x_BHP = self.call.mask.query_offset, self._of_heads(x_BHP)
        return x_BHP[:, :, self.piece.keys], x_BHP[:, :, offset + self.rows.start : offset + self.rows.stop]

    def turned(self, x: Tensor) -> Tensor:
        """Rows or keys in the order in which the piece is causal attention, or back."""
        return x.flip(2) if self.piece.shape == "upper" else x

    def qkv(self, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the kernel gets of them."""
        return self.turned(self.of_rows(q_BHTD)), self.turned(self.of_keys(k_BGSD)), self.turned(self.of_keys(v_BGSD))

    def row(self) -> Tensor | None:
        """c[o] − c[n] of the keys, [B,H,1,K] as the kernel gets it; None without gates."""
        if self.call.sums_BHS is None:
            return None
        of_keys, of_queries = self.of_sums(self.call.sums_BHS)
        return self.turned(of_queries[:, :, :1] - of_keys)[:, :, None].to(self.call.wide_dtype)

    def with_own_gates(self, lse_BHT: Tensor) -> Tensor:
        """Log-sum-exps of the kernel, which has left out c[m] − c[o], with it."""
        column = self._column()
        return lse_BHT if column is None else lse_BHT + column

    def without_own_gates(self, lse_BHT: Tensor) -> Tensor:
        """And back."""
        column = self._column()
        return lse_BHT if column is None else lse_BHT - column

    def _column(self) -> Tensor | None:
        """c[m] − c[o] of the queries, [B,H,C] in the kernel's order."""
        if self.call.sums_BHS is None:
            return None
        _, of_queries = self.of_sums(self.call.sums_BHS)
        return self.turned(of_queries - of_queries[:, :, :1]).to(self.call.wide_dtype)

    def _of_heads(self, x_BH: Tensor) -> Tensor:
        heads_per_group = self.call.terms.q_BHTD.shape[1] // self.call.terms.k_BGSD.shape[1]
        return x_BH[self.batch, self.groups.start * heads_per_group : self.groups.stop * heads_per_group]


def fused_calls(call: Call, band: Band) -> Iterator[FusedCall]:
    """Those of the far part: one per piece; with gates one per piece of a block where all heads begin at one key, else
    one per run of heads that do.
    """
    batch, num_groups = call.terms.k_BGSD.shape[:2]
    if band.block is None:
        for piece in band.far():
            yield FusedCall(call=call, piece=piece, batch=slice(0, batch), groups=slice(0, num_groups))
        return
    firsts_of_all = first_keys(call, band)
    for index, block in enumerate(band.blocks()):
        firsts = [[0] * num_groups] * batch if firsts_of_all is None else firsts_of_all[index]
        for rows_of_batch, groups, first in _rectangles(firsts):
            for piece in band.far_of(block, first):
                yield FusedCall(call=call, piece=piece, batch=rows_of_batch, groups=groups)


def _rectangles(firsts: list[list[int]]) -> Iterator[tuple[slice, slice, int]]:
    """Batch rows and key/value heads that begin at the same key: all, or the neighbours of one batch row."""
    if all(first == firsts[0][0] for row in firsts for first in row):
        yield slice(0, len(firsts)), slice(0, len(firsts[0])), firsts[0][0]
        return
    for index, row in enumerate(firsts):
        begin = 0
        for group in range(1, len(row) + 1):
            if group == len(row) or row[group] != row[begin]:
                yield slice(index, index + 1), slice(begin, group), row[begin]
                begin = group
