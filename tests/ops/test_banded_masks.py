"""Padding and documents through the banded backend: parity, rows that see nothing, and leaks."""

import pytest
import torch
from small_positions import HEAD_DIM, POSITIONS, heads, position

from wavepos import Wavelet, attention
from wavepos.ops.banded.band import Band
from wavepos.ops.banded.operator import _call
from wavepos.ops.mask import Mask
from wavepos.testing import Case, assert_within

LENGTH = 150


def padding(side: str) -> torch.Tensor:
    keep = torch.ones(2, LENGTH, dtype=torch.bool)
    match side:
        case "left":
            keep[0, :40] = False
            keep[1, :3] = False
        case "right":
            keep[0, 90:] = False
        case "holes":
            keep = torch.rand(2, LENGTH, generator=torch.Generator().manual_seed(0)) > 0.3
        case "all":
            keep[1] = False
    return keep


def documents(kind: str) -> torch.Tensor:
    if kind == "contiguous":
        ids = torch.zeros(2, LENGTH, dtype=torch.int64)
        ids[0, 70:] = 1
        ids[0, 71:] = 2
        ids[1, 35:] = 5
        return ids
    return torch.randint(0, 3, (2, LENGTH), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", ["left", "right", "holes", "all"])
@pytest.mark.parametrize("name", POSITIONS)
def test_padding(name, side):
    case = Case(num_heads=heads(name), num_queries=LENGTH, num_keys=LENGTH, head_dim=HEAD_DIM)
    assert_within(position(name), case, "banded", key_padding_mask=padding(side))


@pytest.mark.parametrize("kind", ["contiguous", "mixed"])
@pytest.mark.parametrize("name", POSITIONS)
def test_documents(name, kind):
    case = Case(num_heads=heads(name), num_queries=LENGTH, num_keys=LENGTH, head_dim=HEAD_DIM)
    assert_within(position(name), case, "banded", document_ids=documents(kind))


@pytest.mark.parametrize("name", ["rotary", "wavelet", "shaw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_queries", "query_offset"), [(LENGTH, 0), (60, 90), (60, 30), (1, 149), (1, 60)])
def test_padding_and_documents_together(name, dtype, num_queries, query_offset):
    case = Case(num_queries=num_queries, num_keys=LENGTH, query_offset=query_offset, head_dim=HEAD_DIM, dtype=dtype)
    masks = {"key_padding_mask": padding("holes"), "document_ids": documents("contiguous")}
    assert_within(position(name), case, "banded", **masks)


@pytest.mark.parametrize("name", ["nope", "rotary"])
@pytest.mark.parametrize("side", ["left", "all"])
def test_padding_in_both_directions(name, side):
    case = Case(num_queries=LENGTH, num_keys=LENGTH, head_dim=HEAD_DIM)
    assert_within(position(name), case, "banded", causal=False, key_padding_mask=padding(side))


@pytest.mark.parametrize("num_queries", [LENGTH, 1])
def test_queries_without_keys_give_zero_and_no_gradient(num_queries):
    case = Case(num_queries=num_queries, num_keys=LENGTH, query_offset=LENGTH - num_queries, head_dim=HEAD_DIM)
    q, k, v, grad = case.inputs()
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = attention(
        *leaves,
        position=position("wavelet"),
        backend="banded",
        key_padding_mask=padding("all"),
        query_offset=case.query_offset,
    )
    grads = torch.autograd.grad(out, leaves, grad)
    assert torch.count_nonzero(out[1]) == 0
    assert all(torch.count_nonzero(x[1]) == 0 for x in grads)
    assert all(torch.count_nonzero(x[0]) > 0 for x in (out, *grads))


@pytest.mark.parametrize("name", ["rotary", "wavelet", "shaw", "transformer_xl", "alibi"])
@pytest.mark.parametrize("kind", ["contiguous", "mixed"])
def test_documents_do_not_leak(name, kind):
    ids = documents(kind)
    q, k, v, _ = Case(num_queries=LENGTH, num_keys=LENGTH, head_dim=HEAD_DIM).inputs()
    inside = (ids == 2)[:, None, :, None]
    leaves = [x.requires_grad_() for x in (k, v)]

    def run(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attention(q, k, v, position=position(name), backend="banded", document_ids=ids) * inside

    out = run(*leaves)
    torch.testing.assert_close(out, run(*(torch.where(inside, x, x * 3.0 + 1.0) for x in leaves)), rtol=0.0, atol=0.0)
    for gradient in torch.autograd.grad(out.square().sum(), leaves):
        assert torch.count_nonzero(gradient * ~inside) == 0
        assert torch.count_nonzero(gradient * inside) > 0


def test_packed_documents_are_separate_calls():
    position_ = Wavelet(HEAD_DIM, scales=(1.0, 2.0))
    q, k, v, _ = Case(batch=1, num_queries=LENGTH, num_keys=LENGTH, head_dim=HEAD_DIM).inputs()
    ids = torch.cat([torch.zeros(1, 64), torch.ones(1, LENGTH - 64)], dim=1).long()
    packed = attention(q, k, v, position=position_, backend="banded", document_ids=ids)
    alone = [
        attention(*(x[:, :, part] for x in (q, k, v)), position=position_, backend="banded")
        for part in (slice(0, 64), slice(64, None))
    ]
    torch.testing.assert_close(packed, torch.cat(alone, dim=2), rtol=0.0, atol=2e-6)


def test_keys_that_documents_hide_are_not_computed():
    ids = torch.tensor([[0, 0, 0, 1, 1, 1, 4, 4], [0, 0, 1, 1, 1, 2, 2, 2]])
    keep = torch.ones(2, 8, dtype=torch.bool)
    keep[:, :2] = False

    def first_keys(offset: int = 0, **conditions: torch.Tensor) -> list[int] | None:
        return Mask(num_queries=8 - offset, num_keys=8, query_offset=offset, **conditions).first_keys()

    assert first_keys() is None
    assert first_keys(document_ids_BS=ids) == [0, 0, 0, 2, 2, 3, 5, 5]
    assert first_keys(3, document_ids_BS=ids) == [2, 2, 3, 5, 5]
    assert first_keys(document_ids_BS=ids.flip(1)) == [0] * 8
    assert first_keys(key_padding_BS=keep) == [0, 1, 2, 2, 2, 2, 2, 2]
    assert first_keys(document_ids_BS=ids, key_padding_BS=keep) == [0, 1, 2, 2, 2, 3, 5, 5]


@pytest.mark.parametrize("name", ["wavelet", "shaw", "transformer_xl", "alibi", "rotary"])
def test_many_documents_in_order(name):
    ids = (torch.rand(2, 700, generator=torch.Generator().manual_seed(1)) > 0.99).cumsum(1)
    case = Case(num_queries=700, num_keys=700, head_dim=HEAD_DIM)
    assert_within(position(name), case, "banded", document_ids=ids)


def test_a_mask_that_hides_nothing_costs_no_far_part():
    q = torch.randn(2, 4, LENGTH, HEAD_DIM)
    ones, some = torch.ones(2, LENGTH, dtype=torch.bool), padding("left")
    table = torch.randn(1, 10, HEAD_DIM)
    for keep, hidden in ((ones, False), (some, True)):
        call = _call((q, q, q, q, table, None, keep, None), 0, True, None, 0, (0.25, 0.25))
        assert (call.mask.key_padding_BS is not None) == hidden
        assert (not Band.of(call).far()) == hidden
