"""The wavelet table: Eq. 14 entry by entry, the grids of Table 3, directions, amplitudes, reach, recency."""

import copy
import json
import math
import pickle

import pytest
import torch

from wavepos import Wavelet
from wavepos.positions import build_position, parse_position, position_dict
from wavepos.positions.alibi import alibi_slopes
from wavepos.wavelets import MotherWavelet, mother_wavelet

TABLE_3 = {
    "8 scales": ([2.0**j for j in range(8)], 16),
    "from 2": ([2.0**j for j in range(1, 9)], 16),
    "from 4": ([2.0**j for j in range(2, 10)], 16),
    "4 scales": ([2.0**j for j in range(4)], 32),
    "2 scales": ([1.0, 2.0], 64),
    "16 scales": ([2.0**j for j in range(16)], 8),
    "32 scales": ([2.0**j for j in range(32)], 4),
    "64 scales": ([2.0**j for j in range(64)], 2),
    "128 scales": ([2.0**j for j in range(128)], 1),
    "1 scale": ([128.0], 128),
    "fixed scale": ([1.0] * 8, 16),
}


def test_the_default_table_is_equation_14() -> None:
    table = Wavelet().table(900)
    for delta in (0, 1, 7, 15, 16, 100, 899):
        for scale_index in range(8):
            for shift in range(16):
                u = (delta - shift) / 2**scale_index
                expected = (1.0 - u * u) * math.exp(-0.5 * u * u)
                assert float(table[delta, scale_index * 16 + shift]) == pytest.approx(expected, abs=1e-7)


def test_the_table_is_float32_and_a_longer_one_begins_with_a_shorter() -> None:
    position = Wavelet(64, "morlet")
    assert position.table(40).dtype == torch.float32
    assert torch.equal(position.table(90)[:40], position.table(40))


@pytest.mark.parametrize("wavelet", ["ricker", "gaussian"])
@pytest.mark.parametrize("grid", TABLE_3)
def test_every_grid_of_table_3(wavelet: str, grid: str) -> None:
    scales, num_shifts = TABLE_3[grid]
    position = Wavelet(128, wavelet, scales=scales)
    assert position.shifts == tuple(range(num_shifts))
    table = position.table(300)
    assert table.shape == (300, 128)
    assert torch.isfinite(table).all()
    terms = position.terms(torch.randn(1, 1, 300, 128), torch.randn(1, 1, 300, 128))
    assert terms.table is not None
    assert terms.table.shape[0] == min(300, position.reach(1e-7))


def test_the_reach_of_the_papers_grids() -> None:
    assert Wavelet().reach(1e-6) == 769
    assert Wavelet().reach(1e-7) == 820
    large = Wavelet(scales=[2.0**j for j in range(2, 10)])
    assert (large.reach(1e-6), large.reach(1e-7)) == (3030, 3235)
    for position in (Wavelet(), *(Wavelet(16, scales=[2.0**j]) for j in range(8))):
        exceeds = position.table(1000).abs().amax(1) > 1e-6
        assert position.reach(1e-6) == int(exceeds.nonzero().max()) + 1


@pytest.mark.parametrize(
    "wavelet", ["ricker", "gaussian", "haar", "morlet", "true_morlet", "db4", "bior3.1", "rbio1.1"]
)
@pytest.mark.parametrize("direction", ["past", "future"])
@pytest.mark.parametrize("amplitude", ["equal", "inverse_sqrt", "unit_peak"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
def test_reach_bounds_the_table(wavelet: str, direction: str, amplitude: str, tolerance: float) -> None:
    scales = [1, 2, 3, 4] if wavelet[-1].isdigit() else [1.0, 2.0, 4.0, 8.0]
    position = Wavelet(16, wavelet, scales=scales, direction=direction, amplitude=amplitude)
    reach = position.reach(tolerance)
    table = position.table(reach + 200)
    assert float(table[reach:].abs().max()) <= tolerance * (1.0 + 1e-6)
    if wavelet in ("ricker", "gaussian") and direction == "past":  # these bounds are attained: one less is too few
        assert float(table[reach - 1].abs().max()) > tolerance * 0.9


def test_future_looks_from_the_other_side() -> None:
    position = Wavelet(64, direction="future")
    ricker = mother_wavelet("ricker")
    delta = torch.arange(50, dtype=torch.float64)
    for index, (scale, shift) in enumerate((a, b) for a in position.scales for b in position.shifts):
        expected = ricker.evaluate(delta + shift, scale).float()
        torch.testing.assert_close(position.table(50)[:, index], expected)


def test_haar_covers_the_causal_side_in_both_directions() -> None:
    """Eq. 15 as printed for "future" (δ + b in (0, a]), its mirror image for "past" (δ − b in (0, a])."""
    past, future = (Wavelet(8, "haar", scales=[4.0], direction=d).table(16) for d in ("past", "future"))
    for shift in range(8):
        for delta in range(16):
            for table, y in ((past, delta - shift), (future, delta + shift)):
                expected = 1.0 if 0 < y <= 2 else -1.0 if 2 < y <= 4 else 0.0
                assert float(table[delta, shift]) == expected


def test_sampled_families_are_indexed_by_the_offset() -> None:
    psi = mother_wavelet("db2").evaluate(torch.arange(40, dtype=torch.float64), 3).float()
    past = Wavelet(4, "db2", scales=[3]).table(20)
    future = Wavelet(4, "db2", scales=[3], direction="future").table(20)
    for shift in range(4):
        assert torch.equal(past[shift:, shift], psi[: 20 - shift])
        assert not past[:shift, shift].any()
        assert torch.equal(future[:, shift], psi[shift : shift + 20])


def test_amplitudes() -> None:
    equal = Wavelet(64).table(100)
    scaled = Wavelet(64, amplitude="inverse_sqrt").table(100)
    scales = torch.tensor([2.0**j for j in range(8)]).repeat_interleave(8)
    torch.testing.assert_close(scaled, equal / scales.sqrt())
    peaks = Wavelet(8, "bior3.1", scales=[5, 8], amplitude="unit_peak").table(2000).abs().amax(0)
    torch.testing.assert_close(peaks, torch.ones(8))


def test_recency_starts_near_alibi_and_zeros_at_zero() -> None:
    position = Wavelet(128, query_bias="recency", num_heads=8)
    assert position.query_bias_HD is not None
    bias = (position.query_bias_HD @ position.table(2000).T / math.sqrt(128)).detach()
    table = position.table(position.reach(1e-7)).double()
    for head, slope in enumerate(alibi_slopes(8)):
        target = (6.0 - slope * torch.arange(table.shape[0], dtype=torch.float64)).clamp_min(0.0)
        augmented = torch.cat([table, math.sqrt(10.0) * torch.eye(128, dtype=torch.float64)])
        wanted = torch.cat([target * math.sqrt(128), torch.zeros(128, dtype=torch.float64)])
        ridge = torch.linalg.lstsq(augmented, wanted[:, None]).solution.squeeze(1)
        torch.testing.assert_close(position.query_bias_HD[head].detach(), ridge.float(), rtol=1e-3, atol=1e-3)
    assert float(bias[0, :4].min()) > 4.0
    assert float(bias[:, 820:].abs().max()) < 1e-4
    zeros = Wavelet(128, query_bias="zeros", num_heads=8)
    assert zeros.query_bias_HD is not None
    assert not zeros.query_bias_HD.any()


class Triangle(MotherWavelet):
    """A wavelet of a user's own."""

    @property
    def name(self) -> str:
        return "triangle"

    def evaluate(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        return (1.0 - (x / scale).abs()).clamp_min(0.0)

    def support(self, scale: float, tolerance: float) -> tuple[float, float]:
        return -scale, scale


def test_a_wavelet_of_ones_own() -> None:
    position = Wavelet(8, Triangle(), scales=[4.0, 8.0])
    assert position.reach(1e-6) == 12
    assert float(position.table(12)[5, 1]) == pytest.approx(0.0)
    assert float(position.table(12)[3, 1]) == pytest.approx(0.5)


def test_the_table_survives_copies_pickles_and_casts() -> None:
    position = Wavelet(64)
    q = torch.randn(1, 1, 30, 64)
    expected = position.terms(q, q).table
    assert expected is not None
    for other in (copy.deepcopy(position), pickle.loads(pickle.dumps(position)), copy.deepcopy(position).bfloat16()):
        table = other.terms(q, q).table
        assert table is not None
        assert table.dtype == torch.float32
        assert torch.equal(table, expected)
    assert not position.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 100}, "head_dim must be a multiple of the number of scales, got head_dim=100 and 8 scales"),
        ({"head_dim": 0}, "head_dim must be a positive whole number, got 0"),
        ({"head_dim": 64, "scales": [1.0, 2.0], "shifts": [0.0]}, "must give head_dim = 64 wavelets, got 2 × 1 = 2"),
        ({"scales": []}, "scales must be a sequence of at least one number"),
        ({"scales": [1.0, -2.0]}, "scales must lie between 1e-06 and 1e\\+100, got -2.0"),
        ({"scales": [math.inf] * 8}, "scales must be a sequence of finite numbers or 'fit' or None, got \\[inf"),
        ({"direction": "back"}, "direction must be one of 'past', 'future', got 'back'"),
        ({"amplitude": "loud"}, "amplitude must be one of 'equal', 'inverse_sqrt', 'unit_peak', got 'loud'"),
        ({"query_bias": "ones", "num_heads": 2}, "query_bias must be one of 'zeros', 'recency' or None, got 'ones'"),
        ({"query_bias": "zeros"}, "num_heads must be given with query_bias"),
        ({"wavelet": "sinc"}, "got 'sinc'"),
    ],
)
def test_wrong_input_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Wavelet(**options)


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -1e-3])
def test_a_tolerance_out_of_range_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance must lie between 0 and 1"):
        Wavelet().reach(tolerance)


@pytest.mark.parametrize("trained_length", [64, 128, 512, 4096])
def test_fitted_scales_are_the_papers_grid_shrunk_to_the_trained_length(trained_length: int) -> None:
    fitted = Wavelet(64, scales="fit", trained_length=trained_length)
    assert fitted.scales == tuple(2.0**i * trained_length / 512 for i in range(8))
    assert max(fitted.scales) == trained_length / 4
    parsed = parse_position({"method": "wavelet", "scales": "fit", "trained_length": trained_length})
    assert parse_position(json.loads(json.dumps(position_dict(parsed)))) == parsed
    built = build_position(parsed, head_dim=64, num_heads=2)
    assert torch.equal(built.table(100), fitted.table(100))  # type: ignore[operator] # a Wavelet


def test_fitted_scales_are_the_papers_at_the_papers_length() -> None:
    assert torch.equal(Wavelet(scales="fit", trained_length=512).table(900), Wavelet().table(900))


def test_fitted_scales_reach_little_further_than_the_trained_length() -> None:
    assert Wavelet(64, scales="fit", trained_length=128).reach() == 209
    assert Wavelet(64).reach() == 812


def test_fitted_scales_can_be_stretched() -> None:
    stretched = Wavelet(64, scales="fit", trained_length=128, stretch=4.0)
    assert stretched.scales == Wavelet(64).scales


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": "fit"}, "trained_length goes with scales='fit' and is needed there, got scales='fit' and .*None"),
        ({"trained_length": 128}, "trained_length goes with scales='fit' .* got scales=None and trained_length=128"),
        ({"scales": [1.0] * 8, "trained_length": 128}, "trained_length goes with scales='fit'"),
        ({"scales": "fit", "trained_length": 0}, "trained_length must lie between 1 and 2147483648, got 0"),
        (
            {"scales": "fit", "trained_length": 128, "wavelet": "db4"},
            "scales='fit' goes with .* got 'db4', whose scales",
        ),
        ({"scales": "fitt", "trained_length": 128}, "got 'fitt': did you mean 'fit'"),
    ],
    ids=str,
)
def test_fitting_without_what_it_needs_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Wavelet(64, **options)
