"""How inputs and gradients lie in memory changes nothing: not the output, not the gradients."""

import importlib
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wavepos import NoPE, Rotary, Wavelet, attention
from wavepos.positions import Position

WAVELET = Wavelet(8, scales=(1.0, 2.0))
POSITIONS: dict[str, tuple[Position, int]] = {
    "wavelet": (WAVELET, 8),
    "nope": (NoPE(), 8),
    "rotary": (Rotary(8), 8),
    "rotary-2": (Rotary(2), 2),
}
LAYOUTS = st.tuples(st.permutations(range(4)), st.integers(1, 3), st.integers(0, 2))
"""The order of the dimensions in memory, the step in the innermost one and the entries before the first."""


def laid(x: Tensor, layout: tuple[list[int], int, int]) -> Tensor:
    """x with its entries elsewhere in memory, and NaN beside them."""
    order, step, before = layout
    inner = x.permute(order)
    wide = x.new_full((*inner.shape[:-1], before + inner.shape[-1] * step), torch.nan)
    place = wide[..., before::step]
    place.copy_(inner)
    return place.permute([order.index(dim) for dim in range(4)])


@pytest.mark.parametrize("path", ["near", "far", "reference", "one query"])
@pytest.mark.parametrize("name", POSITIONS)
@given(q_layout=LAYOUTS, k_layout=LAYOUTS, v_layout=LAYOUTS, grad_layout=LAYOUTS, half=st.booleans())
@settings(max_examples=15)
def test_strides_do_not_matter(
    name: str, path: str, q_layout: Any, k_layout: Any, v_layout: Any, grad_layout: Any, half: bool
) -> None:
    position, head_dim = POSITIONS[name]
    short = importlib.import_module("wavepos.ops.banded.band")
    generator = torch.Generator().manual_seed(0)
    queries, offset = (1, 79) if path == "one query" else (70, 10)
    q, grad = (torch.randn(2, 4, queries, head_dim, generator=generator) for _ in range(2))
    k, v = (torch.randn(2, 2, 80, head_dim, generator=generator) for _ in range(2))
    inputs = [x.to(torch.bfloat16 if half else torch.float32) for x in (q, k, v, grad)]
    layouts = [q_layout, k_layout, v_layout, grad_layout]
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(short, "SHORT", 2048 if path == "near" else 0)
        for lay in (lambda x, _: x.clone(), laid):
            *leaves, grad = (lay(x, layout) for x, layout in zip(inputs, layouts, strict=True))
            leaves = [x.requires_grad_() for x in leaves]
            backend: Any = "reference" if path == "reference" else "banded"
            out = attention(*leaves, position=position, backend=backend, query_offset=offset)
            results.append([out, *torch.autograd.grad(out, leaves, grad)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.06 if half else 1e-5)


def test_the_gradient_of_a_sum_is_that_of_ones() -> None:
    """Its entries are one entry of memory, without a step between them."""
    leaves = [torch.randn(1, 2, 300, 8, requires_grad=True) for _ in range(3)]
    out = attention(*leaves, position=WAVELET, backend="banded")
    found, expected = (
        torch.autograd.grad(out, leaves, grad, retain_graph=True)
        for grad in (torch.ones(1).expand(out.shape), torch.ones_like(out))
    )
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0.0, atol=1e-6)


def test_long_calls_with_a_step_between_entries_equal_contiguous_ones() -> None:
    q, k, v = (torch.randn(1, 2, 2400, 128, 2)[..., 0] for _ in range(3))
    position = Wavelet(128)
    found = attention(q, k, v, position=position)
    expected = attention(q.contiguous(), k.contiguous(), v.contiguous(), position=position)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)


class Copies(TorchDispatchMode):
    """Counts the copies into new memory that are made outside of operators."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten.clone.default, torch.ops.aten.contiguous.default)
        return func(*args, **(kwargs or {}))


def test_the_layouts_of_models_are_not_copied() -> None:
    from wavepos.ops.banded.far import flash_backward, flash_forward

    plain = torch.randn(2, 4, 40, 8)
    for x in (plain, plain.transpose(1, 2).contiguous().transpose(1, 2), plain[:, :, 5:]):
        with Copies() as copies:
            forward = flash_forward(x, x, x, True, 0.3)
            flash_backward(x, forward, (x, x, x), True, 0.3)
        assert copies.count == 0
