"""RoPE as a wavelet transform: the construction of section 3.2 and A.1–A.4, with its numbers."""

import math

import pytest
import pywt
import torch

from wavepos.analysis.rope_as_wavelet import (
    fourier_matrix,
    haar_error,
    haar_matrix,
    integral,
    offsets,
    phase,
    printed_haar_shifts,
    restarted,
    rope_matrix,
    score_coefficients,
    shifts,
    trigonometric_score,
    turns,
    wavelet_matrix,
)

D = 128


@pytest.mark.parametrize(("m", "k", "error"), [(0, 1, 0.0), (7, 2, 9e-14), (511, 82, 3.6e-12), (32767, 5216, 2.3e-10)])
def test_the_wavelets_rows_are_ropes_rows(m: int, k: int, error: float) -> None:
    assert turns(m) == k
    built, rope = wavelet_matrix(m, D), rope_matrix(m, D)
    assert built.dtype == torch.float64
    assert built.shape == (D, D)
    difference = float((built - rope).abs().max())
    assert error / 2 <= difference <= error <= 1e-13 * max(1, m)
    assert torch.equal(built != 0, rope != 0)


@pytest.mark.parametrize(("m", "d", "theta"), [(1, 2, 1e4), (100, 64, 5e5), (710, 128, 1e4), (12345, 32, 10.0)])
def test_it_holds_for_other_sizes_and_bases(m: int, d: int, theta: float) -> None:
    difference = (wavelet_matrix(m, d, theta) - rope_matrix(m, d, theta)).abs().max()
    assert float(difference) <= 1e-13 * max(1, m)


def test_rope_is_written_with_its_rows_in_the_papers_order() -> None:
    rope = rope_matrix(3, 4)
    second = 3 * 1e4**-0.5
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for block, angle in enumerate((3.0, second)):
        at = 2 * block
        expected[at, at], expected[at, at + 1] = math.cos(angle), -math.sin(angle)
        expected[at + 1, at], expected[at + 1, at + 1] = math.sin(angle), math.cos(angle)
    torch.testing.assert_close(rope, expected, rtol=0.0, atol=1e-15)


def test_offsets_lie_in_0_to_1_and_shifts_just_below_the_even_entries() -> None:
    for m in (0, 1, 6, 7, 44, 710, 32767):
        delta = offsets(m, D)
        assert bool(((delta >= 0.0) & (delta < 1.0)).all())
        torch.testing.assert_close(shifts(m, D), torch.arange(0, D, 2).double() - delta)


def test_the_phase_makes_k_turns_twice() -> None:
    t = torch.tensor([0.0, 0.25, 1.0, 1.25], dtype=torch.float64)
    torch.testing.assert_close(phase(t, 2), torch.tensor([0.0, math.pi, 0.0, math.pi], dtype=torch.float64))


@pytest.mark.parametrize("m", [7, 511])
def test_a_wavelet_of_whole_turns_has_mean_0_and_energy_1(m: int) -> None:
    k = turns(m)
    assert abs(integral(lambda t: phase(t, k))) < 1e-12
    assert integral(lambda t: phase(t, k), power=2) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("rate", "mean"), [(1.0, 0.3818), (3.0, -0.6163)])
def test_other_phases_have_no_mean_of_0(rate: float, mean: float) -> None:
    found = integral(restarted(rate))
    assert found == pytest.approx(mean, abs=5e-5)
    assert found == pytest.approx((math.sin(rate) + math.cos(rate) - 1.0) / rate, abs=1e-12)
    assert integral(restarted(rate), power=2) == pytest.approx(1.0, abs=1e-12)


def test_a_phase_that_really_rises_gives_the_same_matrix() -> None:
    difference = (wavelet_matrix(511, D, monotone=True) - wavelet_matrix(511, D)).abs().max()
    assert 0.0 < float(difference) < 4e-12


def test_the_odd_entries_take_their_pairs_offset() -> None:
    """With δ at the odd entry itself (its own frequency, half a step on) the matrix is another."""
    m, k = 511, turns(511)
    delta = offsets(m, D)
    of_odd_entry = m * 1e4 ** (-2 * (torch.arange(D // 2, dtype=torch.float64) + 0.5) / D) / (2 * k * math.pi)
    right = -torch.sin(phase(1.0 + delta, k))
    wrong = -torch.sin(phase(1.0 + of_odd_entry, k))
    on_diagonal = torch.diagonal(rope_matrix(m, D), 1)[::2]
    torch.testing.assert_close(right, on_diagonal, rtol=0.0, atol=1e-10)
    assert float((wrong - on_diagonal).abs().max()) > 0.5


def test_haars_transform_is_the_rotation_by_an_eighth_turn_in_every_block() -> None:
    found = haar_matrix(D)
    assert found.shape == (D, D)
    block = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) * math.cos(math.pi / 4)
    rotation = torch.block_diag(*[block] * (D // 2))
    assert float((found - rotation).abs().max()) <= 1.2e-16
    x = torch.randn(D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = pywt.dwt(x.numpy(), "haar", mode="periodization")
    transformed = (found @ x).view(-1, 2)
    assert float((transformed[:, 0] - torch.from_numpy(high)).abs().max()) <= 5e-16
    assert float((transformed[:, 1] - torch.from_numpy(low)).abs().max()) <= 5e-16


def test_the_printed_shifts_of_haar_stop_half_way() -> None:
    printed = printed_haar_shifts(D)
    assert printed.numel() == 33
    rows = haar_matrix(D, printed)
    assert rows.shape == (66, D)
    assert float(rows[:, 66:].abs().max()) == 0.0


def test_no_position_brings_every_block_of_rope_to_an_eighth_turn() -> None:
    errors = haar_error(torch.arange(20_000), D)
    assert float(errors.min()) == pytest.approx(0.785, abs=5e-4)
    assert int((errors <= 0.7).sum()) == 0
    for m in (0, 5, 700):  # against the angles themselves
        direct = max(abs(math.remainder(m * 1e4 ** (-2 * i / D) - math.pi / 4, 2 * math.pi)) for i in range(D // 2))
        assert float(haar_error(torch.tensor([m]), D)) == pytest.approx(direct, abs=1e-12)


def test_ropes_matrix_is_not_fouriers() -> None:
    rope, fourier = rope_matrix(37, D), fourier_matrix(D)
    assert int((rope != 0).sum()) == 256
    assert int((fourier.abs() > 0.5).sum()) == 16_384
    torch.testing.assert_close(fourier @ torch.ones(D, dtype=torch.complex128), D * torch.eye(D)[0].to(fourier.dtype))
    assert float(torch.linalg.norm(rope - fourier / math.sqrt(D))) == pytest.approx(15.944, abs=5e-4)


@pytest.mark.parametrize(("m", "n"), [(0, 0), (100, 3), (3, 100), (5000, 4990)])
def test_ropes_score_is_a_trigonometric_sum_in_the_displacement(m: int, n: int) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(D, dtype=torch.float64, generator=generator) for _ in range(2))
    score = float((rope_matrix(m, D) @ q) @ (rope_matrix(n, D) @ k))
    assert trigonometric_score(q, k, n - m) == pytest.approx(score, abs=1e-10 if m > 1000 else 5e-13)
    assert score_coefficients(q, k).shape == (D // 2,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 8), "m must be a position"),
        ((math.inf, 8), "m must be a position"),
        ((1, 7), "d must be an even"),
        ((1, 0), "d must be an even"),
        ((1, 8, 1.0), "theta must be more than 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wavelet_matrix(*arguments)
    with pytest.raises(ValueError, match="length must be an even"):
        haar_matrix(3)
