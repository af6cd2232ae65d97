"""Padding and documents through the banded backend: parity, rows that see nothing, and leaks."""

import importlib

import pytest
import torch
from small_positions import HEAD_DIM, POSITIONS, heads, position

from wavepos import Wavelet, attention
from wavepos.ops.banded.band import Band
from wavepos.ops.banded.operator import _call
from wavepos.ops.mask import Mask
from wavepos.testing import Case, assert_within

segments_module = importlib.import_module("wavepos.ops.banded.segments")
pytestmark = pytest.mark.usefixtures("segments")

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


def runs(**conditions: torch.Tensor) -> list[tuple[slice, slice, slice]] | None:
    mask = Mask(num_queries=8, num_keys=8, **conditions)
    found = segments_module.segments(mask)
    return None if found is None else [(x.batch, x.rows, x.keys) for x in found]


def test_segments_are_documents_and_what_padding_leaves(monkeypatch):
    monkeypatch.setattr(segments_module, "LEAST", 0)
    ids = torch.tensor([[0, 0, 0, 1, 1, 1, 4, 4], [0, 0, 0, 1, 1, 1, 4, 4], [7] * 8])
    keep = torch.tensor([[False] * 2 + [True] * 6, [True] * 5 + [False] * 3, [True] * 8])
    both, one = slice(0, 2), slice(2, 3)
    same = [slice(0, 3), slice(3, 6), slice(6, 8)]
    assert runs() is None
    assert runs(document_ids_BS=ids) == [*((both, x, x) for x in same), (one, slice(0, 8), slice(0, 8))]
    assert runs(document_ids_BS=ids.flip(1)) is None
    assert runs(key_padding_BS=keep) == [
        (slice(0, 1), slice(2, 8), slice(2, 8)),
        (slice(1, 2), slice(0, 8), slice(0, 5)),
        (one, slice(0, 8), slice(0, 8)),
    ]
    assert runs(key_padding_BS=keep, document_ids_BS=ids) == [
        (slice(0, 1), slice(2, 3), slice(2, 3)),
        *((slice(0, 1), x, x) for x in same[1:]),
        (slice(1, 2), slice(0, 3), slice(0, 3)),
        (slice(1, 2), slice(3, 6), slice(3, 5)),
        (one, slice(0, 8), slice(0, 8)),
    ]
    keep[2, 4] = False
    assert runs(key_padding_BS=keep) is None
    ids[2, 6:] = 8
    assert runs(key_padding_BS=keep, document_ids_BS=ids) is None
    keep[2, 5] = False
    assert runs(key_padding_BS=keep, document_ids_BS=ids) is not None
    monkeypatch.setattr(segments_module, "LEAST", 512)
    assert runs(document_ids_BS=ids) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 90])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", ["nope", "wavelet", "alibi", "wavelet-query-bias"])
def test_long_documents_have_a_far_part_each(name, causal, window, dtype):
    length = 500
    ids = torch.zeros(2, length, dtype=torch.int64)
    ids[0, 130:], ids[0, 300:], ids[1, 240:] = 1, 2, 5
    keep = torch.ones(2, length, dtype=torch.bool)
    keep[1, :20] = False
    case = Case(num_queries=length, num_keys=length, head_dim=HEAD_DIM, dtype=dtype)
    masks = {"document_ids": ids, "key_padding_mask": keep}
    assert_within(position(name), case, "banded", causal=causal, window=window, **masks)


@pytest.mark.parametrize(("num_queries", "offset"), [(60, 90), (60, 30), (100, 0), (100, 100)])
@pytest.mark.parametrize("side", ["left", "right", "all"])
@pytest.mark.parametrize("name", ["nope", "shaw", "wavelet"])
def test_padding_with_an_offset(name, side, num_queries, offset):
    """Also of queries behind the last key, and of rows whose every key is padding."""
    case = Case(num_queries=num_queries, num_keys=LENGTH, query_offset=offset, head_dim=HEAD_DIM)
    assert_within(position(name), case, "banded", key_padding_mask=padding(side))


def test_documents_apart_are_plain_calls():
    """No mask is left, so the far part is fused and its memory is that of one call per document."""
    length = 2048
    ids = torch.arange(2).repeat_interleave(length // 2)[None]
    mask = Mask(num_queries=length, num_keys=length, document_ids_BS=ids)
    q = torch.randn(1, 4, length, HEAD_DIM)
    call = _call((q, q, q, q, torch.randn(1, 10, HEAD_DIM), None, None, ids), 0, True, None, 0, (0.25, 0.25))
    segments = segments_module.segments(mask)
    if segments is None:
        assert not Band.of(call).far()
        return
    assert [len(Band.of(x.call(call)).far()) for x in segments] == [1, 1]


@pytest.mark.parametrize("causal", [True, False])
def test_documents_and_padding_compiled_are_eager(causal):
    torch._dynamo.reset()
    built, ids, keep = position("wavelet"), documents("contiguous"), padding("left")
    inputs = [x.requires_grad_() for x in Case(num_queries=LENGTH, num_keys=LENGTH, head_dim=HEAD_DIM).inputs()[:3]]

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        masks = {"document_ids": ids, "key_padding_mask": keep, "window": 40}
        return attention(q, k, v, position=built, causal=causal, **masks)

    outs = run(*inputs), torch.compile(run, backend="aot_eager", fullgraph=True)(*inputs)
    plain, compiled = ([x, *torch.autograd.grad(x.square().sum(), inputs)] for x in outs)
    for x, y in zip(plain, compiled, strict=True):
        torch.testing.assert_close(y, x, rtol=1e-5, atol=2e-6)
