"""ALiBi's windows have the numbers that its formula gives, and the measures hold on any map."""

import pytest
import torch

from wavepos.analysis.receptive_field import (
    alibi_window,
    content_free_alibi,
    keys_at_least,
    keys_that_hold,
    reach,
    row_windows,
)
from wavepos.positions.alibi import alibi_slopes

LENGTH = 1012
WINDOWS = [12, 22, 39, 66, 110, 176, 263, 354]


@pytest.fixture(scope="module")
def weights() -> torch.Tensor:
    return content_free_alibi(8, LENGTH).rows(0, LENGTH)


def test_alibis_last_row_at_a_thousandth(weights: torch.Tensor) -> None:
    assert keys_at_least(weights[:, -1], 1e-3).tolist() == WINDOWS


def test_alibis_black_pairs_at_a_thousandth(weights: torch.Tensor) -> None:
    pairs = keys_at_least(weights, 1e-3).sum(-1).tolist()
    assert pairs == [12_078, 22_033, 38_727, 64_647, 105_359, 162_935, 233_779, 306_891]


def test_without_positions_a_key_falls_below_a_thousandth_after_1000_rows() -> None:
    uniform = torch.tril(torch.ones(LENGTH, LENGTH, dtype=torch.float64))
    uniform = uniform / uniform.sum(-1, keepdim=True)
    assert int(keys_at_least(uniform, 1e-3).sum()) == 500_500


def test_keys_that_hold_99_per_cent(weights: torch.Tensor) -> None:
    assert keys_that_hold(weights[:, -1]).tolist() == [10, 19, 37, 74, 148, 295, 585, 907]


def test_at_a_hundredth_the_counts_do_not_follow_the_slope(weights: torch.Tensor) -> None:
    pairs = keys_at_least(weights, 1e-2).sum(-1).tolist()
    assert pairs == [8_068, 13_078, 20_056, 28_998, 36_217, 31_074, 6_088, 5_202]


def test_the_window_of_an_endless_row_has_a_closed_form() -> None:
    slopes = alibi_slopes(8)
    endless = content_free_alibi(8, 16_000).rows(15_999, 16_000)[:, 0]
    for threshold in (1e-3, 1e-2):
        expected = keys_at_least(endless, threshold).tolist()
        assert [alibi_window(slope, threshold) for slope in slopes] == expected
    assert alibi_window(2.0**-8, 1e-2) == 0
    assert [alibi_window(slope, 1e-3) for slope in slopes[:7]] == WINDOWS[:7]  # a row of 1,012 is endless for these


def test_a_window_has_no_gaps_and_a_map_with_a_far_key_has(weights: torch.Tensor) -> None:
    last = weights[:, -4:]
    assert torch.equal(reach(last, 1e-3, LENGTH - 4) + 1, keys_at_least(last, 1e-3))
    row = torch.zeros(1, 1, 50)
    row[..., 3], row[..., 49] = 0.4, 0.6
    assert int(reach(row, 1e-3, 49)) == 46
    assert int(keys_at_least(row, 1e-3)) == 2
    assert int(reach(torch.zeros(1, 1, 5), 1e-3)) == -1


def test_windows_of_a_map_are_means_over_its_rows_by_head(weights: torch.Tensor) -> None:
    found = row_windows(weights[:, -1:], 1e-3, first_row=LENGTH - 1)
    assert found.keys_H == tuple(map(float, WINDOWS))
    assert found.reach_H == tuple(window - 1.0 for window in WINDOWS)
    assert found.held_H[0] == 10.0
    two = row_windows(weights[:, [0, -1]], 1e-3)
    assert two.keys_H[0] == (1 + 12) / 2


def test_thresholds_and_masses_out_of_range_are_refused(weights: torch.Tensor) -> None:
    for call in (
        lambda: keys_at_least(weights, 0.0),
        lambda: reach(weights, 1.0),
        lambda: alibi_window(0.5, 2.0),
    ):
        with pytest.raises(ValueError, match="threshold must lie between 0 and 1"):
            call()
    with pytest.raises(ValueError, match="mass must lie between 0 and 1"):
        keys_that_hold(weights, 1.0)
    with pytest.raises(ValueError, match="slope must be positive"):
        alibi_window(0.0, 1e-3)
