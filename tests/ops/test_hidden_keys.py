"""A hidden key has no weight, however far below it the scores of the others lie."""

from typing import Any

import pytest
import torch
from small_positions import HEAD_DIM, position, read

from wavepos import NoPE, attention
from wavepos.ops.attention import attention_map
from wavepos.ops.mask import Mask
from wavepos.testing import Case

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def far_apart(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """One query; the key it may see has a score some 130,000 below the others'."""
    q = torch.full((1, 2, 1, HEAD_DIM), 64.0)
    k = torch.full((1, 2, 6, HEAD_DIM), 64.0)
    k[:, :, 2] = -64.0
    v = torch.arange(1.0, 7.0)[:, None].expand(1, 2, 6, HEAD_DIM)
    return q.to(dtype), k.to(dtype), v.to(dtype)


@pytest.mark.parametrize("path", ["banded", "reference", "slots", "two queries"])
@pytest.mark.parametrize("name", ["nope", "wavelet", "alibi"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_keys_do_not_leak_into_low_scores(dtype: torch.dtype, name: str, path: str) -> None:
    q, k, v = far_apart(dtype)
    keep = torch.tensor([[False, False, True, False, False, False]])
    q = q.repeat_interleave(2 if path == "two queries" else 1, 2)
    k, heads = (k, 2) if name != "alibi" else (k.repeat(1, 2, 1, 1), 4)
    q, v = (x.repeat(1, heads // 2, 1, 1) for x in (q, v))
    backend: Any = path if path in ("banded", "reference") else "auto"
    offset = torch.tensor(5) if path == "slots" else None
    arguments = {"position": position(name), "key_padding_mask": keep, "softmax_scale": 1.0}
    out = attention(q, k, v, backend=backend, query_offset=offset, **arguments)
    assert torch.equal(out, torch.full_like(out, 3.0))
    if offset is None:
        assert torch.equal(attention_map(q, k, **arguments)[..., 0, 2], torch.ones(1, heads))


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_slots_do_not_leak_into_low_scores(dtype: torch.dtype) -> None:
    q, k, v = far_apart(dtype)
    k[:, :, :3] = -64.0
    out = attention(q, k, v, position=NoPE(), query_offset=torch.tensor(2), softmax_scale=1.0)
    assert torch.equal(out, torch.full_like(out, 2.0))


@pytest.mark.parametrize("path", ["banded", "reference", "slots"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_query_without_keys_has_zeros_and_no_gradient_beside_one_that_sees(dtype: torch.dtype, path: str) -> None:
    q, k, v = (x.repeat(2, 1, 1, 1).requires_grad_() for x in far_apart(dtype))
    keep = torch.tensor([[False] * 6, [True] * 6])
    offset = torch.tensor(5) if path == "slots" else None
    backend: Any = "auto" if path == "slots" else path
    out = attention(q, k, v, position=NoPE(), backend=backend, query_offset=offset, key_padding_mask=keep)
    grads = torch.autograd.grad(out.float().sum(), (q, k, v))
    assert torch.equal(out[0], torch.zeros_like(out[0]))
    assert out[1].all()
    for grad in grads:
        assert torch.isfinite(grad).all()
        assert not grad[0].any()
    assert grads[2][1].any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_document_ids_that_fall_hide_no_key_by_wrapping(dtype: torch.dtype) -> None:
    ids = torch.tensor([[100, 100, 0, 0, 100, 100]]).to(dtype)
    assert Mask(num_queries=6, num_keys=6, document_ids_BS=ids).first_keys() == [0] * 6
    q, k, v = torch.randn(3, 1, 4, 6, HEAD_DIM).unbind()
    found, expected = (
        attention(q, k, v, position=position("wavelet"), backend=backend, document_ids=ids)
        for backend in ("banded", "reference")
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


T, SPOILT = 70, 40
IDS = torch.arange(T)[None] // 25  # the spoilt key lies in the second document
KEPT = torch.arange(T)[None] != SPOILT
HIDING: dict[str, tuple[dict[str, Any], list[bool]]] = {
    "future": ({}, [m >= SPOILT for m in range(T)]),
    "window": ({"window": 8}, [0 <= m - SPOILT < 8 for m in range(T)]),
    "both ways": ({"window": 8, "causal": False}, [abs(m - SPOILT) < 8 for m in range(T)]),
    "documents": ({"document_ids": IDS}, [SPOILT <= m < 50 for m in range(T)]),
    "padding": ({"key_padding_mask": KEPT}, [False] * T),
}


@pytest.mark.parametrize("backend", ["banded", "reference"])
@pytest.mark.parametrize("spoilt", ["k", "v"])
@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("name", ["nope", "rotary", "alibi", "t5", "shaw", "wavelet", "forget_gate"])
def test_keys_that_are_not_finite_reach_the_queries_that_see_them_only(
    name: str, hiding: str, spoilt: str, backend: Any
) -> None:
    arguments, seen = HIDING[hiding]
    if hiding == "both ways" and name == "forget_gate":
        pytest.skip("gates are causal")
    built = position(name, both_ways=hiding == "both ways")
    case = Case(batch=1, num_queries=T, num_keys=T, head_dim=HEAD_DIM)
    q, k, v, grad = (x.requires_grad_() for x in case.inputs())
    rows = torch.tensor(seen)
    grad = grad.detach().masked_fill(rows[:, None], 0.0)

    def call(value: float) -> list[torch.Tensor]:
        tensors = {"q": q, "k": k, "v": v}
        place = torch.zeros_like(k, dtype=torch.bool)
        place[:, :1, SPOILT, :3] = True
        tensors[spoilt] = tensors[spoilt].masked_fill(place, value)
        out = attention(**tensors, position=built, backend=backend, **arguments, **read(built, case))
        return [out, *torch.autograd.grad(out, (q, k, v), grad)]

    expected = call(0.0)
    for value in (torch.nan, torch.inf, -torch.inf):
        out, *grads = call(value)
        assert torch.equal(out[:, :, ~rows], expected[0][:, :, ~rows])
        assert out[:, :2, rows].isnan().all()
        assert torch.equal(out[:, 2:], expected[0][:, 2:])  # the heads of the other keys
        for found, clean in zip(grads, expected[1:], strict=True):
            torch.testing.assert_close(found, clean, rtol=1e-4, atol=1e-5)


def test_a_gradient_that_enters_a_spoilt_row_is_no_number() -> None:
    q, k, v = torch.randn(3, 1, 2, 20, HEAD_DIM).unbind()
    k = k.index_fill(2, torch.tensor([10]), torch.nan).requires_grad_()
    out = attention(q, k, v, position=NoPE())
    (dk,) = torch.autograd.grad(out, k, torch.ones_like(out))
    assert dk.isnan().any()
