"""The far part in pieces that a fused kernel computes without a mask: whole rectangles, and squares cut by a diagonal.

Rows count the queries of a call and keys its keys, both from 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some queries and some keys, and which of the pairs take part.

    Attributes:
        rows: the queries' indices.
        keys: the keys' positions.
        shape: "whole": every pair; of the others, which are square, "lower": the key's index is at most the query's, as
            in causal attention; "upper": it is at least that.
    """

    rows: slice
    keys: slice
    shape: Literal["whole", "lower", "upper"]


def at_most(rows: slice, keys: slice, shift: int) -> Iterator[Piece]:
    """Every pair of a row i and a key j ≤ i + shift among those given, each in one piece."""
    start = max(rows.start, keys.start - shift)  # the first row that has a key
    corner = min(start + shift, keys.stop)
    size = max(0, min(rows.stop - start, keys.stop - corner))
    pieces = (
        Piece(rows=slice(start, rows.stop), keys=slice(keys.start, corner), shape="whole"),
        Piece(rows=slice(start, start + size), keys=slice(corner, corner + size), shape="lower"),
        Piece(rows=slice(start + size, rows.stop), keys=slice(corner, keys.stop), shape="whole"),
    )
    yield from (x for x in pieces if x.rows.start < x.rows.stop and x.keys.start < x.keys.stop)


def at_least(rows: slice, keys: slice, shift: int) -> Iterator[Piece]:
    """Every pair of a row i and a key j ≥ i + shift among those given: the same, with rows and keys turned round."""
    for piece in at_most(_turned(rows), _turned(keys), -shift):
        shape: Literal["whole", "upper"] = "whole" if piece.shape == "whole" else "upper"
        yield Piece(rows=_turned(piece.rows), keys=_turned(piece.keys), shape=shape)


def _turned(x: slice) -> slice:
    """Index i as −1 − i."""
    return slice(-x.stop, -x.start)


def stripe(rows: slice, keys: slice, first: int, last: int) -> Iterator[Piece]:
    """Every pair of a row i and a key j with i + first ≤ j ≤ i + last: blocks of rows as high as the stripe is wide.

    Each block has a square below its diagonal and one above, beside each other: no more than the stripe is computed.
    """
    width = last - first + 1
    for start in range(rows.start, rows.stop, width):
        block = slice(start, min(start + width, rows.stop))
        middle = min(max(start + last, keys.start), keys.stop)  # the first row's last key
        yield from at_least(block, slice(keys.start, middle), first)
        yield from at_most(block, slice(middle, keys.stop), last)
