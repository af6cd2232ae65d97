"""Calls without a query, a key, a batch row, a head or a dimension give what SDPA gives, with gradients."""

from typing import Any

import pytest
import torch
from small_positions import BOTH_WAYS, HEAD_DIM, NUM_HEADS, POSITIONS, position, read
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wavepos import NoPE, attention
from wavepos.ops.attention import attention_map
from wavepos.testing import Case

SHAPES = {
    "no query": ((2, NUM_HEADS, 0, HEAD_DIM), (2, 2, 7, HEAD_DIM)),
    "no key": ((2, NUM_HEADS, 5, HEAD_DIM), (2, 2, 0, HEAD_DIM)),
    "neither": ((2, NUM_HEADS, 0, HEAD_DIM), (2, 2, 0, HEAD_DIM)),
    "no batch": ((0, NUM_HEADS, 5, HEAD_DIM), (0, 2, 7, HEAD_DIM)),
    "no batch, one query": ((0, NUM_HEADS, 1, HEAD_DIM), (0, 2, 7, HEAD_DIM)),
}


def check(q_shape: tuple[int, ...], k_shape: tuple[int, ...], **arguments: Any) -> None:
    q, k, v = (torch.randn(shape, requires_grad=True) for shape in (q_shape, k_shape, k_shape))
    if 0 in (q_shape[1], q_shape[3]):
        plain = torch.zeros_like(q)  # SDPA's answer, but torch 2.9 divides by zero and dies
    else:
        plain = scaled_dot_product_attention(q, k, v, enable_gqa=q_shape[1] != k_shape[1])
    out = attention(q, k, v, **arguments)
    assert torch.equal(out, plain)
    assert out.dtype == plain.dtype
    learned = [x for x in arguments["position"].parameters() if x.requires_grad]
    grads: list[Tensor | None] = list(torch.autograd.grad(out.sum(), [q, k, v, *learned], allow_unused=True))
    for x, grad in zip([q, k, v], grads, strict=False):
        assert grad is not None
        assert grad.shape == x.shape
    assert not any(grad is not None and grad.any() for grad in grads)
    given = {name: value for name, value in arguments.items() if name not in ("backend", "dropout")}
    assert attention_map(q, k, **given).shape == (*q_shape[:3], k_shape[2])


@pytest.mark.parametrize("backend", ["auto", "banded", "reference", "triton"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [name for name in POSITIONS if name != "alibi-12"])
def test_empty_calls_are_sdpas(name: str, shape: str, backend: str) -> None:
    q_shape, k_shape = SHAPES[shape]
    built = position(name)
    case = Case(batch=q_shape[0], num_queries=q_shape[2], num_keys=k_shape[2], head_dim=HEAD_DIM)
    check(q_shape, k_shape, position=built, backend=backend, **read(built, case))


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [name for name in BOTH_WAYS if name != "alibi-12"])
def test_empty_calls_in_both_directions(name: str, shape: str, window: int | None) -> None:
    q_shape, k_shape = SHAPES[shape]
    check(q_shape, k_shape, position=position(name, True), causal=False, query_offset=0, window=window)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [0, 3])
def test_no_head_or_no_dimension(heads: int, causal: bool) -> None:
    size = HEAD_DIM if heads == 0 else 0
    check((2, heads, 5, size), (2, heads, 7, size), position=NoPE(), causal=causal)


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_and_dropout_of_empty_calls(shape: str) -> None:
    q_shape, k_shape = SHAPES[shape]
    sizes = k_shape[0], k_shape[2]
    padding = torch.ones(sizes, dtype=torch.bool)
    check(q_shape, k_shape, position=position("wavelet"), key_padding_mask=padding)
    if q_shape[2] <= k_shape[2]:
        check(q_shape, k_shape, position=position("wavelet"), document_ids=torch.zeros(sizes, dtype=torch.int64))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tensor_offset_takes_empty_calls_too(shape: str) -> None:
    q, k = (torch.randn(x) for x in SHAPES[shape])
    out = attention(q, k, k, position=position("wavelet"), query_offset=torch.tensor(0))
    assert torch.equal(out, torch.zeros_like(q))


def test_query_heads_without_key_heads_are_refused() -> None:
    q, k = torch.randn(1, 2, 5, 8), torch.randn(1, 0, 5, 8)
    with pytest.raises(ValueError, match="k's heads must divide q's, got 2 query and 0 key/value heads"):
        attention(q, k, k, position=NoPE())
