"""Mother wavelets: closed forms against PyWavelets and integrals, and supports that really bound the tails."""

import math

import pytest
import pywt
import torch

from wavepos.wavelets import Haar, Morlet, MotherWavelet, Sampled, TrueMorlet, mother_wavelet

CLOSED = ("ricker", "gaussian", "haar", "morlet", "true_morlet")
SAMPLED = ("db1", "db2", "db8", "sym4", "coif2", "dmey", "bior1.3", "bior3.1", "rbio1.1", "rbio2.6")
ALL_OF_THE_PAPER = [
    *(f"db{n}" for n in (2, 4, 8, 16, 32)),
    *(f"sym{n}" for n in (2, 4, 8)),
    *(f"coif{n}" for n in (1, 2, 4, 8, 16)),
    "dmey",
    *(f"bior{n}" for n in ("1.3", "2.2", "2.6", "3.1", "3.5", "3.9", "4.4", "5.5", "6.8")),
    *(f"rbio{n}" for n in ("1.1", "1.3", "2.2", "2.6")),
]


def grid(low: float, high: float, points: int = 200_001) -> torch.Tensor:
    return torch.linspace(low, high, points, dtype=torch.float64)


def test_ricker_is_pywavelets_mexican_hat_without_its_normalisation() -> None:
    values, x = pywt.ContinuousWavelet("mexh").wavefun(length=2001)
    ours = mother_wavelet("ricker").evaluate(torch.from_numpy(x), 1.0)
    factor = 2.0 / (math.sqrt(3.0) * math.pi**0.25)
    torch.testing.assert_close(factor * ours, torch.from_numpy(values), rtol=0.0, atol=1e-12)


def test_true_morlet_is_pywavelets_morl() -> None:
    values, x = pywt.ContinuousWavelet("morl").wavefun(length=2001)
    torch.testing.assert_close(
        TrueMorlet(5.0).evaluate(torch.from_numpy(x), 1.0), torch.from_numpy(values), rtol=0.0, atol=1e-12
    )


@pytest.mark.parametrize("name", ["ricker", "haar"])
@pytest.mark.parametrize("scale", [1.0, 8.0, 128.0])
def test_zero_mean_where_it_is_claimed(name: str, scale: float) -> None:
    x = grid(-12.0 * scale, 12.0 * scale)
    integral = torch.trapezoid(mother_wavelet(name).evaluate(x, scale), x)
    assert abs(float(integral)) < 2e-4 * scale


def test_gaussian_has_the_integral_of_its_formula() -> None:
    x = grid(-40.0, 40.0)
    integral = torch.trapezoid(mother_wavelet("gaussian").evaluate(x, 4.0), x)
    assert float(integral) == pytest.approx(4.0 * math.sqrt(math.pi), rel=1e-9)


def test_morlet_of_the_paper_has_one_frequency_at_every_scale() -> None:
    x = grid(-3.0, 3.0, 601)
    for scale in (4.0, 64.0):
        envelope = torch.exp(-((x / scale) ** 2))
        torch.testing.assert_close(Morlet().evaluate(x, scale), envelope * torch.cos(x))


def test_haar_of_equation_15() -> None:
    u = torch.tensor([-1.1, -1.0, -0.6, -0.5, -0.1, 0.0, 0.4], dtype=torch.float64)
    expected = torch.tensor([0.0, -1.0, -1.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.equal(Haar().evaluate(4.0 * u, 4.0), expected)


@pytest.mark.parametrize("level", [1, 4, 8])
def test_haar_through_pywavelets_is_haar_by_formula(level: int) -> None:
    """PyWavelets' array begins with a zero and holds ψ of the unit interval; mirrored, it is Eq. 15 at a = 2^level."""
    offsets = torch.arange(1, 2**level + 1, dtype=torch.float64)
    sampled = Sampled("db1").evaluate(offsets, level)
    formula = Haar().evaluate(-offsets, 2.0**level)
    inner = slice(0, 2**level - 1)
    torch.testing.assert_close(sampled[inner].sign(), formula[inner].sign())
    torch.testing.assert_close(sampled[inner].abs(), torch.ones_like(sampled[inner]), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("name", [*CLOSED, *SAMPLED])
@pytest.mark.parametrize("tolerance", [0.5, 1e-2, 1e-4, 1e-7])
def test_support_bounds_the_tail(name: str, tolerance: float) -> None:
    wavelet = mother_wavelet(name)
    scales = (1, 3, 6) if isinstance(wavelet, Sampled) else (0.7, 1.0, 16.0, 128.0)
    for scale in scales:
        low, high = wavelet.support(scale, tolerance)
        span = high - low + 20.0 * scale
        for beyond in (grid(high, high + span)[1:], grid(low - span, low)[:-1]):
            outside = torch.ones_like(beyond, dtype=torch.bool)
            if isinstance(wavelet, Sampled):
                outside = (beyond.round() > high) | (beyond.round() < low)
            assert float(wavelet.evaluate(beyond[outside], scale).abs().max()) <= tolerance


@pytest.mark.parametrize("name", [*CLOSED, *SAMPLED])
def test_support_is_not_idly_wide(name: str) -> None:
    wavelet = mother_wavelet(name)
    scale = 6 if isinstance(wavelet, Sampled) else 32.0
    low, high = wavelet.support(scale, 1e-6)
    x = torch.arange(math.floor(low), math.ceil(high) + 1, dtype=torch.float64)
    exceeds = x[wavelet.evaluate(x, scale).abs() > 1e-6]
    slack = 1.0 + 0.1 * scale
    assert float(exceeds.max()) >= high - slack
    assert float(exceeds.min()) <= low + slack


@pytest.mark.parametrize("name", ["ricker", "gaussian", "morlet", "haar", "true_morlet"])
def test_the_largest_scale_of_table_3_does_not_overflow(name: str) -> None:
    x = torch.tensor([-5000.0, -1.0, 0.0, 1.0, 5000.0], dtype=torch.float64)
    values = mother_wavelet(name).evaluate(x, 2.0**127)
    assert torch.isfinite(values).all()
    low, high = mother_wavelet(name).support(2.0**127, 1e-7)
    assert math.isfinite(low)
    assert math.isfinite(high)


@pytest.mark.parametrize("name", ALL_OF_THE_PAPER)
def test_every_family_of_table_4_at_every_level(name: str) -> None:
    wavelet = Sampled(name)
    for level in range(1, 9):
        low, high = wavelet.support(level, 1e-9)
        values = wavelet.evaluate(torch.arange(low, high + 1, dtype=torch.float64), level)
        assert torch.isfinite(values).all()
        assert float(values.abs().max()) > 0.1


def test_the_decomposition_wavelet_of_a_biorthogonal_family_is_taken() -> None:
    psi_d = torch.from_numpy(pywt.Wavelet("bior3.1").wavefun(level=8)[1])
    offsets = torch.arange(psi_d.numel(), dtype=torch.float64)
    torch.testing.assert_close(Sampled("bior3.1").evaluate(offsets, 8), psi_d)
    assert 90.0 < float(psi_d.abs().max()) < 100.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mexh", "wavelet must be one of ricker, gaussian, haar, morlet, true_morlet, or a discrete wavelet"),
        ("db99", "wavelet 'db99' is not among PyWavelets' discrete wavelets"),
        ("", "got ''"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mother_wavelet(name)


@pytest.mark.parametrize("scale", [0.5, 0.0, 2.5, 13.0])
def test_levels_are_whole_numbers(scale: float) -> None:
    with pytest.raises(ValueError, match="are levels, whole numbers 1 to 12"):
        Sampled("db4").support(scale, 1e-3)


def test_a_wavelet_of_ones_own_needs_both_methods() -> None:
    class Half(MotherWavelet):
        @property
        def name(self) -> str:
            return "half"

        def evaluate(self, x: torch.Tensor, scale: float) -> torch.Tensor:
            return (x.abs() < scale).double()

    with pytest.raises(TypeError, match="support"):
        Half()  # type: ignore[abstract]
