"""Derivatives that an operator does not have are refused in words that name the backend which has them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from wavepos import NoPE, ShawRelative, T5Bias, Wavelet, attention
from wavepos.positions import Position

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own, by forward mode
GENERATOR = torch.Generator().manual_seed(0)
Q, K, V, TANGENT = (torch.randn(1, 2, 20, 64, generator=GENERATOR, dtype=torch.float64) for _ in range(4))
NARROW = [x.float() for x in (Q, K, V, TANGENT)]
POSITIONS: dict[str, Callable[[], Position]] = {
    "nope": NoPE,
    "wavelet": lambda: Wavelet(64, scales=(1.0, 2.0)),
    "shaw": lambda: ShawRelative(64, max_distance=9),
    "t5": lambda: T5Bias(2, num_buckets=8, max_distance=9),
}
BACKENDS = ["auto", "banded", "triton"]
REFUSAL = "has no forward-mode derivative .*use backend='reference'"


@pytest.fixture(autouse=True)
def _needs_triton(request: pytest.FixtureRequest) -> None:
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("backend") == "triton":
        pytest.importorskip("triton", reason="triton is not installed")
        if torch.cuda.is_available():
            pytest.skip("these tensors are on the CPU, which the kernel serves under its interpreter")


@pytest.mark.parametrize("argument", [0, 1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", POSITIONS)
def test_a_tangent_is_refused_and_never_dropped(name: str, backend: Any, argument: int) -> None:
    q, k, v, tangent = NARROW
    position = POSITIONS[name]()

    def of_one(x: Tensor) -> Tensor:
        given = [q, k, v]
        given[argument] = x
        return attention(*given, position=position, backend=backend)

    with pytest.raises(RuntimeError, match=REFUSAL):
        torch.func.jvp(of_one, ((q, k, v)[argument],), (tangent,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=REFUSAL):
        of_one(forward_ad.make_dual((q, k, v)[argument], tangent))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["shaw", "t5"])
def test_the_tangent_of_a_learned_parameter_is_refused(name: str, backend: Any) -> None:
    q, k, v, _ = NARROW
    position = POSITIONS[name]()

    def of_weight(weight: Tensor) -> Tensor:
        class Holder(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.position = position

            def forward(self) -> Tensor:
                return attention(q, k, v, position=self.position, backend=backend)

        return torch.func.functional_call(Holder(), {"position.weight": weight}, ())

    weight = position.weight.detach()
    with pytest.raises(RuntimeError, match=REFUSAL):
        torch.func.jvp(of_weight, (weight,), (torch.ones_like(weight),))


@pytest.mark.parametrize("name", POSITIONS)
def test_one_query_refuses_a_tangent_too(name: str) -> None:
    q, k, v, tangent = NARROW
    position = POSITIONS[name]()
    with pytest.raises(RuntimeError, match=REFUSAL):
        torch.func.jvp(lambda x: attention(x, k, v, position=position), (q[:, :, -1:],), (tangent[:, :, -1:],))


@pytest.mark.parametrize("name", POSITIONS)
def test_the_reference_has_the_tangent_of_finite_differences(name: str) -> None:
    position = POSITIONS[name]().double()

    def of_q(q: Tensor) -> Tensor:
        return attention(q, K, V, position=position, backend="reference")

    _, tangent = torch.func.jvp(of_q, (Q,), (TANGENT,))
    step = 1e-5
    expected = (of_q(Q + step * TANGENT) - of_q(Q - step * TANGENT)) / (2 * step)
    assert tangent.norm() > 0.1
    torch.testing.assert_close(tangent, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev])
def test_function_transforms_are_refused(transform: Any, backend: Any) -> None:
    q, k, v, _ = NARROW
    position = POSITIONS["wavelet"]()
    with pytest.raises(RuntimeError, match=r"has no derivative by torch\.func .*use backend='reference'"):
        transform(lambda x: attention(x, k, v, position=position, backend=backend).sum())(q)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_is_a_loop_with_its_gradients() -> None:
    inputs = [torch.randn(3, 1, 2, 40, 64, requires_grad=True) for _ in range(3)]
    position = POSITIONS["shaw"]()

    def call(*tensors: Tensor) -> Tensor:
        return attention(*tensors, position=position, backend="banded")

    found = torch.func.vmap(call)(*inputs)
    expected = torch.stack([call(*tensors) for tensors in zip(*inputs, strict=True)])
    torch.testing.assert_close(found, expected)
    for x, y in zip(*(torch.autograd.grad(out.square().sum(), inputs) for out in (found, expected)), strict=True):
        torch.testing.assert_close(x, y)
