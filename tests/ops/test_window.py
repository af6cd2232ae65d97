"""A window: a query sees keys less than W tokens away, in every backend, for the price of a window."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_positions import HEAD_DIM, POSITIONS, WIDTH, heads, position
from torch import Tensor

from wavepos import NoPE, Rotary, Wavelet, attention
from wavepos.ops.attention import attention_map
from wavepos.ops.banded.band import Band
from wavepos.ops.banded.operator import _call
from wavepos.testing import Case, assert_within

LENGTH = 150
WINDOWS = (2, 7, WIDTH - 1, WIDTH, WIDTH + 1, WIDTH + 40, LENGTH - 1)


def case(name: str, num_queries: int = LENGTH, num_keys: int = LENGTH, offset: int = 0, **changes: Any) -> Case:
    fields = {"num_heads": heads(name), "num_queries": num_queries, "num_keys": num_keys, "head_dim": HEAD_DIM}
    return Case(query_offset=offset, **{**fields, **changes})


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", POSITIONS)
def test_every_position_within_a_window(name: str, window: int, far: str) -> None:
    assert_within(position(name), case(name), "banded", window=window)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_kv_heads", [1, 4])
@pytest.mark.parametrize("name", ["rotary", "t5", "wavelet", "transformer_xl", "wavelet-query-bias"])
def test_grouped_heads_and_dtypes(name: str, num_kv_heads: int, dtype: torch.dtype, far: str) -> None:
    assert_within(position(name), case(name, num_kv_heads=num_kv_heads, dtype=dtype), "banded", window=WIDTH + 9)


@pytest.mark.parametrize("window", [2, 5, WIDTH, 70])
@pytest.mark.parametrize(
    ("num_queries", "num_keys", "offset"),
    [(1, 90, 89), (1, 90, 40), (70, 200, 130), (3, 200, 197), (30, 90, 20), (50, 60, 30), (20, 60, 100), (1, 60, 100)],
)
@pytest.mark.parametrize("name", ["nope", "alibi", "t5", "shaw", "transformer_xl", "wavelet", "learned_relative"])
def test_offsets(name: str, num_queries: int, num_keys: int, offset: int, window: int, far: str) -> None:
    """Those at 100 of 60 keys see none with a small window."""
    assert_within(position(name), case(name, num_queries, num_keys, offset), "banded", window=window)


@pytest.mark.parametrize("masks", ["padding", "documents", "both"])
@pytest.mark.parametrize("name", ["nope", "shaw", "wavelet", "alibi"])
@pytest.mark.parametrize("window", [1, 11, WIDTH + 20])
def test_padding_and_documents_within_a_window(name: str, window: int, masks: str, far: str, segments: str) -> None:
    generator = torch.Generator().manual_seed(0)
    given_masks = {
        "key_padding_mask": torch.rand(2, LENGTH, generator=generator) > 0.3,
        "document_ids": (torch.rand(2, LENGTH, generator=generator) > 0.97).cumsum(1),
    }
    for left_out in {"padding": ["document_ids"], "documents": ["key_padding_mask"], "both": []}[masks]:
        del given_masks[left_out]
    assert_within(position(name), case(name), "banded", window=window, **given_masks)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", ["nope", "rotary"])
@pytest.mark.parametrize(("num_queries", "num_keys", "offset"), [(90, 90, 0), (40, 90, 20), (40, 60, 55), (1, 90, 33)])
@pytest.mark.parametrize("window", [1, 9, 64])
def test_windows_in_both_directions_without_a_table(
    name: str, causal: bool, num_queries: int, num_keys: int, offset: int, window: int, far: str
) -> None:
    assert_within(position(name), case(name, num_queries, num_keys, offset), "banded", causal=causal, window=window)


@pytest.mark.parametrize("causal", [True, False])
def test_the_reference_is_softmax_over_the_window(causal: bool) -> None:
    q, k, v, _ = Case(num_kv_heads=4, dtype=torch.float64).inputs()
    distance = torch.arange(37)[:, None] - torch.arange(37)
    hidden = (distance.abs() >= 6) | ((distance < 0) & causal)
    weights = (q @ k.mT / 4.0).masked_fill(hidden, -torch.inf).softmax(-1)
    arguments: dict[str, Any] = {"position": NoPE(), "causal": causal, "window": 6}
    torch.testing.assert_close(attention(q, k, v, backend="reference", **arguments), weights @ v)
    torch.testing.assert_close(attention_map(q, k, **arguments), weights)


@pytest.mark.parametrize("name", POSITIONS)
def test_a_window_of_one_token_gives_each_query_its_own_value(name: str, far: str) -> None:
    """The gradients of everything but the values are differences of equal numbers: zero up to rounding."""
    drawn, built = case(name, num_kv_heads=heads(name)), position(name)
    q, k, v, grad = drawn.inputs()
    leaves = [x.requires_grad_() for x in (q, k, v)]
    states = drawn.relative_states(built)
    out = attention(*leaves, position=built, backend="banded", window=1, relative_states=states)
    gradients = torch.autograd.grad(out, [*leaves, *built.parameters()], grad, allow_unused=True)
    torch.testing.assert_close(out, v)
    torch.testing.assert_close(gradients[2], grad)
    assert all(x is None or x.abs().max() < 1e-3 for i, x in enumerate(gradients) if i != 2)


@pytest.mark.parametrize("window", [LENGTH, LENGTH + 1, 10**9])
@pytest.mark.parametrize("name", ["nope", "wavelet", "transformer_xl"])
def test_a_window_of_all_keys_is_none(name: str, window: int) -> None:
    q, k, v, _ = case(name).inputs()
    plain = attention(q, k, v, position=position(name))
    assert torch.equal(attention(q, k, v, position=position(name), window=window), plain)
    weights = attention_map(q, k, position=position(name))
    assert torch.equal(attention_map(q, k, position=position(name), window=window), weights)


@pytest.mark.parametrize("window", [0, -3, True, 2.0, "4"])
@pytest.mark.parametrize("call", [attention, attention_map])
def test_a_window_is_a_whole_number_of_at_least_1(call: Any, window: Any) -> None:
    q, k, v, _ = Case().inputs()
    tensors = (q, k, v) if call is attention else (q, k)
    with pytest.raises(ValueError, match=f"window must be a whole number of at least 1 .* or None, got {window!r}"):
        call(*tensors, position=NoPE(), window=window)


def test_a_window_of_more_queries_than_keys_needs_an_offset() -> None:
    q, k, v, _ = Case(num_queries=37, num_keys=20).inputs()
    with pytest.raises(ValueError, match="37 queries do not fit on 20 keys: give query_offset"):
        attention(q, k, v, position=NoPE(), causal=False, window=4)


@pytest.mark.parametrize("window", [1, 5, WIDTH + 3, 70])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("offset", [0, 17, 77])
@pytest.mark.parametrize("name", [name for name in POSITIONS if name != "rotary"])
def test_a_tensor_offset_equals_the_int(name: str, offset: int, queries: int, window: int) -> None:
    drawn = case(name, queries, 80)
    (q, k, v, _), states = drawn.inputs(), drawn.relative_states(position(name))
    mask = torch.rand(2, 80, generator=torch.Generator().manual_seed(0)) > 0.2
    arguments: dict[str, Any] = {"position": position(name), "relative_states": states, "window": window}
    end = offset + queries
    for padding in (None, mask):
        expected = attention(
            q, k[:, :, :end], v[:, :, :end], query_offset=offset, backend="reference",
            key_padding_mask=None if padding is None else padding[:, :end], **arguments,
        )  # fmt: skip
        found = attention(q, k, v, query_offset=torch.tensor(offset), key_padding_mask=padding, **arguments)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("offset", [199, torch.tensor(120)], ids=["int", "tensor"])
@pytest.mark.parametrize("name", ["nope", "alibi", "shaw", "wavelet", "transformer_xl"])
def test_a_decoded_token_reads_the_keys_of_its_window_only(name: str, offset: Any) -> None:
    q, k, v, _ = case(name, 1, 200).inputs()
    seen = torch.arange(int(offset) - 8, int(offset) + 1)
    poison = torch.ones(200, dtype=torch.bool).index_fill(0, seen, False)[:, None]
    k, v = (x.masked_fill(poison, torch.nan) for x in (k, v))
    out = attention(q, k, v, position=position(name), query_offset=offset, window=9)
    clean = (x.masked_fill(poison, 0.0) for x in (k, v))
    assert torch.isfinite(out).all()
    expected = attention(q, *clean, position=position(name), query_offset=int(offset), window=9, backend="reference")
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    name=st.sampled_from(["nope", "alibi", "t5", "shaw", "wavelet", "transformer_xl"]),
    window=st.integers(1, 80),
    causal=st.booleans(),
)
def test_keys_outside_of_the_window_change_nothing(data: Any, name: str, window: int, causal: bool) -> None:
    causal = causal or name != "nope"
    drawn = case(name, data.draw(st.integers(2, 60)), data.draw(st.integers(20, 90)), data.draw(st.integers(0, 60)))
    q, k, v, _ = drawn.inputs()
    query = data.draw(st.integers(0, drawn.num_queries - 1))
    distance = drawn.query_offset + query - torch.arange(drawn.num_keys)
    outside = ((distance.abs() >= window) | ((distance < 0) & causal))[:, None]

    def row(k: Tensor, v: Tensor) -> Tensor:
        arguments: dict[str, Any] = {"query_offset": drawn.query_offset, "causal": causal, "window": window}
        return attention(q, k, v, position=position(name), backend="banded", **arguments)[:, :, query]

    torch.testing.assert_close(row(k, v), row(*(torch.where(outside, x * -2.0 + 1.0, x) for x in (k, v))))


@pytest.mark.parametrize("window", [1, 100, 1024])
@pytest.mark.parametrize("causal", [True, False])
def test_the_scores_computed_are_those_of_the_window(window: int, causal: bool) -> None:
    """By tiles of 128 queries, and by blocks as high as what lies between band and window is wide."""
    length, sides = 16384, 1 if causal else 2
    q = torch.empty(1, 1, 1, 1).expand(1, 1, length, 8)
    for table, dtype in ((None, torch.float32), (None, torch.bfloat16), (torch.empty(1, 50, 8), torch.bfloat16)):
        r = None if table is None else q.to(dtype)
        call = _call((q.to(dtype),) * 3 + (r, table) + (None,) * 3, 0, causal, window, 0, (1.0, 1.0))
        band = Band.of(call)
        near = sum(tile.layout.num_queries * tile.layout.num_keys for tile in band.tiles(128)) if band.has_near else 0
        far = sum((x.rows.stop - x.rows.start) * (x.keys.stop - x.keys.start) for x in band.far())
        assert near + far / 2 <= length * (sides * (window + 16) + 128 + 16 + window * bool(far))


@pytest.mark.parametrize("name", ["nope", "wavelet", "transformer_xl"])
def test_compiled_is_eager(name: str) -> None:
    torch._dynamo.reset()
    built, (q, k, v, _) = position(name), case(name).inputs()

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, position=built, window=WIDTH + 5)

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), run(q, k, v), rtol=0.0, atol=2e-6)


def test_the_papers_grid_within_a_window() -> None:
    case_ = Case(batch=1, num_heads=2, num_kv_heads=1, num_queries=1500, num_keys=1500, head_dim=128)
    for window in (500, 1400):
        assert_within(Wavelet(128), case_, "banded", window=window)
    half = Case(batch=1, num_heads=2, num_queries=1500, num_keys=1500, head_dim=128, dtype=torch.bfloat16)
    assert_within(Rotary(128), half, "banded", window=700)
