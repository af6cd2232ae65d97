"""Calls at the edge of what numbers and sizes allow: right beside the reference in float64, and the same every time."""

import gc
from typing import Any

import pytest
import torch
from small_positions import position, read
from torch import Tensor

from wavepos import ALiBi, NoPE, Rotary, ShawRelative, T5Bias, TransformerXLRelative, Wavelet, attention
from wavepos.positions import Position
from wavepos.positions.rotary_scaling import DynamicNTKScaling
from wavepos.testing import Case, assert_within

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
PATHS: list[Any] = ["banded", "reference", "slots"]


def attend(path: Any, q: Tensor, k: Tensor, v: Tensor, built: Position, offset: int, **arguments: Any) -> Tensor:
    if path == "slots":
        return attention(q, k, v, position=built, query_offset=torch.tensor(offset), **arguments)
    return attention(q, k, v, position=built, backend=path, query_offset=offset, **arguments)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["nope", "alibi", "t5", "wavelet"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_of_ten_thousand(dtype: torch.dtype, name: str, path: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (2, 4, 40, 16), generator=generator) * 2.0 - 1.0
    q, k = (signs[i : i + 1].roll(i, 2).mul(50.0).to(dtype).requires_grad_() for i in range(2))  # q·k up to ±40,000
    v = torch.randn(1, 4, 40, 16, generator=generator).to(dtype)
    built = position(name)
    out = attend(path, q, k, v, built, 0)
    truth = attend("reference", q.detach().double(), k.detach().double(), v.double(), built, 0)
    wide = torch.promote_types(dtype, torch.float32)  # a score of 10,000 is off by its own rounding
    bound = 16 * torch.finfo(dtype).eps + 4 * 10_000 * torch.finfo(wide).eps
    assert (out.double() - truth).abs().max() <= bound * v.abs().max()
    for grad in torch.autograd.grad(out.float().sum(), (q, k)):
        assert grad.isfinite().all()


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("num_queries", [1, 3])
@pytest.mark.parametrize("name", ["nope", "alibi", "t5", "kerple", "wavelet"])
def test_a_tensor_offset_in_float64(name: str, num_queries: int, window: int | None) -> None:
    q, k, v, _ = Case(num_queries=num_queries, num_keys=9, dtype=torch.float64).inputs()
    keep = torch.tensor([[False] * 9, [False, *[True] * 8]])  # the first row's queries see no key
    arguments = {"key_padding_mask": keep, "window": window}
    found, truth = (attend(path, q, k, v, position(name), 5, **arguments) for path in ("slots", "reference"))
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)
    assert not found[0].any()


@pytest.mark.parametrize("head_dim", [1, 3, 7, 65, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_of_any_size(head_dim: int, dtype: torch.dtype) -> None:
    wavelet = Wavelet(head_dim, scales=(1.0,), shifts=range(head_dim))
    for built in (NoPE(), ALiBi(4), T5Bias(4, num_buckets=8, max_distance=20), ShawRelative(head_dim, 9), wavelet):
        for path in ("banded", "reference"):
            assert_within(built, Case(head_dim=head_dim, dtype=dtype, num_queries=33, num_keys=33, batch=1), path)


@pytest.mark.parametrize("path", ["banded", "reference"])
@pytest.mark.parametrize("name", ["nope", "rotary", "alibi", "t5", "wavelet", "forget_gate"])
def test_a_document_per_token_gives_each_its_own_value(name: str, path: Any) -> None:
    case, built = Case(num_queries=50, num_keys=50), position(name)
    q, k, v, _ = case.inputs()
    ids = torch.arange(50).expand(2, -1)
    out = attention(q, k, v, position=built, backend=path, document_ids=ids, **read(built, case))
    assert torch.equal(out, v.repeat_interleave(2, 1))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_a_million_tokens_on(dtype: torch.dtype, path: Any) -> None:
    num_keys = 1_000_000
    k, v = torch.randn(2, 1, 1, num_keys, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    q = k[:, :, -1:]
    for built in (NoPE(), ALiBi(1), T5Bias(1), ShawRelative(2, 64), Wavelet(2, scales=(1.0, 2.0)), Rotary(2)):
        if path == "slots" and built.rotates:
            continue
        out = attend(path, q, k, v, built, num_keys - 1)
        truth = attend("reference", q.double(), k.double(), v.double(), built, num_keys - 1)
        assert (out.double() - truth).abs().max() <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["nope", "rotary", "alibi", "t5", "wavelet", "wavelet-forget"])
def test_the_same_call_gives_the_same_bits(name: str, dtype: torch.dtype) -> None:
    case, built = Case(num_queries=300, num_keys=300, dtype=dtype), position(name)
    q, k, v, grad = (x.requires_grad_() for x in case.inputs())
    leaves = [q, k, v, *built.parameters()]

    def call() -> list[Tensor]:
        out = attention(q, k, v, position=built, backend="banded", **read(built, case))
        found = torch.autograd.grad(out, leaves, grad.detach(), allow_unused=True)
        return [out, *(x for x in found if x is not None)]

    for first, second in zip(call(), call(), strict=True):
        assert torch.equal(first, second)


def held_bytes() -> int:
    gc.collect()
    storages = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in gc.get_objects() if type(x) is Tensor
    }
    return sum(storages.values())


def test_a_thousand_calls_of_growing_length_hold_no_more_than_a_few_of_the_longest() -> None:
    scaling = DynamicNTKScaling(factor=2.0, max_position_embeddings=32)
    positions = Rotary(16, scaling=scaling), Wavelet(16), TransformerXLRelative(16, 2)
    for built in positions:
        before = held_bytes()
        for length in range(1, 1001):
            x = torch.zeros(1, 2, 1, 16)
            attention(x, x.expand(-1, -1, length, -1), x.expand(-1, -1, length, -1), position=built)
        assert held_bytes() - before <= 8 * 1000 * 16 * 4
