"""KERPLE's logarithmic bias: the formula, where r₁ and r₂ start, gradients in every backend."""

import pytest
import torch
from torch.nn.functional import softplus

from wavepos import ALiBi, Kerple, attention, testing
from wavepos.positions import parse_position
from wavepos.testing import Case


def with_rates(r_1: list[float], r_2: list[float]) -> Kerple:
    position = Kerple(len(r_1))
    with torch.no_grad():
        position.rho_1_H.copy_(torch.tensor(r_1).expm1().log())
        position.rho_2_H.copy_(torch.tensor(r_2).expm1().log())
    return position


def test_the_bias_is_kerples_formula() -> None:
    position = with_rates([0.5, 2.0], [1.0, 0.1])
    q = torch.zeros(1, 2, 3, 8)
    terms = position.terms(q, q, q_offset=40)
    assert terms.tail == "none"
    assert terms.bias_HR is not None
    delta = torch.arange(43.0)
    torch.testing.assert_close(terms.bias_HR[0], -0.5 * torch.log(1.0 + delta))
    torch.testing.assert_close(terms.bias_HR[1], -2.0 * torch.log(1.0 + 0.1 * delta))


def test_a_small_rate_is_alibis_line() -> None:
    """r₁·log(1 + r₂·δ) → r₁·r₂·δ: with slopes 0.25 and 0.0625 the heads of ALiBi(4)."""
    slopes = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])
    position = Kerple(4).double()
    with torch.no_grad():
        position.rho_2_H.copy_(torch.full((4,), 1e-7, dtype=torch.float64).expm1().log())
        position.rho_1_H.copy_(slopes.double() / 1e-7)  # softplus is the identity there
    q, k, v = torch.randn(3, 1, 4, 30, 8, dtype=torch.float64)
    ours, alibi = (attention(q, k, v, position=p, backend="reference") for p in (position, ALiBi(4)))
    torch.testing.assert_close(ours, alibi, rtol=1e-4, atol=1e-5)


def test_rates_start_where_the_authors_start_them() -> None:
    torch.manual_seed(0)
    position = Kerple(4000)
    r_1, r_2 = softplus(position.rho_1_H.detach()), softplus(position.rho_2_H.detach())
    for rates, highest in ((r_1, 2.0), (r_2, 1.0)):
        assert 0.0099 < float(rates.min()) < 0.02
        assert 0.99 * highest < float(rates.max()) <= highest + 1e-5
        assert float(rates.mean()) == pytest.approx((highest + 0.01) / 2, rel=0.05)


@pytest.mark.parametrize("backend", ["reference", "banded"])
@pytest.mark.parametrize("num_queries", [1, 37, 600])
def test_gradients_of_the_rates_are_within_the_yardstick(backend: str, num_queries: int) -> None:
    position = with_rates([0.1, 0.5, 1.0, 2.0], [0.01, 0.1, 0.5, 1.0])
    case = Case(num_queries=num_queries, num_keys=600, query_offset=600 - num_queries)
    testing.assert_within(position, case, backend)


def test_the_gradient_of_a_rate_is_its_finite_difference() -> None:
    position = with_rates([0.5, 1.5], [0.3, 0.7]).double()
    q, k, v = torch.randn(3, 1, 2, 40, 8, dtype=torch.float64)
    for rho in (position.rho_1_H, position.rho_2_H):
        loss = attention(q, k, v, position=position, backend="banded").square().sum()
        (grad,) = torch.autograd.grad(loss, rho)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                rho[0] += step
                values.append(float(attention(q, k, v, position=position, backend="reference").square().sum()))
                rho[0] -= step
        assert float(grad[0]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def test_the_fused_kernel_refuses_the_gradient_of_a_bias_over_all_displacements() -> None:
    pytest.importorskip("triton")
    q = torch.randn(1, 2, 64, 64)
    with pytest.raises(ValueError, match=r"the gradient of a bias that covers every displacement|needs CUDA tensors"):
        attention(q, q, q, position=Kerple(2), backend="triton")


def test_it_is_built_from_its_name() -> None:
    position = parse_position("KERPLE").build(head_dim=16, num_heads=3)
    assert isinstance(position, Kerple)
    assert position.rho_1_H.shape == (3,)
