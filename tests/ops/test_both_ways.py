"""Keys on both sides of their query (causal=False): every position that means something there, in every backend."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_positions import BOTH_WAYS, HEAD_DIM, NUM_HEADS, SMALL_GRID, WIDTH, heads, position
from torch import Tensor

from wavepos import LearnedRelative, ShawRelative, T5Bias, Wavelet, attention
from wavepos.ops.attention import attention_map
from wavepos.positions import Position, ScoreTerms
from wavepos.testing import Case, assert_within

LENGTH = 150


def case(name: str, num_queries: int = LENGTH, num_keys: int = LENGTH, offset: int = 0, **changes: Any) -> Case:
    fields = {"num_heads": heads(name), "num_queries": num_queries, "num_keys": num_keys, "head_dim": HEAD_DIM}
    return Case(query_offset=offset, **{**fields, **changes})


@pytest.mark.parametrize("length", [1, 2, 63, WIDTH, WIDTH + 1, 2 * WIDTH + 5, LENGTH])
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_lengths(name: str, length: int) -> None:
    assert_within(position(name, True), case(name, length, length), "banded", causal=False)


@pytest.mark.short_is_near
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_short_calls_that_are_all_near(name: str) -> None:
    assert_within(position(name, True), case(name), "banded", causal=False)


@pytest.mark.parametrize("name", [name for name in BOTH_WAYS if name != "alibi-12"])
def test_float64(name: str) -> None:
    assert_within(position(name, True), case(name, dtype=torch.float64), "banded", causal=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_grouped_heads_and_dtypes(name: str, num_kv_heads: int, dtype: torch.dtype) -> None:
    drawn = case(name, num_kv_heads=num_kv_heads, dtype=dtype)
    assert_within(position(name, True), drawn, "banded", causal=False)


CROSS = [(1, 90, 0), (1, 90, 40), (1, 90, 89), (1, 60, 100), (70, 200, 130), (70, 200, 0), (70, 200, 60), (90, 30, 0)]
CROSS += [(120, 60, 30), (20, 60, 100), (3, 200, 197), (200, 2, 50)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_queries", "num_keys", "offset"), CROSS)
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_cross_attention_with_an_offset(
    name: str, num_queries: int, num_keys: int, offset: int, dtype: torch.dtype
) -> None:
    drawn = case(name, num_queries, num_keys, offset, dtype=dtype)
    assert_within(position(name, True), drawn, "banded", causal=False)


@pytest.mark.parametrize("window", [2, 7, WIDTH - 1, WIDTH, WIDTH + 1, WIDTH + 40, LENGTH - 1])
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_windows(name: str, window: int, far: str) -> None:
    assert_within(position(name, True), case(name), "banded", causal=False, window=window)


@pytest.mark.parametrize("window", [3, WIDTH + 9])
@pytest.mark.parametrize(("num_queries", "num_keys", "offset"), CROSS)
@pytest.mark.parametrize("name", ["nope", "t5", "shaw", "wavelet", "transformer_xl", "alibi"])
def test_cross_attention_within_a_window(
    name: str, num_queries: int, num_keys: int, offset: int, window: int, far: str
) -> None:
    """Some queries stand so far behind the last key that they see none."""
    drawn = case(name, num_queries, num_keys, offset)
    assert_within(position(name, True), drawn, "banded", causal=False, window=window)


@pytest.mark.parametrize("window", [None, 11, WIDTH + 20])
@pytest.mark.parametrize("masks", ["left", "right", "holes", "documents", "both"])
@pytest.mark.parametrize("name", ["nope", "shaw", "t5", "wavelet", "alibi", "transformer_xl"])
def test_padding_and_documents(name: str, masks: str, window: int | None, segments: str) -> None:
    generator = torch.Generator().manual_seed(0)
    keep = torch.ones(2, LENGTH, dtype=torch.bool)
    ids = (torch.rand(2, LENGTH, generator=generator) > 0.97).cumsum(1)
    match masks:
        case "left":
            keep[0, :40] = False
        case "right":
            keep[1, 90:] = False
        case "holes" | "both":
            keep = torch.rand(2, LENGTH, generator=generator) > 0.3
    arguments = {"key_padding_mask": keep} if masks != "documents" else {}
    arguments |= {"document_ids": ids} if masks in ("documents", "both") else {}
    assert_within(position(name, True), case(name), "banded", causal=False, window=window, **arguments)


@pytest.mark.parametrize("name", [name for name in BOTH_WAYS if name != "alibi-12"])
def test_the_map_times_the_values_is_attention(name: str) -> None:
    q, k, v, _ = case(name, 40, 90, 13).inputs()
    arguments: dict[str, Any] = {"position": position(name, True), "causal": False, "query_offset": 13, "window": 50}
    weights = attention_map(q, k, **arguments)
    expected = weights @ v.repeat_interleave(2, 1)
    torch.testing.assert_close(attention(q, k, v, **arguments), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(set(BOTH_WAYS) - {"alibi-12"})),
    queries=st.integers(1, 60),
    keys=st.integers(1, 90),
    offset=st.integers(0, 60),
    window=st.one_of(st.none(), st.integers(1, 80)),
)
def test_a_mask_of_the_keys_ahead_gives_causal_attention(
    name: str, queries: int, keys: int, offset: int, window: int | None
) -> None:
    """Query by query, for a padding mask hides keys from all queries."""
    q, k, v, _ = case(name, queries, keys, offset).inputs()
    built, arguments = position(name, True), {"window": window, "backend": "banded"}
    causal = attention(q, k, v, position=built, query_offset=offset, **arguments)
    for row in sorted({0, queries // 2, queries - 1}):
        keep = (torch.arange(keys) <= offset + row).expand(2, -1)
        alone = attention(
            q[:, :, row : row + 1], k, v, position=built, query_offset=offset + row, causal=False,
            key_padding_mask=keep, **arguments,
        )  # fmt: skip
        torch.testing.assert_close(alone, causal[:, :, row : row + 1], rtol=1e-4, atol=1e-5)


class Mirrored(Position):
    """A position whose table is turned round: what it said of keys behind it says of keys ahead."""

    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position = position

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        raise NotImplementedError

    def terms_both_ways(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        terms = self.position.terms_both_ways(q_BHTD, k_BGSD, q_offset=q_offset)
        table = None if terms.table is None else terms.table.flip(-2)
        bias = None if terms.bias_HR is None else terms.bias_HR.flip(-1)
        length = next(x for x in (table, bias) if x is not None).shape[-2 if table is not None else -1]
        first = 1 - terms.first_displacement - length
        return dataclasses.replace(terms, table=table, bias_HR=bias, first_displacement=first)

    def reset_parameters(self) -> None:
        return None


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["alibi", "kerple", "shaw", "t5", "transformer_xl", "wavelet", "wavelet-haar"]),
    length=st.integers(1, 120),
    window=st.one_of(st.none(), st.integers(1, 100)),
)
def test_a_reversed_sequence_with_a_mirrored_table_gives_the_reversed_output(
    name: str, length: int, window: int | None
) -> None:
    q, k, v, _ = case(name, length, length).inputs()
    built = position(name, True)
    arguments: dict[str, Any] = {"causal": False, "window": window, "backend": "banded"}
    plain = attention(q, k, v, position=built, **arguments)
    turned = attention(*(x.flip(2) for x in (q, k, v)), position=Mirrored(built), **arguments)
    torch.testing.assert_close(turned.flip(2), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["alibi", "kerple"])
def test_biases_of_the_distance_are_alike_on_both_sides(name: str) -> None:
    q = torch.zeros(1, NUM_HEADS, 9, HEAD_DIM)
    terms = position(name, True).terms_both_ways(q, q)
    assert terms.first_displacement == -8
    assert terms.bias_HR is not None
    assert torch.equal(terms.bias_HR, terms.bias_HR.flip(1))
    assert torch.equal(terms.bias_HR[:, 8:], position(name).terms(q, q).bias_HR)


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (4, 2), (64, 1000)])
def test_t5s_buckets_are_transformers_own(num_buckets: int, max_distance: int) -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    ours = T5Bias(2, num_buckets=num_buckets, max_distance=max_distance, bidirectional=True)
    q, k = torch.zeros(1, 2, 1500, 8), torch.zeros(1, 2, 1400, 8)
    terms = ours.terms_both_ways(q, k, q_offset=30)
    displacement = torch.arange(1500)[:, None] + 30 - torch.arange(1400)
    theirs = t5.T5Attention._relative_position_bucket(-displacement, True, num_buckets, max_distance)
    assert terms.bias_HR is not None
    found = terms.at_displacement(terms.bias_HR[:, None].expand(-1, 1500, -1), displacement)
    assert torch.equal(found, ours.weight[:, theirs])


def test_transformer_xls_sinusoids_go_on_below_zero() -> None:
    built = position("transformer_xl", True)
    q = torch.zeros(1, NUM_HEADS, 30, HEAD_DIM)
    terms = built.terms_both_ways(q, torch.zeros(1, NUM_HEADS, 50, HEAD_DIM), q_offset=7)
    width = NUM_HEADS * HEAD_DIM
    angle = torch.arange(-42, 37)[:, None] * 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    expected = torch.cat([angle.sin(), angle.cos()], dim=1) @ dict(built.named_parameters())["weight_HDC"].double().mT
    assert terms.first_displacement == -42
    assert terms.table is not None
    torch.testing.assert_close(terms.table.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("direction", ["past", "future"])
@pytest.mark.parametrize("wavelet", ["ricker", "morlet", "gaussian", "haar", "db4"])
def test_wavelets_are_read_on_both_sides_of_zero(wavelet: str, direction: Any) -> None:
    """t = δ − b or −δ − b, at negative displacements too; beyond its own reach on either side ψ is below 1e-7."""
    scales = (1.0, 2.0) if wavelet == "db4" else (1.0, 4.0)
    built = Wavelet(8, wavelet, scales=scales, direction=direction)
    q = torch.zeros(1, 1, 300, 8)
    terms = built.terms_both_ways(q, q)
    sign = 1.0 if direction == "past" else -1.0
    displacement = torch.arange(-299, 300, dtype=torch.float64)
    mirrored = (wavelet == "haar" and direction == "past") or (wavelet == "db4" and direction == "future")
    columns = []
    for scale in scales:
        for shift in range(4):
            x = sign * displacement - shift
            columns.append(built.mother.evaluate(-x if mirrored else x, scale))
    expected = torch.stack(columns, 1)
    assert terms.table is not None
    first, size = terms.first_displacement, terms.table.shape[0]
    assert first == 1 - built.reach_ahead()
    inside = slice(299 + first, 299 + first + size)
    torch.testing.assert_close(terms.table.double(), expected[inside], rtol=1e-6, atol=1e-7)
    expected[inside] = 0.0
    assert expected.abs().max() <= 1e-7


def test_an_even_wavelet_without_shifts_is_even_and_haar_sees_one_side() -> None:
    q = torch.zeros(1, 1, 40, 2)
    even = Wavelet(2, scales=(1.0, 3.0), shifts=(0.0,)).terms_both_ways(q, q).table
    assert even is not None
    assert torch.equal(even, even.flip(0))
    haar = Wavelet(2, "haar", scales=(2.0, 4.0))
    assert haar.terms_both_ways(q, q).first_displacement == 0
    assert haar.reach_ahead() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_papers_table_has_factors_on_both_sides(dtype: torch.dtype) -> None:
    built = Wavelet(128)
    q = torch.randn(1, 1, 2000, 128, dtype=dtype)
    terms = built.terms_both_ways(q, q)
    factors = built.factors(terms)
    assert factors is not None
    assert terms.table is not None
    product = factors.coefficients_RK.double() @ factors.basis_KE.double()
    rounding = 8.0 * torch.finfo(dtype).eps * float(terms.table.double().norm(dim=1).max())
    assert (product - terms.table.double()).norm(dim=1).max() <= rounding
    assert factors.basis_KE.shape[0] < 128


def test_the_papers_grid_on_both_sides() -> None:
    drawn = Case(batch=1, num_heads=2, num_kv_heads=1, num_queries=1300, num_keys=1300, head_dim=128)
    assert_within(Wavelet(128), drawn, "banded", causal=False)


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (ShawRelative(16), r"ShawRelative was made for keys at and behind.* needs one of ShawRelative\(bidir"),
        (T5Bias(4), r"T5Bias was made for keys at and behind.* needs one of T5Bias\(bidirectional=True\)"),
        (LearnedRelative(relative_dim=4), "LearnedRelative has nothing to say of keys ahead of their query: causal=Fa"),
    ],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize("backend", ["auto", "reference", "map"])
def test_positions_that_know_no_key_ahead_are_refused(built: Any, message: str, backend: Any) -> None:
    drawn = Case()
    q, k, v, _ = drawn.inputs()
    arguments = {"position": built, "causal": False, "relative_states": drawn.relative_states(built)}
    with pytest.raises(ValueError, match=message):
        if backend == "map":
            attention_map(q, k, **arguments)
        else:
            attention(q, k, v, backend=backend, **arguments)


def test_more_queries_than_keys_need_an_offset_where_displacements_matter() -> None:
    q, k, v, _ = Case(num_queries=37, num_keys=20).inputs()
    with pytest.raises(ValueError, match="37 queries do not fit on 20 keys: give query_offset"):
        attention(q, k, v, position=Wavelet(HEAD_DIM, scales=SMALL_GRID), causal=False)


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(5, 100), (2, 100), (32, 8)])
def test_buckets_of_both_sides_are_halves(num_buckets: int, max_distance: int) -> None:
    with pytest.raises(ValueError, match="num_buckets must be even and at least 4 and max_distance more than num_buck"):
        T5Bias(4, num_buckets=num_buckets, max_distance=max_distance, bidirectional=True)


@pytest.mark.parametrize("name", ["shaw", "t5", "wavelet", "transformer_xl"])
def test_compiled_is_eager(name: str) -> None:
    torch._dynamo.reset()
    built, (q, k, v, _) = position(name, True), case(name).inputs()

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, position=built, causal=False)

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), run(q, k, v), rtol=0.0, atol=2e-6)
