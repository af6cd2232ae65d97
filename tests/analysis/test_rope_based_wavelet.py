"""The RoPE-based wavelet: the dense matrix of A.5 and the fast position are one, with the numbers that belong to it."""

import math

import pytest
import torch

from wavepos import attention
from wavepos.analysis.rope_as_wavelet import rope_matrix
from wavepos.analysis.rope_based_wavelet import (
    RopeBasedWavelet,
    RopeBasedWaveletConfig,
    dense_cost,
    dense_matrix,
    dense_transform,
    fast_transform,
    score_growth,
    triangle_condition,
)

D = 128


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shift_error(as_printed: bool) -> float:
    q, k = random(D), random(D, seed=1)
    scores = [
        float((dense_matrix(n + 50, D, as_printed=as_printed) @ q) @ (dense_matrix(n, D, as_printed=as_printed) @ k))
        for n in (0, 7, 100, 511, 1000)
    ]
    return max(abs(score - scores[0]) for score in scores)


def test_the_matrix_has_the_rotation_in_every_block_on_and_below_the_diagonal() -> None:
    found, rope = dense_matrix(5, 6), rope_matrix(5, 6)
    for row in range(3):
        for column in range(3):
            block = found[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected = rope[2 * row : 2 * row + 2, 2 * row : 2 * row + 2] * (column <= row)
            torch.testing.assert_close(block, expected, rtol=0.0, atol=0.0)


def test_the_printed_matrix_differs_in_the_odd_rows_of_block_column_2_only() -> None:
    differs = dense_matrix(5, 8, as_printed=True) != dense_matrix(5, 8)
    assert differs.nonzero().tolist() == [[3, 3], [5, 3], [7, 3]]
    assert torch.equal(dense_matrix(5, 2, as_printed=True), dense_matrix(5, 2))


def test_dense_and_fast_forms_are_equal() -> None:
    positions = torch.tensor([0, 1, 7, 511, 4095])
    x = random(2, 3, 5, D)
    dense, fast = dense_transform(x, positions), fast_transform(x, positions)
    assert float((dense - fast).abs().max()) < 1e-10
    one = rope_matrix(7, D) @ x[0, 0, 2].view(-1, 2).cumsum(0).flatten()
    assert float((dense[0, 0, 2] - one).abs().max()) < 5e-14


def test_scores_depend_on_the_displacement_alone_once_the_slip_is_corrected() -> None:
    assert shift_error(as_printed=False) < 1e-11
    assert shift_error(as_printed=True) > 50.0


def test_what_the_dense_form_costs() -> None:
    cost = dense_cost(D, 512)
    assert (cost.entries, cost.rope_entries, cost.bytes) == (8_320, 256, 32 * 2**20)
    assert int((dense_matrix(3, D) != 0).sum()) == cost.entries
    assert triangle_condition(D) == pytest.approx(82.1, abs=0.05)


def test_scores_of_random_queries_and_keys_grow_some_200_times() -> None:
    assert score_growth(D) == pytest.approx(212.3, abs=0.1)
    q, k = random(4000, D), random(4000, D, seed=1)
    at_zero = torch.zeros(4000)
    grown = (fast_transform(q, at_zero) * fast_transform(k, at_zero)).sum(-1).std() / (q * k).sum(-1).std()
    assert float(grown) == pytest.approx(score_growth(D), rel=0.1)


def paired(x: torch.Tensor) -> torch.Tensor:
    """From halves paired (i, i + D/2) to pairs side by side."""
    return torch.stack(x.chunk(2, dim=-1), dim=-1).flatten(-2)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("offset", [0, 6])
def test_the_position_in_attention_is_the_dense_matrix(scaled: bool, offset: int) -> None:
    heads, groups, keys, d = 4, 2, 16, 8
    q = 0.3 * random(2, heads, keys - offset, d)
    k, v = 0.3 * random(2, groups, keys, d, seed=1), random(2, groups, keys, d, seed=2)
    out = attention(q, k, v, position=RopeBasedWavelet(d, scaled=scaled), query_offset=offset)
    queries = dense_transform(paired(q), torch.arange(offset, keys))
    rotated = dense_transform(paired(k), torch.arange(keys)).repeat_interleave(2, dim=1)
    scores = queries @ rotated.mT / math.sqrt(d) / (score_growth(d) if scaled else 1.0)
    future = torch.arange(keys) > torch.arange(offset, keys)[:, None]
    expected = scores.masked_fill(future, -math.inf).softmax(-1) @ v.repeat_interleave(2, dim=1)
    assert float((out - expected).abs().max()) < 1e-6  # Rotary's cos and sin are float32


def test_rotated_keys_may_be_kept() -> None:
    position = RopeBasedWavelet(16)
    x = random(1, 2, 10, 16)
    whole = position.rotated(x, 0, 10)
    torch.testing.assert_close(position.rotated(x[:, :, 6:], 6, 10), whole[:, :, 6:], rtol=0.0, atol=1e-12)
    slot = torch.tensor(6)
    torch.testing.assert_close(position.rotated(x[:, :, 6:], slot, 10), whole[:, :, 6:], rtol=0.0, atol=1e-12)


def test_half_precision_sums_in_float32() -> None:
    x = random(1, 1, 4, 128).bfloat16()
    position = RopeBasedWavelet(128)
    exact = position.rotated(x.double(), 0, 4)
    assert position.rotated(x, 0, 4).dtype == torch.bfloat16
    assert float((position.rotated(x, 0, 4).double() - exact).abs().max() / exact.abs().max()) < 2**-8


@pytest.mark.parametrize("backend", ["reference", "banded"])
def test_every_backend_serves_it_with_gradients(backend: str) -> None:
    q, k, v = (random(1, 2, 40, 16, seed=seed).requires_grad_() for seed in range(3))
    out = attention(q, k, v, position=RopeBasedWavelet(16), backend=backend)
    gradients = torch.autograd.grad(out.square().sum(), [q, k, v])
    dense = attention(q, k, v, position=RopeBasedWavelet(16), backend="reference")
    expected = torch.autograd.grad(dense.square().sum(), [q, k, v])
    torch.testing.assert_close(out, dense)
    for found, truth in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-9)


def test_its_config_builds_it_and_refuses_what_cannot_be_meant() -> None:
    position = RopeBasedWaveletConfig(theta=5e5, scaled=False).build(head_dim=32, num_heads=4)
    assert isinstance(position, RopeBasedWavelet)
    assert position.config == RopeBasedWaveletConfig(theta=5e5, scaled=False)
    with pytest.raises(ValueError, match="theta must be more than 1"):
        RopeBasedWaveletConfig(theta=1.0)
    with pytest.raises(ValueError, match="head_dim must be even"):
        RopeBasedWaveletConfig().build(head_dim=7, num_heads=1)
    with pytest.raises(ValueError, match="d must be an even"):
        dense_matrix(1, 7)
