"""A position and queries that do not go together are refused by name, before anything is multiplied."""

from collections.abc import Callable

import pytest
import torch
from small_positions import POSITIONS, position, read
from torch import Tensor

from wavepos import (
    ALiBi,
    Cable,
    ForgetGate,
    Kerple,
    Rotary,
    ShawRelative,
    T5Bias,
    TransformerXLRelative,
    Wavelet,
    attention,
)
from wavepos.positions import Position
from wavepos.testing import Case

MADE_FOR_HEADS: list[Callable[[int], Position]] = [
    ALiBi,
    Cable,
    ForgetGate,
    Kerple,
    T5Bias,
    lambda heads: Wavelet(16, gate="forget", num_heads=heads),
    lambda heads: TransformerXLRelative(16, heads),
    lambda heads: Wavelet(16, query_bias="zeros", num_heads=heads),
]
MADE_FOR_WIDTH: list[Callable[[int], Position]] = [
    Rotary,
    ShawRelative,
    Wavelet,
    lambda width: TransformerXLRelative(width, 4),
]


def queries(heads: int = 4, width: int = 16) -> Tensor:
    return torch.randn(2, heads, 5, width)


@pytest.mark.parametrize(("made_for", "heads"), [(8, 4), (1, 2), (4, 8)])
@pytest.mark.parametrize("make", MADE_FOR_HEADS, ids=lambda make: type(make(2)).__name__)
def test_another_number_of_heads_is_refused(make: Callable[[int], Position], made_for: int, heads: int) -> None:
    q = queries(heads=heads)
    with pytest.raises(
        ValueError, match=rf"made for num_heads={made_for}, got q with .*\(2, {heads}, 5, 16\), so {heads}"
    ):
        built = make(made_for)
        attention(q, q, q, position=built, **read(built, Case(num_heads=heads, num_queries=5, num_keys=5)))


@pytest.mark.parametrize(("made_for", "width"), [(64, 32), (16, 64)])
@pytest.mark.parametrize("make", MADE_FOR_WIDTH, ids=lambda make: type(make(16)).__name__)
def test_another_size_of_head_is_refused(make: Callable[[int], Position], made_for: int, width: int) -> None:
    q = queries(width=width)
    with pytest.raises(ValueError, match=rf"made for head_dim={made_for}, got q with .*{width}\), so {width}"):
        attention(q, q, q, position=make(made_for))


@pytest.mark.parametrize("name", [name for name in POSITIONS if next(position(name).parameters(), None) is not None])
def test_a_position_left_on_meta_is_refused(name: str) -> None:
    built = position(name).to("meta")
    q = queries()
    given = read(built, Case(num_queries=5, num_keys=5))
    with pytest.raises(ValueError, match="lies on device meta and q on cpu: move the position"):
        attention(q, q, q, position=built, **given)
