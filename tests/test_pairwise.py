"""The combinations that the suite leaves out are those whose every pair occurs elsewhere."""

from itertools import combinations, product

import pytest
from pairwise import covering


@pytest.mark.parametrize("sizes", [(3, 3, 3), (9, 8, 4, 2), (2, 2, 2, 2, 2), (12, 2, 1)], ids=str)
def test_every_pair_occurs_in_few_rows(sizes: tuple[int, ...]) -> None:
    rows = list(product(*map(range, sizes)))
    chosen = [rows[i] for i in covering(rows)]
    for a, b in combinations(range(len(sizes)), 2):
        assert {(row[a], row[b]) for row in chosen} == set(product(range(sizes[a]), range(sizes[b])))
    first, second = sorted(sizes)[-2:]
    assert first * second <= len(chosen) <= 1.5 * first * second


def test_combinations_that_are_not_there_are_not_asked_for() -> None:
    assert covering([(0, 0, 0), (0, 0, 1), (1, 1, 0)]) == [0, 1, 2]
    assert covering([]) == []
