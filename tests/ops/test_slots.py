"""Queries whose position is known on the device only: equal to the reference at that position, for every method."""

import pytest
import torch
from small_positions import HEAD_DIM, POSITIONS, heads, position, read

from wavepos import NoPE, Rotary, attention
from wavepos.ops.attention import attention_map
from wavepos.positions.rotary_scaling import DynamicNTKScaling
from wavepos.testing import Case

SLOTS = 40


@pytest.mark.parametrize("offset", [0, 17, 37])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("name", [name for name in POSITIONS if name != "rotary"])
def test_a_tensor_offset_equals_the_int(name: str, queries: int, offset: int) -> None:
    built = position(name)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, heads(name), queries, HEAD_DIM, generator=generator)
    k, v = (torch.randn(2, heads(name) // 2, SLOTS, HEAD_DIM, generator=generator) for _ in range(2))
    mask = torch.rand(2, SLOTS, generator=generator) > 0.2
    end = offset + queries
    case = Case(num_heads=heads(name), num_queries=queries, num_keys=SLOTS, head_dim=HEAD_DIM)
    arguments = {"position": built, **read(built, case)}
    gates = arguments.pop("gates")
    for padding in (None, mask):
        expected = attention(
            q, k[:, :, :end], v[:, :, :end], query_offset=offset, backend="reference",
            key_padding_mask=None if padding is None else padding[:, :end],
            gates=None if gates is None else gates[..., :end], **arguments,
        )  # fmt: skip
        found = attention(
            q, k, v, query_offset=torch.tensor(offset), key_padding_mask=padding, gates=gates, **arguments
        )
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
        for window in (None, 7):
            weights = attention_map(
                q, k, query_offset=torch.tensor(offset), key_padding_mask=padding, gates=gates, window=window,
                **arguments,
            )  # fmt: skip
            seen = attention_map(
                q, k[:, :, :end], query_offset=offset, window=window,
                key_padding_mask=None if padding is None else padding[:, :end],
                gates=None if gates is None else gates[..., :end], **arguments,
            )  # fmt: skip
            torch.testing.assert_close(weights[..., :end], seen, atol=2e-6, rtol=1e-5)
            assert not weights[..., end:].any()


@pytest.mark.parametrize("offset", [0, 17])
def test_rotated_keys_are_kept(offset: int) -> None:
    rotary = Rotary(HEAD_DIM)
    q, k, v = torch.randn(1, 4, 2, HEAD_DIM), torch.randn(1, 4, SLOTS, HEAD_DIM), torch.randn(1, 4, SLOTS, HEAD_DIM)
    end = offset + 2
    expected = attention(q, k[:, :, :end], v[:, :, :end], position=rotary, query_offset=offset)
    kept = rotary.rotated(k, 0, SLOTS)
    on_device = torch.tensor(offset)
    found = attention(rotary.rotated(q, on_device, SLOTS), kept, v, position=NoPE(), query_offset=on_device)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert torch.equal(rotary.rotated(q, on_device, SLOTS), rotary.rotated(q, offset, SLOTS))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"query_offset": torch.tensor(1.0)}, "must be int64 without dimensions, got torch.float32"),
        ({"query_offset": torch.tensor([1])}, r"got torch.int64 of shape \(1,\)"),
        ({"backend": "banded"}, "goes with backend='auto' only, got 'banded'"),
        ({"dropout": 0.1}, "no dropout"),
        ({"document_ids": torch.zeros(1, SLOTS, dtype=torch.int64)}, "no document_ids"),
        ({"position": Rotary(HEAD_DIM)}, "keys that are rotated already"),
    ],
)
def test_what_does_not_go_with_a_tensor_is_named(arguments: dict, match: str) -> None:
    q, k = torch.randn(1, 4, 1, HEAD_DIM), torch.randn(1, 4, SLOTS, HEAD_DIM)
    with pytest.raises(ValueError, match=match):
        attention(q, k, k, **{"position": NoPE(), "query_offset": torch.tensor(3), **arguments})


def test_frequencies_that_follow_the_length_cannot_be_kept() -> None:
    rotary = Rotary(HEAD_DIM, scaling=DynamicNTKScaling(factor=2.0, max_position_embeddings=16))
    with pytest.raises(ValueError, match="keys rotated by DynamicNTKScaling cannot be kept"):
        rotary.rotated(torch.randn(1, 1, 2, HEAD_DIM), 0, 2)
