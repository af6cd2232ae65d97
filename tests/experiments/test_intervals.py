"""Student's quantiles against printed tables, and intervals against a computation by hand."""

import math

import pytest

from wavepos.experiments.intervals import incomplete_beta, mean_interval, t_quantile


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [
        (0.975, 1, 12.706204736),
        (0.975, 2, 4.302652730),
        (0.975, 4, 2.776445105),
        (0.975, 9, 2.262157163),
        (0.975, 30, 2.042272456),
        (0.95, 5, 2.015048373),
        (0.999, 3, 10.21453185),
        (0.025, 2, -4.302652730),
    ],
)
def test_quantiles_are_those_of_the_printed_tables(probability: float, degrees: int, expected: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-9)


def test_many_degrees_give_the_normal_distribution() -> None:
    assert t_quantile(0.975, 1e7) == pytest.approx(1.959963985, rel=1e-6)


def test_one_degree_is_the_cauchy_distribution() -> None:
    for probability in (0.6, 0.9, 0.99, 0.9999):
        assert t_quantile(probability, 1) == pytest.approx(math.tan(math.pi * (probability - 0.5)), rel=1e-9)


def test_the_incomplete_beta_function_is_a_polynomial_for_whole_arguments() -> None:
    for x in (0.0, 0.1, 0.5, 0.8, 1.0):
        assert incomplete_beta(2.0, 3.0, x) == pytest.approx(6 * x**2 - 8 * x**3 + 3 * x**4, abs=1e-14)


def test_the_interval_of_three_values_by_hand() -> None:
    interval = mean_interval([0.10, 0.16, 0.13])
    assert interval.mean == pytest.approx(0.13)
    assert interval.half_width == pytest.approx(4.302652730 * 0.03 / math.sqrt(3.0))
    assert interval.leaves_out_zero
    assert not mean_interval([0.10, -0.02, 0.13]).leaves_out_zero


def test_a_single_value_tells_nothing_apart() -> None:
    assert mean_interval([5.0]).half_width is None
    assert not mean_interval([5.0]).leaves_out_zero
    assert not mean_interval([5.0, 5.001]).leaves_out_zero  # two say too little of their own spread
    assert mean_interval([5.0, 5.001, 5.002]).leaves_out_zero
    assert not mean_interval([5.0, math.inf]).leaves_out_zero


@pytest.mark.parametrize("arguments", [(1.0, 2), (0.0, 2), (0.9, 0)])
def test_arguments_out_of_range_are_named(arguments: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"must (lie between|be more than)"):
        t_quantile(*arguments)
