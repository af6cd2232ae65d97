"""Figures 1, 4, 5, 6, 9 and 10 show every wavelet that they should, with the values of the wavelets."""

import numpy as np
import pytest

from wavepos import Wavelet
from wavepos.analysis.wavelet_graphs import extremes, sampled_curve
from wavepos.experiments.published import TABLE4
from wavepos.experiments.wavelet_figures import (
    compared_wavelets,
    discrete_wavelets,
    ricker_scales,
    thinned,
    wavelets_of_a_head,
)


def titles(figure: object) -> list[str]:
    return [text for axis in figure.axes if (text := axis.get_title(loc="left"))]  # type: ignore[attr-defined]


def test_a_head_is_shown_by_scale_in_small_multiples() -> None:
    position = Wavelet(128)
    figure = wavelets_of_a_head(position)
    assert titles(figure) == [f"a = {2**i}" for i in range(8)]
    assert all(len(axis.lines) == 4 for axis in figure.axes)
    shown = figure.axes[3].lines[2]  # a = 8, b = 10
    table = position.table(len(shown.get_xdata())).numpy()
    assert np.array_equal(shown.get_ydata(), table[:, 3 * 16 + 10])


@pytest.mark.parametrize("grid", [([1.0], [0.0, 1.0]), ([1.0, 2.0, 4.0], [0.0]), ([2.0], [float(b) for b in range(9)])])
def test_heads_with_few_scales_or_shifts_are_shown_too(grid: tuple[list[float], list[float]]) -> None:
    figure = wavelets_of_a_head(Wavelet(len(grid[0]) * len(grid[1]), scales=grid[0], shifts=grid[1]))
    assert len(titles(figure)) == len(grid[0])
    assert len(figure.axes[0].lines) == min(4, len(grid[1]))


def test_figures_4_and_5_show_five_scales_each_on_one_axis() -> None:
    for number, scales in ((4, [1, 2, 4, 8, 16]), (5, [32, 64, 128, 256, 512])):
        figure = ricker_scales(number)
        assert [axis.texts[0].get_text() for axis in figure.axes] == [f"a = {scale}" for scale in scales]
        assert [axis.lines[1].get_xdata()[1] for axis in figure.axes] == scales
        assert max(figure.axes[0].lines[0].get_ydata()) == 1.0
    with pytest.raises(ValueError, match="must be 4 or 5, got 6"):
        ricker_scales(6)


def test_figure_6_shows_the_four_wavelets_with_a_formula() -> None:
    assert titles(compared_wavelets()) == ["Ricker", "Haar", "Morlet", "Gaussian"]


def test_figures_9_and_10_show_all_27_discrete_wavelets_once() -> None:
    shown = [text.split(":")[0] for number in (9, 10) for text in titles(discrete_wavelets(number))]
    assert sorted(shown) == sorted(list(TABLE4)[4:])
    assert "bior3.1: −384 to 384" in titles(discrete_wavelets(10))
    with pytest.raises(ValueError, match="must be 9 or 10, got 1"):
        discrete_wavelets(1)


@pytest.mark.parametrize("family", ["bior3.1", "coif16", "rbio1.1"])
def test_a_thinned_curve_keeps_every_extreme(family: str) -> None:
    curve = sampled_curve(family)
    drawn = thinned(curve)
    assert drawn.x.size <= 800
    assert extremes(drawn)["max"][1] == extremes(curve)["max"][1]
    assert extremes(drawn)["min"][1] == extremes(curve)["min"][1]
    assert np.all(np.diff(drawn.x) > 0)
