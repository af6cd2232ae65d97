"""Of a test's combinations of parameters, so many that every two values of two parameters occur together."""

from collections.abc import Hashable, Sequence
from itertools import combinations

FEWEST = 3
"""Parameters from which combinations are left out: of two, every combination is a pair."""


def covering(rows: Sequence[Sequence[Hashable]]) -> list[int]:
    """Numbers, in order, of rows in which every pair of two columns' values occurs that occurs in any row.

    Always the row next that has most pairs not seen yet, the first of equals: a covering array of strength two, near
    the smallest.

    Args:
        rows: the combinations, each with its value of every parameter.
    """
    left = {number: _pairs(row) for number, row in enumerate(rows)}
    missing = set().union(*left.values())
    chosen = []
    while missing:
        best = max(left, key=lambda number: len(left[number] & missing))
        missing -= left.pop(best)
        chosen.append(best)
    return sorted(chosen)


def _pairs(row: Sequence[Hashable]) -> set[tuple[int, Hashable, int, Hashable]]:
    return {(a, row[a], b, row[b]) for a, b in combinations(range(len(row)), 2)}
