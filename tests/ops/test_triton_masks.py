"""The fused kernel with a window and with keys ahead of their query, held to the yardstick."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_cases import BAND, DEVICE, DTYPES, LONG, POSITIONS, case, drawn
from torch import Tensor, nn

from wavepos import ALiBi, Kerple, LearnedRelative, NoPE, ShawRelative, T5Bias, Wavelet, attention, testing
from wavepos.positions import Position, ScoreTerms

pytest.importorskip("triton", reason="triton is not installed")


class Table(Position):
    """A learned table from any displacement on, zero beyond both ends or its ends' entries; and a bias instead."""

    def __init__(self, first: int, length: int, *, clamp: bool = False, bias: bool = False) -> None:
        super().__init__()
        self.first, self.tail, self.bias = first, "clamp" if clamp else "zero", bias
        self.values = nn.Parameter(torch.empty((2, length) if bias else (length, 64)))
        nn.init.normal_(self.values, std=0.5, generator=torch.Generator().manual_seed(3))

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        given: dict[str, Any] = (
            {"bias_HR": self.values} if self.bias else {"r_BHTE": q_BHTD * 0.3, "table": self.values}
        )
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, tail=self.tail, first_displacement=self.first, **given)

    def terms_both_ways(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        return self.terms(q_BHTD, k_BGSD, q_offset=q_offset)

    def reset_parameters(self) -> None:
        return None


BOTH_WAYS: dict[str, Callable[[], Position]] = {
    "nope": NoPE,
    "alibi": lambda: ALiBi(2),
    "wavelet": lambda: Wavelet(64, scales=(1, 2)),
    "wavelet_future": lambda: Wavelet(64, scales=(1, 2), direction="future"),
    "t5": lambda: drawn(T5Bias(2, num_buckets=16, max_distance=21, bidirectional=True)),
    "shaw": lambda: drawn(ShawRelative(64, max_distance=20, bidirectional=True)),
    "ahead_only": lambda: Table(-35, 36),
    "clamped_at_once": lambda: Table(0, 5, clamp=True),  # what holds for keys ahead is the entry of displacement 0
    "clamped_point": lambda: Table(0, 1, clamp=True),
    "clamped_bias": lambda: Table(-3, 40, clamp=True, bias=True),
    "wide": lambda: Table(-70, 150),
    "wide_clamped": lambda: Table(-70, 150, clamp=True),
}

SHAPES = [(111, 111, 0), (33, 111, 40), (40, 90, 100), (90, 30, 0), (1, 70, 20), (70, 2, 0)]
"""Square; in the middle of the keys; beyond the last of them; more queries than keys; one query, two keys."""


@pytest.mark.parametrize(
    ("name", "num_queries", "num_keys", "offset"),
    [(name, *SHAPES[0]) for name in BOTH_WAYS]
    + [(name, *shape) for name in ("wavelet", "clamped_at_once", "clamped_bias") for shape in SHAPES[1:]],
)
def test_both_directions(name: str, num_queries: int, num_keys: int, offset: int, poisoned: list[int]) -> None:
    shape = case(num_queries, num_keys, query_offset=offset)
    testing.assert_within(BOTH_WAYS[name](), shape, "triton", causal=False)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("name", ["wavelet", "clamped_bias"])
def test_both_directions_of_long_rows_in_half_precision(name: str, dtype: torch.dtype) -> None:
    shape = case(LONG, dtype=dtype)
    testing.assert_within(BOTH_WAYS[name](), shape, "triton", causal=False)


WINDOWS = [2, 31, 32, BAND - 1, BAND, BAND + 1, 100]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", ["nope", "t5", "wavelet"])
def test_every_window(name: str, window: int, poisoned: list[int]) -> None:
    testing.assert_within(POSITIONS[name](), case(LONG), "triton", window=window)


@pytest.mark.parametrize("window", [7, 40, 100])
@pytest.mark.parametrize("name", ["nope", "alibi", "shaw", "wide_clamped"])
def test_windows_of_both_directions(name: str, window: int, poisoned: list[int]) -> None:
    testing.assert_within(BOTH_WAYS[name](), case(LONG), "triton", causal=False, window=window)


@pytest.mark.parametrize(("name", "window"), [("nope", 3), ("shaw", 45), ("clamped_bias", 3)])
@pytest.mark.parametrize(("num_queries", "num_keys", "offset"), [*SHAPES[1:], (20, 60, 100), (40, 30, 20)])
@pytest.mark.parametrize("causal", [True, False])
def test_windows_and_offsets(
    name: str, causal: bool, num_queries: int, num_keys: int, offset: int, window: int, poisoned: list[int]
) -> None:
    """Some queries, and some whole blocks of them, stand so far behind the last key that they see none."""
    shape = case(num_queries, num_keys, query_offset=offset)
    testing.assert_within(BOTH_WAYS[name](), shape, "triton", causal=causal, window=window)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_heads, num_kv_heads", [(2, 2), (4, 2)])
def test_windows_of_grouped_heads(num_heads: int, num_kv_heads: int, dtype: torch.dtype) -> None:
    shape = case(70, batch=2, num_heads=num_heads, num_kv_heads=num_kv_heads, dtype=dtype)
    testing.assert_within(POSITIONS["shaw"](), shape, "triton", window=30)


@pytest.mark.parametrize("name", ["shaw", "t5", "learned_relative"])
def test_a_window_of_one_token_gives_each_query_its_own_value(name: str) -> None:
    q, k, v, grad = case(60, num_kv_heads=2).inputs()
    position, shape = POSITIONS[name]().to(DEVICE), case(60)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    states = shape.relative_states(position)
    out = attention(*leaves, position=position, backend="triton", window=1, relative_states=states)
    gradients = torch.autograd.grad(out, [*leaves, *position.parameters()], grad)
    torch.testing.assert_close(out, v)
    torch.testing.assert_close(gradients[2], grad)
    assert all(x.abs().max() < 1e-3 for i, x in enumerate(gradients) if i != 2)  # differences of equal numbers


def test_queries_that_see_no_key_give_zero() -> None:
    q, k, v, grad = case(70, 30, query_offset=20).inputs()
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = attention(*leaves, position=NoPE(), backend="triton", window=5, query_offset=20)
    dq, dk, dv = torch.autograd.grad(out, leaves, grad)
    assert torch.count_nonzero(out[:, :, 14:]) == 0  # the query at 34 is the first whose window begins behind key 29
    assert torch.count_nonzero(dq[:, :, 14:]) == 0
    assert out[:, :, :14].abs().amin() > 0
    assert torch.isfinite(dk).all() and torch.isfinite(dv).all()


def documents(kind: str, length: int) -> Tensor:
    place = torch.arange(length, device=DEVICE)
    packed = (place >= 50).long() + (place >= 65).long()
    return {"packed": packed, "interleaved": place // 7 % 3}[kind][None].expand(2, -1)


@pytest.mark.parametrize("kind", ["packed", "interleaved"])
@pytest.mark.parametrize("causal, window", [(True, 9), (False, None), (False, 40)])
@pytest.mark.parametrize("name", ["nope", "wide_clamped"])
def test_documents(name: str, causal: bool, window: int | None, kind: str, poisoned: list[int]) -> None:
    arguments: dict[str, Any] = {"causal": causal, "window": window, "document_ids": documents(kind, 100)}
    testing.assert_within(BOTH_WAYS[name](), case(100, batch=2), "triton", **arguments)


@pytest.mark.parametrize("causal, window", [(True, 20), (False, None), (False, 33)])
def test_tiles_that_no_query_sees_are_not_read(causal: bool, window: int | None) -> None:
    """Keys of whole tiles outside of the window, or of another document, may hold anything."""
    q, k, v, grad = case(40, 448, query_offset=256).inputs()
    place = torch.arange(448, device=DEVICE)
    unseen = (place < 128) | (place >= 384)
    ids = None if window is not None else ((place >= 128).long() + (place >= 384).long())[None]
    arguments: dict[str, Any] = {"backend": "triton", "causal": causal, "document_ids": ids, "window": window}

    def run(filled: float) -> list[Tensor]:
        leaves = [x.requires_grad_() for x in (q, *(x.masked_fill(unseen[:, None], filled) for x in (k, v)))]
        out = attention(*leaves, position=BOTH_WAYS["wide"]().to(DEVICE), query_offset=256, **arguments)
        return [out, *torch.autograd.grad(out, leaves, grad)]

    for found, expected in zip(run(torch.nan), run(0.0), strict=True):
        assert torch.equal(found, expected)


def test_a_window_that_holds_all_keys_is_none() -> None:
    q, k, v, _ = case(LONG).inputs()
    plain = attention(q, k, v, position=NoPE(), backend="triton")
    assert torch.equal(plain, attention(q, k, v, position=NoPE(), backend="triton", window=LONG))


def test_a_learned_bias_of_every_displacement_is_served_within_a_window() -> None:
    """Its gradient takes memory of the window then."""
    position = Kerple(2)
    testing.assert_within(position, case(LONG), "triton", window=40)
    testing.assert_within(position, case(LONG), "triton", window=40, causal=False)


def test_a_table_holds_the_displacements_of_the_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from wavepos.ops.fused import skew

    made: list[skew.SkewLayout] = []
    real = skew.relative_logits
    monkeypatch.setattr(
        skew, "relative_logits", lambda r, table, layout: (made.append(layout), real(r, table, layout))[1]
    )
    q, k, v, _ = case(40).inputs()
    for window, causal, expected in [(None, True, (40, 0)), (9, True, (9, 0)), (9, False, (9, 8))]:
        attention(q, k, v, position=Table(-70, 150).to(DEVICE), backend="triton", window=window, causal=causal)
        assert (made[-1].reach, made[-1].ahead) == expected


def test_learned_relative_states_within_a_window() -> None:
    testing.assert_within(drawn(LearnedRelative(relative_dim=16, extent=30)), case(80), "triton", window=25)


@pytest.mark.parametrize("spoilt", ["k", "v"])
def test_future_keys_that_are_not_numbers_reach_no_earlier_row(spoilt: str) -> None:
    q, k, v, grad = (x.requires_grad_() for x in case(24).inputs())
    grad = grad.detach().index_fill(2, torch.arange(10, 24, device=DEVICE), 0.0)

    def call(value: float) -> list[Tensor]:
        tensors = {"q": q, "k": k, "v": v}
        tensors[spoilt] = tensors[spoilt].index_fill(2, torch.tensor(10, device=DEVICE), value)
        out = attention(**tensors, position=POSITIONS["wavelet"](), backend="triton")
        return [out[:, :, :10], *torch.autograd.grad(out, (q, k, v), grad)]

    for found, expected in zip(call(torch.nan), call(0.0), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
