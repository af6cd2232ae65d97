"""Statistics of tables: dead and constant dimensions, rank and band, with the numbers of the paper's grids."""

import pytest
import torch

from wavepos import Wavelet
from wavepos.analysis.tables import numerical_rank, table_statistics


@pytest.mark.parametrize(
    ("family", "dead"), [("coif16", 80), ("db32", 64), ("coif8", 64), ("dmey", 64), ("db16", 48), ("ricker", 0)]
)
def test_dimensions_dead_inside_512_tokens(family: str, dead: int) -> None:
    assert table_statistics(Wavelet(128, family), 512).dead == dead


def test_ricker_ahead_has_20_dead_dimensions_and_rank_11() -> None:
    found = table_statistics(Wavelet(128, direction="future"), 512)
    assert (found.dead, found.rank) == (20, 11)
    assert table_statistics(Wavelet(128), 512).rank == 25


def test_of_128_powers_of_two_110_are_constants_over_4096_tokens() -> None:
    grid = Wavelet(128, scales=[2.0**j for j in range(128)], shifts=[0.0])
    found = table_statistics(grid, 4096)
    assert found.constant == 110
    assert found.dims == 128
    assert found.rank == 6


def test_the_grid_of_the_long_experiment_vanishes_within_2300_tokens() -> None:
    found = table_statistics(Wavelet(128, scales=[2.0**j for j in range(2, 10)]), 4096)
    assert found.band == pytest.approx(2280, abs=10)
    last = Wavelet(128, scales=[2.0**j for j in range(2, 10)]).table(4096).abs().amax(1)
    assert float(last[found.band :].max()) <= 1e-3


def test_haar_of_one_scale_ahead_keeps_two_of_128_dimensions() -> None:
    ahead = table_statistics(Wavelet(128, "haar", scales=[1.0], direction="future"), 512)
    assert (ahead.dead, ahead.rank, ahead.band) == (126, 2, 2)
    past = table_statistics(Wavelet(128, "haar", scales=[1.0]), 512)
    assert (past.dead, past.rank) == (0, 128)


def test_peaks_are_pywavelets_own() -> None:
    assert table_statistics(Wavelet(128, "bior3.1"), 512).peak == pytest.approx(96.0)
    assert table_statistics(Wavelet(128, "bior3.1", amplitude="unit_peak"), 512).peak == pytest.approx(1.0)


def test_the_rank_does_not_see_what_the_softmax_does_not() -> None:
    table = torch.ones(50, 4)
    assert numerical_rank(table) == 1
    assert numerical_rank(table - table.mean(0)) == 0
    assert numerical_rank(torch.diag(torch.tensor([1.0, 0.5, 0.009]))) == 2
