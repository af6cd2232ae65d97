"""The map times the values is what attention gives: same position, scale, direction, masks and casts."""

import contextlib
from typing import Any

import pytest
import torch
from small_positions import HEAD_DIM, POSITIONS, heads, position
from torch import Tensor

from wavepos import NoPE, Rotary, attention
from wavepos.ops.attention import attention_map


def times_values(weights: Tensor, v: Tensor) -> Tensor:
    return weights @ v.to(weights.dtype).repeat_interleave(weights.shape[1] // v.shape[1], 1)


def inputs(num_heads: int, queries: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, states = (torch.randn(2, num_heads, queries, size, generator=generator) for size in (HEAD_DIM, 4))
    k, v = (torch.randn(2, num_heads // 2, 40, HEAD_DIM, generator=generator) for _ in range(2))
    return q, k, v, states


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("queries", [1, 9, 40])
@pytest.mark.parametrize("softmax_scale", [None, 1.0])
@pytest.mark.parametrize("name", POSITIONS)
def test_the_map_times_the_values_is_attention(
    name: str, softmax_scale: float | None, queries: int, autocast: bool
) -> None:
    q, k, v, states = inputs(heads(name), queries)
    arguments: dict[str, Any] = {"position": position(name), "softmax_scale": softmax_scale}
    arguments["relative_states"] = states if name == "learned_relative" else None
    arguments["key_padding_mask"] = torch.rand(2, 40, generator=torch.Generator().manual_seed(1)) > 0.2
    with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
        weights = attention_map(q, k, **arguments)
        out = attention(q, k, v, backend="reference", **arguments)
        banded = attention(q, k, v, **arguments)
    assert weights.dtype == torch.float32
    if autocast:  # the map is of rounded queries and keys, so nothing but the output's own rounding is between them
        assert out.dtype == torch.bfloat16
        assert torch.equal(times_values(weights, v.bfloat16()).bfloat16(), out)
    else:
        torch.testing.assert_close(times_values(weights, v), out, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(banded, out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("built", [NoPE(), Rotary(HEAD_DIM)], ids=["nope", "rotary"])
def test_maps_of_both_directions(built: Any) -> None:
    q, k, v, _ = inputs(4, 9)
    weights = attention_map(q, k, position=built, causal=False)
    expected = attention(q, k, v, position=built, causal=False)
    torch.testing.assert_close(times_values(weights, v), expected, rtol=1e-5, atol=1e-5)
    assert weights[..., 0, -1].all()
