"""Means, spreads and 95% intervals of few seeds, without scipy."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
"""Of every interval in a report."""
FEWEST = 3
"""Values below which nothing is told apart: the spread of two says too little of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its 95% interval; without one where a single value gives none.

    Attributes:
        mean: of the values.
        half_width: of the interval; None for a single value.
        count: values.
    """

    mean: float
    half_width: float | None
    count: int

    @property
    def leaves_out_zero(self) -> bool:
        """Whether all of the interval lies on one side of zero; never so below three values."""
        return self.half_width is not None and self.count >= FEWEST and abs(self.mean) > self.half_width


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of independent values and t(n − 1)·s/√n on both sides of it (Student's interval).

    Args:
        values: at least one, for instance the differences of two methods, one per seed.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("values must hold at least one number, got none")
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Interval(mean=mean, half_width=None, count=1)
    if not all(math.isfinite(value) for value in values):
        return Interval(mean=mean, half_width=math.inf, count=count)
    quantile = t_quantile(0.5 + LEVEL / 2.0, count - 1)
    return Interval(mean=mean, half_width=quantile * statistics.stdev(values) / math.sqrt(count), count=count)


def t_quantile(probability: float, degrees: float) -> float:
    """The t with P(T ≤ t) = probability for Student's T, found by bisection of the incomplete beta function.

    Args:
        probability: between 0 and 1, both excluded.
        degrees: of freedom, more than 0.

    Raises:
        ValueError: an argument out of its range.
    """
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability must lie between 0 and 1, got {probability}")
    if not degrees > 0.0:
        raise ValueError(f"degrees must be more than 0, got {degrees}")
    if probability < 0.5:
        return -t_quantile(1.0 - probability, degrees)
    tail = 2.0 * (1.0 - probability)
    low, high = 0.0, 1.0
    while _two_tails(high, degrees) > tail:
        low, high = high, 2.0 * high
    for _ in range(200):
        middle = 0.5 * (low + high)
        if _two_tails(middle, degrees) > tail:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _two_tails(t: float, degrees: float) -> float:
    """P(|T| > t) = I_x(degrees/2, 1/2) with x = degrees/(degrees + t²)."""
    return incomplete_beta(degrees / 2.0, 0.5, degrees / (degrees + t * t))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by Lentz's continued fraction.

    Args:
        a, b: more than 0.
        x: from 0 to 1.
    """
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):  # there the fraction converges slowly, its mirror image quickly
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(logarithm) * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1.0 / _off_zero(1.0 - (a + b) * x / (a + 1.0), tiny)
    value = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        step = 1.0
        for coefficient in (even, odd):
            d = 1.0 / _off_zero(1.0 + coefficient * d, tiny)
            c = _off_zero(1.0 + coefficient / c, tiny)
            step = c * d
            value *= step
        if abs(step - 1.0) < 1e-15:
            break
    return value


def _off_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
