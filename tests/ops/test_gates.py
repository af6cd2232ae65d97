"""Gates with every other term through every backend, forward and every gradient; what is left out weighs nothing."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_positions import GATED, HEAD_DIM, NUM_HEADS, OFFSETS, WIDTH, WithGates, beside, position
from torch import Tensor
from torch.nn.functional import logsigmoid

from wavepos import ALiBi, Cable, ForgetGate, attention
from wavepos.ops.attention import attention_map
from wavepos.ops.banded import far as far_module
from wavepos.ops.banded import fused_calls, gated
from wavepos.ops.banded.band import Band
from wavepos.ops.banded.operator import BANDED
from wavepos.ops.banded.prepare import prepared
from wavepos.ops.call import Call
from wavepos.ops.choice import run_backend
from wavepos.ops.gates import gate_sums
from wavepos.ops.mask import Mask
from wavepos.positions import Position, ScoreTerms
from wavepos.positions.alibi import alibi_slopes
from wavepos.testing import Case, assert_within

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BESIDE = ["nope", "wavelet", "wavelet-query-bias", "t5", "transformer_xl", "shaw", "kerple", "rotary"]


def case(length: int, **fields: Any) -> Case:
    return Case(**{"num_queries": length, "num_keys": length, "head_dim": HEAD_DIM, **fields})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("backend", ["banded", "reference"])
def test_beside_every_term(backend: Any, name: str, num_kv_heads: int, dtype: torch.dtype) -> None:
    assert_within(beside(name), case(150, num_kv_heads=num_kv_heads, dtype=dtype), backend)


@pytest.mark.parametrize("name", ["nope", "wavelet", "t5"])
@pytest.mark.parametrize("length", [31, 32, 33, 63, 64, 65, WIDTH + 31, 700])
def test_lengths_around_the_edges_of_blocks(name: str, length: int) -> None:
    assert_within(beside(name), case(length), "banded")


@pytest.mark.parametrize("name", ["nope", "wavelet"])
def test_float64(name: str) -> None:
    for backend in ("banded", "reference"):
        assert_within(beside(name), case(150, dtype=torch.float64), backend)


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize(("num_queries", "num_keys", "query_offset"), OFFSETS)
@pytest.mark.parametrize("name", ["nope", "wavelet", "t5"])
def test_offsets(name: str, num_queries: int, num_keys: int, query_offset: int, dtype: torch.dtype) -> None:
    given = Case(num_queries=num_queries, num_keys=num_keys, query_offset=query_offset, head_dim=HEAD_DIM, dtype=dtype)
    assert_within(beside(name), given, "banded")


@pytest.mark.parametrize("name", ["nope", "wavelet", "t5"])
def test_padding_and_documents(name: str) -> None:
    ids = torch.zeros(2, 150, dtype=torch.int64)
    ids[0, 70:], ids[1, 35:] = 1, 5
    keep = torch.rand(2, 150, generator=torch.Generator().manual_seed(0)) > 0.3
    for masks in ({"key_padding_mask": keep}, {"document_ids": ids}, {"key_padding_mask": keep, "document_ids": ids}):
        for backend in ("banded", "reference"):
            assert_within(beside(name), case(150), backend, **masks)


@pytest.mark.short_is_near
@pytest.mark.parametrize("name", ["nope", "wavelet"])
@pytest.mark.parametrize(("length", "dtype"), [(150, torch.float32), (700, torch.bfloat16)])
def test_short_calls(name: str, length: int, dtype: torch.dtype) -> None:
    assert_within(beside(name), case(length, dtype=dtype), "banded")


@pytest.mark.parametrize(("batch", "num_heads"), [(1, 1), (1, 4), (3, 1)])
def test_one_head_and_one_batch_row(batch: int, num_heads: int) -> None:
    assert_within(WithGates(position("nope")), case(150, batch=batch, num_heads=num_heads, num_kv_heads=1), "banded")


def constant(gate_1H1: Tensor) -> Callable[..., Call]:
    """Calls whose gate is the same for every key."""

    def made(q: Tensor, k: Tensor, v: Tensor) -> Call:
        terms = ScoreTerms(q_BHTD=q, k_BGSD=k, gates_BHS=gate_1H1)
        mask = Mask(num_queries=q.shape[2], num_keys=k.shape[2], query_offset=k.shape[2] - q.shape[2])
        return Call(terms=terms, v_BGSD=v, mask=mask, softmax_scale=0.25)

    return made


@pytest.mark.parametrize("num_queries", [1, 7, 150])
def test_one_gate_for_every_key_is_as_many_of_it(num_queries: int) -> None:
    """Also its gradient, which is the sum of theirs."""
    q, k, v, grad = case(150, num_queries=num_queries).inputs()
    gate = -torch.rand(1, NUM_HEADS, 1, generator=torch.Generator().manual_seed(2))
    results = []
    for backend in ("banded", "reference"):
        for wide in (False, True):
            leaves = [x.clone().requires_grad_() for x in (q, k, v, gate)]
            given = leaves[3].expand(2, -1, 150) if wide else leaves[3]
            out = run_backend(backend, constant(given)(*leaves[:3]))
            results.append([out, *torch.autograd.grad(out, leaves, grad)])
    for other in results[1:]:
        for ours, expected in zip(results[0], other, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)


def test_the_gradient_of_a_gate_is_what_crosses_it() -> None:
    """dL/dg_j = Σ_{n<j≤m} dS[m,n]: gate j lies between the keys before it and the queries from it on."""
    q, k, v, grad = case(40, dtype=torch.float64, num_kv_heads=4).inputs()
    gates = logsigmoid(torch.randn(2, NUM_HEADS, 40, dtype=torch.float64)).requires_grad_()
    sums = gates.cumsum(-1)
    scores = (q @ k.mT * 0.25 + sums[..., None] - sums[..., None, :]).detach().requires_grad_()
    hidden = torch.ones(40, 40, dtype=torch.bool).triu(1)
    out = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
    (dscores,) = torch.autograd.grad(out, scores, grad)
    crossing = torch.stack([dscores[..., j:, :j].sum((-1, -2)) for j in range(40)], -1)
    for backend in ("banded", "reference"):
        ours = attention(q, k, v, position=ForgetGate(NUM_HEADS), gates=gates, backend=backend)
        torch.testing.assert_close(torch.autograd.grad(ours, gates, grad)[0], crossing, rtol=1e-9, atol=1e-9)


def test_64k_keys_lose_nothing() -> None:
    """c reaches −45,000; the last query's output still has float32's rounding."""
    generator = torch.Generator().manual_seed(0)
    length = 65536
    k, v = (torch.randn(1, 1, length, 8, generator=generator) for _ in range(2))
    gates = logsigmoid(torch.randn(1, 1, length, generator=generator))
    gates[..., -300:] *= 0.01
    for queries in (1, 300):
        q = torch.randn(1, 1, queries, 8, generator=generator)
        out = attention(q, k, v, position=ForgetGate(1), gates=gates)
        wide = attention(
            q.double(), k.double(), v.double(), position=ForgetGate(1), gates=gates.double(), backend="reference"
        )
        torch.testing.assert_close(out.double(), wide, rtol=0.0, atol=2e-6)


class Counted:
    """Entries of score that fused calls of the far part compute."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scores = 0
        forward = far_module.flash_forward

        def counted(q: Tensor, k: Tensor, *rest: Any) -> Any:
            self.scores += q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
            return forward(q, k, *rest)

        monkeypatch.setattr(far_module, "flash_forward", counted)


def results(call: Call, leaves: list[Tensor], grad: Tensor) -> list[Tensor]:
    out = run_backend("banded", call)
    return [out, *torch.autograd.grad(out, leaves, grad)]


@pytest.mark.parametrize("size", [1.0, 6.0, 40.0])
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("beside_table", [False, True])
@pytest.mark.parametrize("masks", ["none", "window", "documents"])
def test_keys_that_are_left_out_weigh_nothing(
    size: float, dtype: torch.dtype, beside_table: bool, masks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys far away whose q·k is as large as it can be: q and k of one direction, and gates that just outweigh them."""
    length, generator = 1200, torch.Generator().manual_seed(0)
    direction = torch.randn(1, 1, 1, HEAD_DIM, generator=generator)
    q = size * direction + torch.randn(2, NUM_HEADS, length, HEAD_DIM, generator=generator)
    k = torch.randn(2, 2, length, HEAD_DIM, generator=generator)
    k[:, :, : length // 2] += size * direction  # far ones attract, near ones do not
    v, grad = torch.randn(k.shape, generator=generator), torch.randn(q.shape, generator=generator)
    steepness = torch.tensor([0.01, 0.2, 1.0, 4.0])[:, None]
    gates = -steepness * torch.rand(2, NUM_HEADS, length, generator=generator) * size
    leaves = [x.to(dtype).requires_grad_() for x in (q, k, v, gates)]
    inner = position("wavelet-query-bias" if beside_table else "nope")
    terms = WithGates(inner).terms(leaves[0], leaves[1], gates_BHS=leaves[3])
    ids = (torch.arange(length) >= 1150).long().expand(2, -1) if masks == "documents" else None
    window = 1000 if masks == "window" else None
    mask = Mask(num_queries=length, num_keys=length, window=window, document_ids_BS=ids)
    call = Call(terms=terms, v_BGSD=leaves[2], mask=mask, softmax_scale=0.25, factors=inner.factors)
    counted = Counted(monkeypatch)
    pruned = results(call, leaves, grad.to(dtype))
    first = counted.scores
    monkeypatch.setattr(fused_calls, "first_keys", lambda call, band: None)
    whole = results(call, leaves, grad.to(dtype))
    assert first < 0.8 * (counted.scores - first), "nothing was left out"
    eps = torch.finfo(dtype).eps
    for ours, expected in zip(pruned, whole, strict=True):
        largest = float(expected.detach().abs().max())
        torch.testing.assert_close(ours, expected, rtol=0.0, atol=4.0 * eps * largest)


def test_what_may_matter_is_kept() -> None:
    """The bound itself: no key before the first one has a weight of ε/S beside that of its query's own key."""
    length = 600
    q, k, v, _ = case(length, batch=1, num_kv_heads=4).inputs()
    gates = -1.5 * torch.rand(1, NUM_HEADS, length, generator=torch.Generator().manual_seed(3))
    terms = ScoreTerms(q_BHTD=3.0 * q, k_BGSD=3.0 * k, gates_BHS=gates)
    call = prepared(Call(terms=terms, v_BGSD=v, mask=Mask(num_queries=length, num_keys=length), softmax_scale=0.25))
    band = Band.of(call)
    assert band.block is not None
    firsts = gated.first_keys(call, band)
    assert firsts is not None
    sums = gate_sums(gates, length)
    scores = 9.0 * 0.25 * (q @ k.mT).double() + sums[..., None] - sums[..., None, :]
    own = scores.diagonal(dim1=-2, dim2=-1)[..., None]
    beside_own = (scores - own).masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf)
    limit = math.log(torch.finfo(torch.float32).eps) - math.log(length)
    left_out = 0
    for index, block in enumerate(band.blocks()):
        for head in range(NUM_HEADS):
            first = firsts[index][0][head]
            left_out += first
            assert not bool((beside_own[0, head, block, :first] > limit).any())
    assert left_out > 0


def test_gates_that_open_again_prune_nothing() -> None:
    """Log gates above 0 cannot be asked about in a compiled model; c then rises, and the bound is not one."""
    q, k, v, _ = case(200, batch=1).inputs()
    gates = -torch.ones(1, NUM_HEADS, 200)
    gates[..., 90] = 3.0
    terms = ScoreTerms(q_BHTD=q, k_BGSD=k, gates_BHS=gates)
    call = Call(terms=terms, v_BGSD=v, mask=Mask(num_queries=200, num_keys=200), softmax_scale=0.25)
    assert gated.first_keys(prepared(call), Band.of(prepared(call))) is None
    torch.testing.assert_close(BANDED.compute(call), run_backend("reference", call), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", ["q", "k"])
def test_a_nan_far_away_is_not_left_out(bad: str) -> None:
    q, k, v, _ = case(200, batch=1).inputs()
    {"q": q, "k": k}[bad][:, :, 3] = torch.nan
    gates = Cable(NUM_HEADS).gates(torch.full((1, NUM_HEADS, 200), -3.0))
    outs = [
        attention(q, k, v, position=Cable(NUM_HEADS), gates=gates, backend=backend).isnan()
        for backend in ("banded", "reference")
    ]
    assert bool(outs[0][:, :, 3].all())
    assert torch.equal(outs[0][:, :, 3:], outs[1][:, :, 3:])


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("backend", ["auto", "banded", "reference", "triton", "map"])
def test_gates_are_of_causal_attention(name: str, backend: Any) -> None:
    built, drawn = position(name), case(30)
    q, k, v, _ = drawn.inputs()
    message = (
        f"position {type(built).__name__} reads gates, which are summed over the keys behind a query: causal=False"
    )
    arguments: dict[str, Any] = {"position": built, "causal": False, "gates": drawn.gates(built)}
    with pytest.raises(ValueError, match=message):
        attention_map(q, k, **arguments) if backend == "map" else attention(q, k, v, backend=backend, **arguments)
    with pytest.raises(ValueError, match=message):
        built.terms_both_ways(q, k)


@pytest.mark.parametrize("backend", ["banded", "reference", "triton", "weights", "slots"])
def test_a_users_gates_in_both_directions_are_refused_by_every_backend(backend: str) -> None:
    q, k, v, _ = case(30).inputs()
    terms = ScoreTerms(q_BHTD=q, k_BGSD=k, gates_BHS=-torch.ones(1, NUM_HEADS, 1))
    offset = torch.tensor(0) if backend == "slots" else None
    mask = Mask(num_queries=30, num_keys=30, causal=False)
    call = Call(terms=terms, v_BGSD=v, mask=mask, softmax_scale=0.25, device_offset=offset)
    with pytest.raises(ValueError, match="serves gates with causal=True only: they are summed over the keys behind a"):
        run_backend(backend, call)


@pytest.mark.parametrize("window", [None, 9, 50])
def test_alibi_of_both_directions_says_of_keys_behind_what_the_gate_says(window: int | None, far: str) -> None:
    """All keys lie at or behind the first query."""
    q, k, v, _ = case(60, num_keys=40).inputs()
    arguments: dict[str, Any] = {"position": ALiBi(NUM_HEADS), "query_offset": 39, "window": window}
    ways = [attention(q, k, v, causal=causal, **arguments) for causal in (True, False)]
    torch.testing.assert_close(*ways, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["nope", "wavelet", "t5"])
@pytest.mark.parametrize("window", [33, WIDTH + 70, 130])
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_windows_with_documents_and_padding(
    name: str, window: int, dtype: torch.dtype, far: str, segments: str
) -> None:
    """Several blocks of queries in a document, windows that cut their far part, padding at both ends of a row."""
    ids, keep = torch.zeros(2, 300, dtype=torch.int64), torch.ones(2, 300, dtype=torch.bool)
    ids[0, 90:], ids[1, 201:] = 3, 8
    keep[0, :21], keep[1, 280:] = False, False
    for masks in ({"key_padding_mask": keep}, {"document_ids": ids}, {"key_padding_mask": keep, "document_ids": ids}):
        assert_within(beside(name), case(300, dtype=dtype), "banded", window=window, **masks)


class OldALiBi(Position):
    """ALiBi as a bias over displacements, which it was before it became a gate."""

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        slopes = torch.tensor(alibi_slopes(q_BHTD.shape[1]), dtype=torch.float64)
        displacement = torch.arange(q_offset + q_BHTD.shape[2], dtype=torch.float64)
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, bias_HR=(-slopes[:, None] * displacement).float())

    def reset_parameters(self) -> None:
        return None


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
@pytest.mark.parametrize("num_heads", [4, 12])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 300), (300, 300), (40, 300)])
def test_alibi_is_a_gate_a_bias_and_gates_of_a_forget_gate(
    num_queries: int, num_keys: int, num_heads: int, dtype: torch.dtype
) -> None:
    given = case(num_queries, num_keys=num_keys, num_heads=num_heads, num_kv_heads=num_heads // 2, dtype=dtype)
    inputs = given.inputs()[:3]
    slopes = torch.tensor(alibi_slopes(num_heads))[:, None]
    forget, gates = ForgetGate(num_heads), (-slopes).expand(2, -1, num_keys)
    for backend in ("banded", "reference"):
        ours = attention(*inputs, position=ALiBi(num_heads), backend=backend)
        before = attention(*inputs, position=OldALiBi(), backend=backend)
        forgotten = attention(*inputs, position=forget, gates=gates, backend=backend)
        eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)  # the bias was float32 in float64 calls too
        torch.testing.assert_close(ours, before, rtol=0.0, atol=8.0 * eps)
        torch.testing.assert_close(ours, forgotten, rtol=0.0, atol=8.0 * eps)
