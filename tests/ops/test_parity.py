"""Every position through every backend, forward and backward, held to the yardstick."""

import pytest
import torch
from small_positions import HEAD_DIM, OFFSETS, POSITIONS, WIDTH, heads, position, read

from wavepos import Wavelet, attention
from wavepos.testing import Case, assert_within

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("length", sorted({1, 63, 111, WIDTH - 1, WIDTH, WIDTH + 1, 2 * WIDTH + 5}))
@pytest.mark.parametrize("name", POSITIONS)
def test_lengths(name, length):
    case = Case(num_heads=heads(name), num_queries=length, num_keys=length, head_dim=HEAD_DIM)
    assert_within(position(name), case, "banded")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("name", POSITIONS)
def test_grouped_heads_and_dtypes(name, num_kv_heads, dtype):
    case = Case(
        num_heads=heads(name),
        num_kv_heads=num_kv_heads,
        num_queries=150,
        num_keys=150,
        head_dim=HEAD_DIM,
        dtype=dtype,
    )
    assert_within(position(name), case, "banded")


@pytest.mark.parametrize(("num_queries", "num_keys", "query_offset"), OFFSETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", POSITIONS)
def test_offsets(name, dtype, num_queries, num_keys, query_offset):
    case = Case(
        num_heads=heads(name),
        num_queries=num_queries,
        num_keys=num_keys,
        query_offset=query_offset,
        head_dim=HEAD_DIM,
        dtype=dtype,
    )
    assert_within(position(name), case, "banded")


@pytest.mark.parametrize(("num_queries", "num_keys"), [(90, 90), (1, 90)])
@pytest.mark.parametrize("name", [name for name in POSITIONS if name != "alibi-12"])
def test_float64(name, num_queries, num_keys):
    case = Case(
        num_heads=heads(name),
        num_queries=num_queries,
        num_keys=num_keys,
        query_offset=num_keys - num_queries,
        head_dim=HEAD_DIM,
        dtype=torch.float64,
    )
    assert_within(position(name), case, "banded")


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", ["nope", "rotary"])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(40, 40), (40, 70), (1, 70)])
def test_both_directions_without_a_table(name, causal, num_queries, num_keys):
    case = Case(num_queries=num_queries, num_keys=num_keys, head_dim=HEAD_DIM)
    assert_within(position(name), case, "banded", causal=causal)


@pytest.mark.parametrize(
    ("length", "dtype"),
    [(length, dtype) for length in (300, 900, 1300) for dtype in (torch.float32, torch.bfloat16)]
    + [(900, torch.float16)],
)
def test_the_papers_grid(length, dtype):
    case = Case(batch=1, num_heads=2, num_kv_heads=1, num_queries=length, num_keys=length, head_dim=128, dtype=dtype)
    assert_within(Wavelet(128), case, "banded")


@pytest.mark.parametrize("name", ["wavelet", "t5", "learned_relative"])
def test_a_softmax_scale_of_ones_own(name):
    assert_within(position(name), Case(head_dim=HEAD_DIM, num_queries=80, num_keys=80), "banded", softmax_scale=0.4)


@pytest.mark.parametrize("name", ["wavelet", "shaw", "transformer_xl"])
def test_many_heads_and_batch_rows_at_once(name):
    case = Case(batch=9, num_queries=300, num_keys=300, head_dim=HEAD_DIM)
    assert_within(position(name), case, "banded")


@pytest.mark.parametrize("name", POSITIONS)
def test_transposed_inputs(name):
    """[B,T,H,D] turned to [B,H,T,D], as models hold it."""
    built, (q, k, v, grad) = position(name), Case(num_heads=heads(name), head_dim=HEAD_DIM).inputs()
    given = read(built, Case(num_heads=heads(name), head_dim=HEAD_DIM))
    results = []
    for turn in (lambda x: x, lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)):
        inputs = [turn(x.clone()).requires_grad_() for x in (q, k, v)]
        out = attention(*inputs, position=built, backend="banded", **given)
        results.append([out, *torch.autograd.grad(out, inputs, turn(grad))])
    for plain, turned in zip(*results, strict=True):
        torch.testing.assert_close(plain, turned, rtol=0.0, atol=1e-6)


@pytest.mark.short_is_near
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])  # bfloat16 has a far part at every length
@pytest.mark.parametrize(("num_queries", "query_offset"), [(150, 0), (70, 130)])
@pytest.mark.parametrize("name", POSITIONS)
def test_short_calls_that_are_all_near(name, num_queries, query_offset, dtype):
    case = Case(
        num_heads=heads(name),
        num_queries=num_queries,
        num_keys=query_offset + num_queries,
        query_offset=query_offset,
        head_dim=HEAD_DIM,
        dtype=dtype,
    )
    assert_within(position(name), case, "banded")
