"""Documents side by side, and padding before or behind a row, as calls of their own: no mask, and a far part each."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from wavepos.ops.banded.totals import Grads, Output
from wavepos.ops.call import Call
from wavepos.ops.mask import Mask

LEAST = 512
"""Queries per segment, on average, below which one call with a mask takes less time than many without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Queries that see keys of one run only, and of it all that direction and window allow.

    Attributes:
        batch: their batch rows.
        rows: the queries' indices.
        keys: the keys' positions.
        positions: from the first key to the last query.
    """

    batch: slice
    rows: slice
    keys: slice
    positions: slice

    def of_rows(self, x_BH: Tensor) -> Tensor:
        """Its part of what has one row per query, [B,H,T,…], a view."""
        return x_BH[self.batch, :, self.rows]

    def of_keys(self, x_BG: Tensor) -> Tensor:
        """Its part of what has one row per key, [B,G,S,…], a view."""
        return x_BG[self.batch, :, self.keys]

    def of_positions(self, x_BH: Tensor | None) -> Tensor | None:
        """Its part of what has one entry per position, [B,H,P], a view: what only has a meaning in differences."""
        return None if x_BH is None else x_BH[self.batch, :, self.positions]

    def call(self, whole: Call) -> Call:
        """The attention of its queries over its keys, without padding and documents."""
        terms, mask = whole.terms, whole.mask
        part = dataclasses.replace(
            terms,
            q_BHTD=self.of_rows(terms.q_BHTD),
            k_BGSD=self.of_keys(terms.k_BGSD),
            r_BHTE=None if terms.r_BHTE is None else self.of_rows(terms.r_BHTE),
        )
        num_queries = self.rows.stop - self.rows.start
        mask = Mask(
            num_queries=num_queries,
            num_keys=self.keys.stop - self.keys.start,
            query_offset=self.positions.stop - self.positions.start - num_queries,
            causal=mask.causal,
            window=mask.window,
        )
        return dataclasses.replace(
            whole,
            terms=part,
            v_BGSD=self.of_keys(whole.v_BGSD),
            mask=mask,
            sums_BHS=self.of_positions(whole.sums_BHS),
        )

    def output(self, whole: Output) -> Output:
        """Its part of an output, in views."""
        out, lse, share = map(self.of_rows, (whole.out_BHTD, whole.lse_BHT, whole.share_BHT))
        return Output(out_BHTD=out, lse_BHT=lse, share_BHT=share)

    def grads(self, whole: Grads) -> Grads:
        """Its part of what all of them add to, in views; those of table and bias are shared."""
        return dataclasses.replace(
            whole,
            dr_BHTE=None if whole.dr_BHTE is None else self.of_rows(whole.dr_BHTE),
            dsums_BHS=self.of_positions(whole.dsums_BHS),
        )


def segments(mask: Mask) -> list[Segment] | None:
    """The segments of padding and documents; queries in none of them see no key.

    None: there is no padding and there are no documents, a document's keys are no unbroken run, or the segments are so
    many that a mask is cheaper.
    """
    if mask.key_padding_BS is None and mask.document_ids_BS is None:
        return None
    runs = _runs(mask)
    if runs is None:
        return None
    found, first = [], 0
    for documents, alike in groupby(runs):
        batch = slice(first, first + len(list(alike)))
        first = batch.stop
        for document, keys in documents:
            segment = _segment(mask, batch, document, keys)
            if segment is None:
                continue
            if segment.rows.start + mask.query_offset < keys[0]:  # keys ahead of every query: a mask serves it
                return None
            found.append(segment)
    covered = sum((x.batch.stop - x.batch.start) * (x.rows.stop - x.rows.start) for x in found)
    return found if covered >= LEAST * len(found) else None


def _segment(mask: Mask, batch: slice, document: tuple[int, int], keys: tuple[int, int]) -> Segment | None:
    """The document's queries that see some of its keys; None: none does."""
    start = max(document[0], mask.query_offset, keys[0] if mask.causal else 0)
    end = min(document[1], mask.query_offset + mask.num_queries)
    if start >= end or keys[0] >= keys[1]:
        return None
    rows = slice(start - mask.query_offset, end - mask.query_offset)
    seen = slice(keys[0], min(keys[1], end) if mask.causal else keys[1])
    return Segment(batch=batch, rows=rows, keys=seen, positions=slice(keys[0], end))


def _runs(mask: Mask) -> list[list[tuple[tuple[int, int], tuple[int, int]]]] | None:
    """For every batch row the positions of every document, from … to, and those of its keys that are not padding."""
    num_keys, ids_BS, padding_BS = mask.num_keys, mask.document_ids_BS, mask.key_padding_BS
    if ids_BS is not None:
        ids_BS = ids_BS[:, :num_keys]
        if bool((ids_BS[:, 1:] < ids_BS[:, :-1]).any()):
            return None
    rows = []
    for row in range((padding_BS if ids_BS is None else ids_BS).shape[0]):  # type: ignore[union-attr] # one is given
        ends = [mask.query_offset + mask.num_queries + num_keys]  # queries may stand behind the last key
        if ids_BS is not None:
            ends = [*_changes(ids_BS[row]), num_keys]
        kept = [(0, num_keys)] if padding_BS is None else list(_kept(padding_BS[row]))
        if (len(ends) + len(kept)) * LEAST > 4 * (num_keys + LEAST):
            return None
        documents = []
        for start, end in zip([0, *ends], ends, strict=False):
            inside = [(max(a, start), min(b, end)) for a, b in kept if a < end and b > start]
            if len(inside) > 1:
                return None
            documents.append(((start, end), inside[0] if inside else (start, start)))
        rows.append(documents)
    return rows


def _changes(x_S: Tensor) -> list[int]:
    """Where an entry differs from the one before."""
    changes: list[int] = (torch.nonzero(x_S[1:] != x_S[:-1])[:, 0] + 1).tolist()
    return changes


def _kept(padding_S: Tensor) -> Iterator[tuple[int, int]]:
    """The runs of keys that take part, from … to."""
    ends = [*_changes(padding_S), padding_S.shape[0]]
    takes_part = bool(padding_S[0])
    for start, end in zip([0, *ends], ends, strict=False):
        if takes_part:
            yield start, end
        takes_part = not takes_part
