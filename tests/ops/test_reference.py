"""The specification against the formula written out, equivalent pairs of methods, and invariants."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wavepos import ALiBi, NoPE, Rotary, ShawRelative, T5Bias, TransformerXLRelative, Wavelet, attention
from wavepos.positions import Position
from wavepos.positions.transformer_xl import sinusoids
from wavepos.testing import Case, assert_within

HEADS, DIM = 4, 16


def position(name: str) -> Position:
    torch.manual_seed(1)
    match name:
        case "nope":
            return NoPE()
        case "rotary":
            return Rotary(DIM)
        case "alibi":
            return ALiBi(HEADS)
        case "t5":
            return T5Bias(HEADS, num_buckets=8, max_distance=16)
        case "shaw":
            return ShawRelative(DIM, max_distance=9)
        case "transformer_xl":
            built = TransformerXLRelative(DIM, HEADS)
            torch.nn.init.normal_(built.u_HD)
            torch.nn.init.normal_(built.v_HD)
            return built
        case "wavelet":
            return Wavelet(DIM, scales=[1.0, 2.0])
        case _:
            return Wavelet(DIM, scales=[1.0, 2.0], query_bias="recency", num_heads=HEADS)


NAMES = ["nope", "rotary", "alibi", "t5", "shaw", "transformer_xl", "wavelet", "wavelet_recency"]
RELATIVE = [name for name in NAMES if name != "nope"]


def tensors(length: int, keys: int | None = None, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(heads: int, size: int) -> Tensor:
        return torch.randn(batch, heads, size, DIM, generator=generator, dtype=torch.float64)

    return draw(HEADS, length), draw(2, keys or length), draw(2, keys or length)


def score(terms: Any, h: int, m: int, n: int, offset: int, scale: float) -> float:
    """s[h,m,n] of the formula for batch row 0, one product at a time."""
    delta = offset + m - n
    q, k = terms.q_BHTD[0, h, m], terms.k_BGSD[0, h // 2, n]
    value = float(q @ k)
    for table in (terms.table, terms.bias_HR):
        last = -1 if table is None else table.shape[-2 if table is terms.table else -1] - 1
        if table is None or (delta > last and terms.tail == "zero"):
            continue
        at = min(delta, last)
        if table is terms.table:
            p = table[h, at] if table.dim() == 3 else table[at]
            value += float(terms.r_BHTE[0, h, m] @ p.detach().double())
        else:
            return scale * value + float(table[h, at])
    return scale * value


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_is_the_formula(name: str) -> None:
    q, k, v = tensors(9, 40)
    built = position(name).double()
    out = attention(q, k, v, position=built, query_offset=30, softmax_scale=0.3)
    with torch.no_grad():
        terms = built.terms(q, k, q_offset=30)
    for h in range(HEADS):
        for m in (0, 4, 8):
            scores = torch.tensor([score(terms, h, m, n, 30, 0.3) for n in range(31 + m)], dtype=torch.float64)
            expected = scores.softmax(0) @ v[0, h // 2, : 31 + m]
            torch.testing.assert_close(out[0, h, m], expected, rtol=1e-9, atol=1e-9)


def test_nope_is_scaled_dot_product_attention() -> None:
    q, k, v = tensors(33)
    expected = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attention(q, k, v, position=NoPE()), expected)
    full = scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(attention(q, k, v, position=NoPE(), causal=False), full)


def test_shaw_holding_the_wavelet_table_is_wavelet() -> None:
    q, k, v = tensors(70)
    wavelet = Wavelet(DIM, scales=[1.0, 2.0])
    shaw = ShawRelative(DIM, max_distance=99)
    with torch.no_grad():
        shaw.weight.copy_(wavelet.table(100))
    a, b = attention(q, k, v, position=shaw), attention(q, k, v, position=wavelet)
    torch.testing.assert_close(a, b, rtol=0.0, atol=1e-6)


def test_t5_holding_a_line_is_alibi() -> None:
    q, k, v = tensors(30)
    t5 = T5Bias(HEADS, num_buckets=128, max_distance=200)
    alibi = ALiBi(HEADS)
    terms = alibi.terms(q, k)
    assert terms.bias_HR is not None
    with torch.no_grad():
        t5.weight[:, :30] = terms.bias_HR
    torch.testing.assert_close(attention(q, k, v, position=t5), attention(q, k, v, position=alibi))


def test_alibi_without_slopes_is_nope() -> None:
    q, k, v = tensors(30)
    alibi = ALiBi(HEADS)
    alibi._slopes_H = [0.0] * HEADS
    torch.testing.assert_close(attention(q, k, v, position=alibi), attention(q, k, v, position=NoPE()))


def test_transformer_xl_without_biases_is_shaw_holding_sinusoids() -> None:
    q, k, v = tensors(30)
    xl, shaw = TransformerXLRelative(DIM, HEADS, sinusoid_dim=DIM), ShawRelative(DIM, max_distance=60)
    with torch.no_grad():
        xl.weight_HDC.copy_(torch.eye(DIM).expand(HEADS, DIM, DIM))
        shaw.weight.copy_(sinusoids(61, DIM))
    torch.testing.assert_close(attention(q, k, v, position=xl), attention(q, k, v, position=shaw))


@pytest.mark.parametrize("name", NAMES)
@given(length=st.integers(2, 40), cut=st.integers(1, 39), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_the_future_never_changes_the_past_and_a_prefix_is_itself(name: str, length: int, cut: int, seed: int) -> None:
    q, k, v = tensors(length, seed=seed)
    cut = min(cut, length - 1)
    built = position(name).double()
    whole = attention(q, k, v, position=built)
    alone = attention(q[:, :, :cut], k[:, :, :cut], v[:, :, :cut], position=built)
    torch.testing.assert_close(whole[:, :, :cut], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@given(length=st.integers(1, 30), new=st.integers(1, 10), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_cached_is_uncached(name: str, length: int, new: int, seed: int) -> None:
    q, k, v = tensors(length + new, seed=seed)
    built = position(name).double()
    whole = attention(q, k, v, position=built)
    cached = attention(q[:, :, length:], k, v, position=built, query_offset=length)
    torch.testing.assert_close(whole[:, :, length:], cached, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@given(length=st.integers(1, 20), shift=st.integers(1, 200), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_shifting_all_positions_changes_nothing(name: str, length: int, shift: int, seed: int) -> None:
    q, k, v = tensors(length, seed=seed)
    built = position(name).double()
    front = torch.zeros(2, 2, shift, DIM, dtype=torch.float64)
    seen = torch.cat([torch.zeros(2, shift, dtype=torch.bool), torch.ones(2, length, dtype=torch.bool)], 1)
    shifted = attention(
        q,
        torch.cat([front, k], 2),
        torch.cat([front, v], 2),
        position=built,
        query_offset=shift,
        key_padding_mask=seen,
    )
    tolerance = 1e-6 if name == "rotary" else 1e-10  # cos and sin are float32
    torch.testing.assert_close(shifted, attention(q, k, v, position=built), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    q, k, v = tensors(20, batch=3)
    built, order = position(name).double(), torch.tensor([2, 0, 1])
    permuted = attention(q[order], k[order], v[order], position=built)
    torch.testing.assert_close(permuted, attention(q, k, v, position=built)[order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", RELATIVE)
def test_positions_matter(name: str) -> None:
    q, k, v = tensors(20)
    built = position(name).double()
    assert not torch.allclose(attention(q, k, v, position=built), attention(q, k, v, position=NoPE()), atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_packed_documents_are_read_alone(name: str) -> None:
    q, k, v = tensors(30)
    ids = torch.tensor([[0] * 11 + [1] * 19, [5] * 4 + [2] * 26])
    built = position(name).double()
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    out = attention(q, k, v, position=built, document_ids=ids)
    for row, cut in ((0, 11), (1, 4)):
        for part in (slice(0, cut), slice(cut, 30)):
            alone = attention(*(x[row : row + 1, :, part] for x in (q, k, v)), position=built)
            torch.testing.assert_close(out[row : row + 1, :, part], alone, rtol=1e-6, atol=1e-6)
    out[0, :, 11:].sum().backward()
    assert k.grad is not None
    assert not k.grad[0, :, :11].any()


def test_queries_that_see_no_key_give_zero_and_no_gradient() -> None:
    q, k, v = (x.requires_grad_() for x in tensors(6))
    seen = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    out = attention(q, k, v, position=Wavelet(DIM, scales=[1.0, 2.0]), key_padding_mask=seen)
    assert not out[0, :, :2].any()
    assert out[0, :, 2:].any()
    out.sum().backward()
    for x in (q, k, v):
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
    assert q.grad is not None
    assert not q.grad[0, :, :2].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_reference_within_the_yardstick(name: str, dtype: torch.dtype) -> None:
    assert_within(position(name), Case(dtype=dtype, num_keys=45, query_offset=8, head_dim=DIM), "reference")


def test_dropout_keeps_the_mean_and_is_random() -> None:
    q, k, v = tensors(12)
    torch.manual_seed(0)
    draws = torch.stack([attention(q, k, v, position=NoPE(), dropout=0.3) for _ in range(3000)])
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(draws.mean(0), attention(q, k, v, position=NoPE()), rtol=0.0, atol=0.15)


def test_autocast_casts_the_inputs_as_sdpa_does() -> None:
    q, k, v = (x.float() for x in tensors(12))
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(q, k, v, position=Wavelet(DIM, scales=[1.0, 2.0]))
    assert out.dtype == torch.bfloat16
    expected = attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), position=Wavelet(DIM, scales=[1.0, 2.0]))
    assert torch.equal(out, expected)


Q = torch.zeros(2, 4, 5, DIM)
K = torch.zeros(2, 2, 7, DIM)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"q": Q[0]}, r"q must be \[batch, heads, length, head_dim\], got shape \(4, 5, 16\)"),
        ({"q": Q.long()}, "q must be of a floating-point dtype, got torch.int64"),
        ({"k": K.double()}, "k must have q's dtype and device torch.float32, cpu, got torch.float64"),
        ({"v": K[:, :, :6]}, "k and v must have the same shape"),
        ({"k": K[:1], "v": K[:1]}, "q and k must share batch and head_dim"),
        ({"q": Q[:, :3]}, "k's heads must divide q's, got 3 query and 2 key/value heads"),
        ({"query_offset": -1}, "query_offset must be at least 0, got -1"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"backend": "flash"}, "backend must be one of auto, banded, triton, reference.* got 'flash'"),
        ({"key_padding_mask": torch.ones(2, 5, dtype=torch.bool)}, r"key_padding_mask must have shape .* = \(2, 7\)"),
        ({"key_padding_mask": torch.ones(2, 7)}, "key_padding_mask must be bool"),
        (
            {"document_ids": torch.zeros(2, 7, dtype=torch.int64), "query_offset": 3},
            "document_ids cover 7 key positions, but queries end at position 7",
        ),
        ({"causal": False, "position": T5Bias(4)}, r"causal=False needs one of T5Bias\(bidirectional=True\)"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_wrong_input_is_named(arguments: dict, message: str) -> None:
    call: dict[str, Any] = {"q": Q, "k": K, "v": K, "position": Wavelet(DIM, scales=[1.0, 2.0])} | arguments
    with pytest.raises(ValueError, match=message):
        attention(call.pop("q"), call.pop("k"), call.pop("v"), **call)


def test_the_default_scale_is_one_over_the_root_of_head_dim() -> None:
    q, k, v = tensors(12)
    expected = attention(q, k, v, position=NoPE(), softmax_scale=1.0 / math.sqrt(DIM))
    assert torch.equal(attention(q, k, v, position=NoPE()), expected)
