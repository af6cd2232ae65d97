"""The curves of the wavelet graphs have the extremes of their formulas and of PyWavelets."""

import math

import numpy as np
import pytest

from wavepos.analysis.wavelet_graphs import (
    COMPARED_SCALE,
    RICKER_SCALES,
    Curve,
    closed_curve,
    extremes,
    sampled_curve,
)


def at(curve: Curve, x: float) -> float:
    return float(np.interp(x, curve.x, curve.y))


@pytest.mark.parametrize("scale", [*RICKER_SCALES[4], *RICKER_SCALES[5]])
def test_ricker_peaks_at_1_with_zeros_at_a_and_its_minimum_at_root_3(scale: float) -> None:
    curve = closed_curve("ricker", scale, half=10_000)
    found = extremes(curve)
    assert found["max"] == (0.0, 1.0)
    assert found["min"][1] == pytest.approx(-0.446260, abs=1e-6)
    assert abs(found["min"][0]) == pytest.approx(math.sqrt(3.0) * scale, rel=1e-3)
    assert at(curve, scale) == pytest.approx(0.0, abs=1e-5)
    assert at(curve, -scale) == pytest.approx(0.0, abs=1e-5)


def test_the_scales_of_figures_4_and_5_are_the_first_ten_powers_of_two() -> None:
    assert RICKER_SCALES[4] + RICKER_SCALES[5] == tuple(2.0**i for i in range(10))


def test_haar_of_figure_6_lies_on_the_negative_side() -> None:
    curve = closed_curve("haar", COMPARED_SCALE, half=4000, radius=20.0)
    inside = (curve.x >= -16.0) & (curve.x < 0.0)
    expected = np.where(inside, np.where(curve.x >= -8.0, 1.0, -1.0), 0.0)
    assert np.array_equal(curve.y, expected)


def test_morlet_of_figure_6_has_its_minimum_near_pi() -> None:
    curve = closed_curve("morlet", COMPARED_SCALE, half=100_000)
    x, value = extremes(curve)["min"]
    assert value == pytest.approx(-0.96247, abs=5e-6)
    assert abs(x) == pytest.approx(3.117, abs=2e-3)


def test_gaussian_of_figure_6_falls_to_a_third_at_its_scale() -> None:
    curve = closed_curve("gaussian", COMPARED_SCALE, half=10_000)
    for side in (-16.0, 16.0):
        assert at(curve, side) == pytest.approx(math.exp(-1.0), abs=1e-5)


@pytest.mark.parametrize(
    ("family", "length", "highest", "lowest", "energy"),
    [
        ("db2", 3_073, 1.73098, -1.36469, 1.0),
        ("coif16", 97_281, 0.88690, -1.15847, 1.0),
        ("dmey", 62_465, 0.88886, -1.16584, 1.01466),
        ("bior3.1", 3_072, 384.0, -384.0, 1442.331),
    ],
)
def test_sampled_wavelets_of_level_10(family: str, length: int, highest: float, lowest: float, energy: float) -> None:
    curve = sampled_curve(family)
    found = extremes(curve)
    assert curve.x.shape == curve.y.shape == (length,)
    assert found["max"][1] == pytest.approx(highest, abs=1e-5)
    assert found["min"][1] == pytest.approx(lowest, abs=1e-5)
    assert curve.energy == pytest.approx(energy, rel=1e-5)
