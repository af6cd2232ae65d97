"""Calls that no one means are refused in words: offsets, layouts, scales, heads, devices, what is no position."""

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from wavepos import (
    ALiBi,
    LearnedRelative,
    NoPE,
    Rotary,
    ShawRelative,
    T5Bias,
    TransformerXLRelative,
    Wavelet,
    attention,
)
from wavepos.ops.attention import attention_map
from wavepos.positions import Position, ScoreTerms, build_position, parse_position

B, H, T, D = 2, 4, 30, 16
GENERATOR = torch.Generator().manual_seed(0)
Q, K, V = (torch.randn(B, H, T, D, generator=GENERATOR) for _ in range(3))
WAVELET = Wavelet(D, scales=(1.0, 2.0))
POSITIONS = {"nope": NoPE(), "rotary": Rotary(D), "alibi": ALiBi(H), "wavelet": WAVELET}


@pytest.mark.parametrize("queries", [1, 7, T])
@pytest.mark.parametrize("name", POSITIONS)
def test_queries_stand_at_the_last_keys_unless_told_otherwise(name: str, queries: int) -> None:
    position = POSITIONS[name]
    whole = attention(Q, K, V, position=position)
    last = attention(Q[:, :, T - queries :], K, V, position=position)
    torch.testing.assert_close(last, whole[:, :, T - queries :], rtol=1e-5, atol=1e-5)
    weights = attention_map(Q[:, :, T - queries :], K, position=position)
    torch.testing.assert_close(weights, attention_map(Q, K, position=position)[:, :, T - queries :])
    first = attention(Q[:, :, :queries], K, V, position=position, query_offset=0)
    torch.testing.assert_close(first, whole[:, :, :queries], rtol=1e-5, atol=1e-5)


def test_rotary_in_both_directions_stands_at_the_last_keys_too() -> None:
    whole = attention(Q, K, V, position=Rotary(D), causal=False)
    last = attention(Q[:, :, -3:], K, V, position=Rotary(D), causal=False)
    torch.testing.assert_close(last, whole[:, :, -3:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("call", [attention, attention_map])
def test_more_queries_than_keys_need_an_offset(call: Any) -> None:
    tensors = (Q, K[:, :, :20], V[:, :, :20])[: 3 if call is attention else 2]
    for arguments in ({}, {"position": Rotary(D), "causal": False}):
        with pytest.raises(ValueError, match="30 queries do not fit on 20 keys: give query_offset"):
            call(*tensors, **{"position": WAVELET, **arguments})
    assert call(*tensors, position=WAVELET, query_offset=0).shape[:3] == (B, H, T)


def test_cross_attention_without_positions_needs_no_offset() -> None:
    out = attention(Q, K[:, :, :20], V[:, :, :20], position=NoPE(), causal=False)
    torch.testing.assert_close(out, scaled_dot_product_attention(Q, K[:, :, :20], V[:, :, :20]))


def test_a_tensor_offset_serves_no_more_queries_than_slots() -> None:
    with pytest.raises(ValueError, match="at most one query a slot, got 30 for 20 slots"):
        attention(Q, K[:, :, :20], V[:, :, :20], position=WAVELET, query_offset=torch.tensor(0))


@pytest.mark.parametrize("offset", [1.5, True, "3"])
def test_an_offset_is_a_whole_number(offset: Any) -> None:
    with pytest.raises(ValueError, match=f"query_offset must be a whole number, .* got {offset!r}"):
        attention(Q, K, V, position=WAVELET, query_offset=offset)


@pytest.mark.parametrize(
    ("q_heads", "kv_heads", "queries", "message"),
    [
        (8, 2, T, "8 queries do not fit on 2 keys.*"),
        (4, 4, 1, "k's heads must divide q's, got 1 query and 30 key/value heads.*"),
        (8, 4, 1, "k's heads must divide q's, got 1 query and 30 key/value heads.*"),
    ],
)
def test_a_layout_that_sizes_give_away_is_named(q_heads: int, kv_heads: int, queries: int, message: str) -> None:
    q, k = torch.zeros(B, queries, q_heads, D), torch.zeros(B, T, kv_heads, D)
    hint = rf"q must be \[batch, heads, length, head_dim\]; got \({B}, {queries}, {q_heads}, {D}\), which looks like "
    with pytest.raises(ValueError, match=rf"{message}{hint}\[batch, length, heads, head_dim\]: transpose\(1, 2\)"):
        attention(q, k, k, position=WAVELET)


def test_a_layout_that_the_positions_heads_give_away_is_named() -> None:
    q = torch.zeros(B, T, H, D)
    with pytest.raises(
        ValueError, match=r"ALiBi was made for num_heads=4, got q with .*\(2, 30, 4, 16\), so 30, which looks like"
    ):
        attention(q, q, q, position=ALiBi(H))


class Unchecked(Position):
    """A user's position that asks nothing of q; the call does."""

    def __init__(self, bias_heads: int = H, table_heads: int = H, width: int = D) -> None:
        super().__init__()
        self.shapes = (bias_heads, 64), (table_heads, 64, width)

    def terms(self, q_BHTD: Any, k_BGSD: Any, *, q_offset: int = 0) -> ScoreTerms:
        bias, table = (torch.ones(shape, device="cpu") for shape in self.shapes)
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, r_BHTE=q_BHTD, table=table, bias_HR=bias, tail="zero")

    def reset_parameters(self) -> None:
        return


@pytest.mark.parametrize(
    ("position", "message"),
    [
        (ALiBi(8), "ALiBi was made for num_heads=8, got q with .*, so 4"),
        (ALiBi(1), "ALiBi was made for num_heads=1, got q with .*, so 4"),
        (T5Bias(1), "T5Bias was made for num_heads=1, got q with .*, so 4"),
        (TransformerXLRelative(D, 1), "TransformerXLRelative was made for num_heads=1, got q with .*, so 4"),
        (
            Wavelet(D, scales=(1.0, 2.0), query_bias="recency", num_heads=1),
            "Wavelet was made for num_heads=1, got q with .*, so 4",
        ),
        (Wavelet(64), "Wavelet was made for head_dim=64, got q with .*, so 16"),
        (ShawRelative(8), "ShawRelative was made for head_dim=8, got q with .*, so 16"),
        (
            Unchecked(bias_heads=1),
            r"Unchecked has num_heads=1 \(its bias\), and q has 4 heads: build it with num_heads=4",
        ),
        (Unchecked(table_heads=8), r"Unchecked has num_heads=8 \(its table\), and q has 4 heads"),
        (Unchecked(width=8), r"Unchecked has a table 8 wide, and it multiplies 16 entries \(q's head_dim is 16\)"),
    ],
    ids=[
        "alibi8",
        "alibi1",
        "t5",
        "transformer_xl",
        "wavelet",
        "wavelet64",
        "shaw8",
        "own-bias",
        "own-table",
        "own-width",
    ],
)
@pytest.mark.parametrize("queries", [1, T])
def test_a_position_of_other_heads_or_sizes_names_both_numbers(position: Any, message: str, queries: int) -> None:
    with pytest.raises(ValueError, match=message):
        attention(Q[:, :, -queries:], K, V, position=position)


@pytest.mark.parametrize(
    "scale", [0, 0.0, -1.0, math.nan, math.inf, -math.inf, 10**308, 10**400, "1", torch.tensor(1.0)]
)
@pytest.mark.parametrize("backend", ["banded", "reference", "triton"])
def test_a_softmax_scale_is_finite_and_positive(scale: Any, backend: Any) -> None:
    with pytest.raises(
        ValueError, match=r"softmax_scale must be a number above 0 and at most 1e\+06, or None for .*, got"
    ):
        attention(Q, K, V, position=WAVELET, backend=backend, softmax_scale=scale)
    with pytest.raises(ValueError, match="softmax_scale must be a number above 0"):
        attention_map(Q, K, position=WAVELET, softmax_scale=scale)


def test_a_whole_softmax_scale_is_a_number() -> None:
    one = attention(Q, K, V, position=WAVELET, softmax_scale=1)
    assert torch.equal(one, attention(Q, K, V, position=WAVELET, softmax_scale=1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_document_ids_are_integers(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"document_ids must be of an integer dtype, got {dtype}"):
        attention(Q, K, V, position=WAVELET, document_ids=torch.zeros(B, T, dtype=dtype))


@pytest.mark.parametrize("name", ["document_ids", "key_padding_mask"])
def test_masks_on_another_device_are_refused(name: str) -> None:
    dtype = torch.bool if name == "key_padding_mask" else torch.int64
    with pytest.raises(ValueError, match=f"{name} must be on q's device cpu, got meta"):
        attention(Q, K, V, position=WAVELET, **{name: torch.zeros(B, T, dtype=dtype, device="meta")})


@pytest.mark.parametrize(
    "position",
    [
        ShawRelative(D),
        T5Bias(H),
        LearnedRelative(relative_dim=4),
        TransformerXLRelative(D, H),
        Wavelet(D, scales=(1.0, 2.0), query_bias="recency", num_heads=H),
    ],
    ids=lambda position: type(position).__name__,
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_position_on_another_device_is_refused(position: Any, backend: Any) -> None:
    states = Q[..., :4] if isinstance(position, LearnedRelative) else None
    with pytest.raises(ValueError, match=rf"{type(position).__name__} (is|lies) on (device )?meta .*and q on cpu"):
        attention(Q, K, V, position=position.to("meta"), backend=backend, relative_states=states)


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ("wavelet", r"got the string 'wavelet': build it first, with build_position\(parse_position\('wavelet'\)"),
        (Wavelet, "got the class Wavelet: build it first"),
        (parse_position("rotary"), "got RotaryConfig"),
        (None, "got NoneType"),
    ],
    ids=["string", "class", "config", "none"],
)
def test_what_is_no_position_is_named(position: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"position must be a Position, such as .*{message}"):
        attention(Q, K, V, position=position)
    with pytest.raises(TypeError, match=f"position must be a Position, such as .*{message}"):
        attention_map(Q, K, position=position)


def test_the_way_that_the_refusal_of_a_string_names_is_one() -> None:
    position = build_position(parse_position("alibi"), head_dim=D, num_heads=H)
    assert torch.equal(attention(Q, K, V, position=position), attention(Q, K, V, position=ALiBi(H)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("q", [[1.0]], "q must be a tensor, got list"),
        ("v", None, "v must be a tensor, got NoneType"),
        ("key_padding_mask", [True], "key_padding_mask must be a tensor, got list"),
        ("document_ids", 3, "document_ids must be a tensor, got int"),
        ("gates", 0.5, "gates must be a tensor, got float"),
        ("relative_states", "a", "relative_states must be a tensor, got str"),
        ("causal", torch.ones(2), "causal must be True or False, got tensor"),
        ("dropout", None, r"dropout must lie in \[0, 1\), got None"),
    ],
)
def test_an_argument_of_another_kind_is_named(name: str, value: object, message: str) -> None:
    x = torch.zeros(1, 2, 3, 4)
    given = {"q": x, "k": x, "v": x, "position": NoPE(), name: value}
    with pytest.raises((TypeError, ValueError), match=message):
        attention(**given)
