"""The yardstick itself: it passes what is right and finds what is wrong, in the output or in one gradient."""

import pytest
import torch
from torch import Tensor, nn

from wavepos import ALiBi, LearnedRelative, ShawRelative, Wavelet, attention
from wavepos.positions import ScoreTerms
from wavepos.positions.terms import ReadsRelativeStates
from wavepos.testing import Case, Error, assert_within, compare, measure


def test_every_learned_parameter_and_the_relative_states_are_measured() -> None:
    errors = measure(LearnedRelative(relative_dim=4, extent=20), Case(), "banded")
    assert [error.tensor for error in errors] == ["out", "dq", "dk", "dv", "drelative_states", "dweight"]
    assert all(error.error <= error.bound for error in errors)
    assert all(error.magnitude > 0.0 for error in errors)


def test_a_backend_that_forgets_the_position_is_found() -> None:
    def forgetful(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
        return attention(q, k, v, position=Wavelet(16, scales=[64.0]), query_offset=0)

    with pytest.raises(AssertionError, match=r"Wavelet by forgetful, Case\(.*out: .*dq: .*dk: "):
        assert_within(Wavelet(16, scales=[1.0]), Case(), forgetful)


def test_a_backend_with_one_wrong_gradient_is_found() -> None:
    def halved(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
        return attention(q, k, v - 0.5 * v + 0.5 * v.detach(), **options)  # type: ignore[arg-type]

    with pytest.raises(AssertionError, match=r"\): dv: [^;]*$"):
        assert_within(ALiBi(4), Case(), halved)


def test_a_gradient_that_never_arrives_is_no_success() -> None:
    def cut(q: Tensor, k: Tensor, v: Tensor, *, position: ShawRelative, **options: object) -> Tensor:
        return attention(q, k, v, position=position.requires_grad_(False), **options)  # type: ignore[arg-type]

    with pytest.raises(RuntimeError, match="does not require grad"):
        measure(ShawRelative(16, max_distance=9), Case(), cut)


@pytest.mark.parametrize(("dtype", "roundings"), [(torch.float32, 6), (torch.bfloat16, 6), (torch.float64, 12)])
def test_the_bound_is_twice_the_dense_error_and_a_few_roundings(dtype: torch.dtype, roundings: int) -> None:
    eps = torch.finfo(dtype).eps
    error = Error(tensor="out", error=0.0, dense=3.0 * eps, magnitude=2.0, eps=eps)
    assert error.bound == (6.0 + 2.0 * roundings) * eps


def test_an_output_alone_needs_no_gradient() -> None:
    q, k, v, _ = Case().inputs()
    errors = compare(attention, Wavelet(16, scales=[1.0]), {"q": q, "k": k, "v": v}, None)
    assert [error.tensor for error in errors] == ["out"]


def test_a_position_of_ones_own_with_relative_states_says_how_wide_they_are() -> None:
    class Line(ReadsRelativeStates):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(1.0, 0.0, 120).view(40, 3).clone())

        def terms(
            self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0, relative_states_BHTE: Tensor | None = None
        ) -> ScoreTerms:
            return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, r_BHTE=relative_states_BHTE, table=self.weight, tail="zero")

        def reset_parameters(self) -> None:
            return None

    assert_within(Line(), Case(relative_dim=3), "banded")
    with pytest.raises(ValueError, match="relative_dim must be given for Line, which reads relative states"):
        assert_within(Line(), Case(), "banded")
