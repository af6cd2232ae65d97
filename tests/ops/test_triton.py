"""The fused kernel beside the reference: native on a GPU, elsewhere under Triton's interpreter (it shows no races)."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_cases import BAND, DEVICE, DTYPES, LENGTHS, LONG, POSITIONS, Projected, case, t5, wavelet
from torch import Tensor

from wavepos import NoPE, TransformerXLRelative, Wavelet, attention, testing
from wavepos.ops.mask import Mask
from wavepos.positions import Position, ScoreTerms

pytest.importorskip("triton", reason="triton is not installed")
from wavepos.ops.call import Call
from wavepos.ops.choice import run_backend


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in POSITIONS]
    + [(name, dtype) for name in ("nope", "t5", "wavelet", "projected_wide") for dtype in DTYPES[1:]],
)
def test_positions(name: str, dtype: torch.dtype, poisoned: list[int]) -> None:
    testing.assert_within(POSITIONS[name](), case(LONG, dtype=dtype), "triton")
    assert len(poisoned) >= 6  # out, lse, dq, dk, dv, delta


def test_reaches_as_far_as_these_tests_say() -> None:
    assert wavelet().reach() == BAND


@pytest.mark.parametrize(
    ("name", "length"), [("wavelet", length) for length in LENGTHS] + [("shaw", 17), ("shaw", 111)]
)
def test_lengths(name: str, length: int, poisoned: list[int]) -> None:
    testing.assert_within(POSITIONS[name](), case(length), "triton")


@pytest.mark.parametrize("num_heads, num_kv_heads", [(2, 2), (4, 2), (3, 1)])
def test_grouped_queries_and_batches(num_heads: int, num_kv_heads: int) -> None:
    shape = case(50, batch=2, num_heads=num_heads, num_kv_heads=num_kv_heads)
    testing.assert_within(Projected(reach=9, clamp=True), shape, "triton")


@pytest.mark.parametrize("dtype", DTYPES)
def test_head_dim_128(dtype: torch.dtype) -> None:
    position = Wavelet(128, scales=(1, 2, 4, 8), shifts=range(32))
    testing.assert_within(position, case(LONG, head_dim=128, num_heads=1, dtype=dtype), "triton")


@pytest.mark.parametrize("name", ["wavelet", "t5", "alibi"])
@pytest.mark.parametrize("num_queries, query_offset", [(1, 110), (33, 78), (40, 13), (40, 100)])
def test_offsets(name: str, num_queries: int, query_offset: int, poisoned: list[int]) -> None:
    """The newest of the keys, queries in their middle, and queries past the last of them."""
    shape = case(num_queries, 111, query_offset=query_offset)
    testing.assert_within(POSITIONS[name](), shape, "triton")


def documents(kind: str, length: int) -> Tensor:
    place = torch.arange(length, device=DEVICE)
    packed = (place >= 50).long() + (place >= 65).long()  # the second one ends with the first key of a tile
    return {"packed": packed, "interleaved": place // 7 % 3}[kind][None]


@pytest.mark.parametrize("name", ["projected_wide", "t5", "nope"])
@pytest.mark.parametrize("kind", ["packed", "interleaved"])
def test_documents(name: str, kind: str, poisoned: list[int]) -> None:
    testing.assert_within(POSITIONS[name](), case(100), "triton", document_ids=documents(kind, 100))


def test_documents_and_an_offset() -> None:
    ids = documents("packed", 100)
    testing.assert_within(wavelet(), case(30, 100, query_offset=51), "triton", document_ids=ids)


def test_documents_do_not_leak() -> None:
    ids, (q, k, v, grad) = documents("packed", 80), case(80).inputs()
    foreign = (ids != 1)[0]

    def run(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attention(*leaves, position=wavelet(), backend="triton", document_ids=ids)
        (dk,) = torch.autograd.grad(out[:, :, ~foreign], leaves[1], grad[:, :, ~foreign])
        return out[:, :, ~foreign], dk

    out, dk = run(k, v)
    changed = [torch.where(foreign[:, None], 100.0 * torch.randn_like(x), x) for x in (k, v)]
    assert torch.equal(out, run(*changed)[0])
    assert torch.count_nonzero(dk[:, :, foreign]) == 0
    assert torch.count_nonzero(dk[:, :, ~foreign]) > 0


@pytest.mark.parametrize("name", ["projected", "t5"])
def test_same_bits_twice(name: str) -> None:
    def run() -> list[Tensor]:
        position = POSITIONS[name]().to(DEVICE)
        torch.manual_seed(0)
        position.reset_parameters()
        q, k, v, grad = case(LONG, num_heads=2).inputs()
        leaves = [x.requires_grad_() for x in (q, k, v)] + list(position.parameters())
        out = attention(q, k, v, position=position, backend="triton")
        return [out, *torch.autograd.grad(out, leaves, grad)]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_heads_side_by_side_in_memory() -> None:
    """Queries and keys cut out of one [B,T,heads·D] projection, and a gradient of the same layout."""
    q, k, v, grad = case(70, num_kv_heads=2).inputs()

    def run(change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        leaves = [change(x).requires_grad_() for x in (q, k, v)]
        out = attention(*leaves, position=wavelet(), backend="triton")
        return [out, *torch.autograd.grad(out, leaves, change(grad))]

    strided = run(lambda x: x.transpose(1, 2).contiguous().transpose(1, 2))
    for expected, got in zip(run(lambda x: x.clone()), strided, strict=True):
        torch.testing.assert_close(got, expected)


def test_softmax_scale() -> None:
    """T5's own scale of 1 makes scores of ±30: most queries give one key all of their weight."""
    for seed in range(3):
        testing.assert_within(t5(seed), case(64, seed=seed), "triton", softmax_scale=1.0)
    testing.assert_within(wavelet(), case(64), "triton", softmax_scale=0.02)


def test_operator_is_described_to_the_compiler() -> None:
    q, k, v, _ = case(40).inputs()
    form = (0, False, 30, 4, True, 0.125)  # query_offset, causal, window, ahead, held, softmax_scale
    r, table = torch.randn(1, 2, 40, 16, device=DEVICE), torch.randn(20, 16, device=DEVICE)
    tensors = [x.requires_grad_() for x in (q, k, v, r, table)]
    arguments = (*tensors, None, None, None, *form)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.wavepos.triton_attention.default, arguments, test_utils=checks)
    out, lse = (x.detach() for x in torch.ops.wavepos.triton_attention(*arguments))
    backward = (torch.randn_like(out), *(x.detach() for x in tensors), None, None, None, out, lse, *form, True)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.wavepos.triton_attention_backward.default, backward, test_utils=checks)


def test_operator_with_gates_is_described_to_the_compiler() -> None:
    q, k, v, _ = case(40).inputs()
    bias, sums = torch.randn(2, 9, device=DEVICE), torch.randn(1, 2, 40, device=DEVICE).double()
    tensors = [x.requires_grad_() for x in (q, k, v, bias, sums)]
    form = (0, True, 20, 0, False, 0.125)
    arguments = (*tensors[:3], None, None, *tensors[3:], None, *form)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.wavepos.triton_attention.default, arguments, test_utils=checks)
    out, lse = (x.detach() for x in torch.ops.wavepos.triton_attention(*arguments))
    given = [x.detach() for x in tensors]
    backward = (torch.randn_like(out), *given[:3], None, None, *given[3:], None, out, lse, *form, True)
    torch.library.opcheck(
        torch.ops.wavepos.triton_attention_backward.default, backward, test_utils=("test_schema", "test_faketensor")
    )


def test_second_derivatives_are_refused() -> None:
    q, k, v, grad = case(20).inputs()
    q.requires_grad_()
    out = attention(q, k, v, position=NoPE(), backend="triton")
    (dq,) = torch.autograd.grad(out, q, grad.requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError):
        dq.sum().backward()


REFUSALS: dict[str, tuple[Callable[[], Position], dict[str, Any], dict[str, Any]]] = {
    "serves head_dim 64 and 128, got 32": (NoPE, {"head_dim": 32}, {}),
    "got torch.float64": (NoPE, {"dtype": torch.float64}, {}),
    "does not serve key_padding_mask": (NoPE, {}, {"key_padding_mask": torch.ones(1, 20, dtype=torch.bool)}),
    "does not serve dropout, got 0.5": (NoPE, {}, {"dropout": 0.5}),
    "serves one table for all heads": (lambda: TransformerXLRelative(64, 2), {}, {}),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_refusals_of_calls(message: str) -> None:
    position, fields, kwargs = REFUSALS[message]
    q, k, v, _ = case(20, **fields).inputs()
    with pytest.raises(ValueError, match=rf"backend='triton' .*{message}"):
        attention(q, k, v, position=position().to(DEVICE), backend="triton", **kwargs)


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"table": torch.ones(20, 64), "bias_HR": torch.ones(2, 20), "tail": "zero"},
            "one of a table and a bias, not both",
        ),
        ({"table": torch.ones(20, 64), "tail": "none"}, "a table that covers every displacement"),
        ({"bias_HR": torch.ones(2, 20).requires_grad_()}, "the gradient of a bias that covers every displacement"),
    ],
)
def test_refusals_of_terms(fields: dict[str, Any], message: str) -> None:
    q, k, v, _ = case(20).inputs()
    terms = ScoreTerms(q_BHTD=q, k_BGSD=k, r_BHTE=q, **fields)
    with pytest.raises(ValueError, match=rf"backend='triton' .*{message}"):
        run_backend("triton", Call(terms=terms, v_BGSD=v, mask=Mask(num_queries=20, num_keys=20), softmax_scale=0.125))


@pytest.mark.skipif(DEVICE == "cuda", reason="the interpreter's limit")
def test_interpreter_refuses_bfloat16() -> None:
    q, k, v, _ = case(20, dtype=torch.bfloat16).inputs()
    with pytest.raises(ValueError, match=r"got torch\.bfloat16"):
        attention(q, k, v, position=NoPE(), backend="triton")


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wavepos.ops.fused.kernels", raising=False)
    monkeypatch.delattr(sys.modules["wavepos.ops.fused"], "kernels", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    q, k, v, _ = case(20).inputs()
    with pytest.raises(ImportError, match="needs the package triton: pip install triton"):
        attention(q, k, v, position=NoPE(), backend="triton")
