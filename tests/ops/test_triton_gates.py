"""The fused kernel with a gate per key, beside every term, held to the yardstick; gradients of the gates too."""

from typing import Any

import pytest
import torch
from kernel_cases import DEVICE, DTYPES, LONG, POSITIONS, case
from small_positions import WithGates
from torch import Tensor

from wavepos import ALiBi, Cable, ForgetGate, NoPE, Wavelet, attention, testing
from wavepos.ops.call import Call
from wavepos.ops.choice import run_backend
from wavepos.ops.mask import Mask
from wavepos.positions import ScoreTerms

pytest.importorskip("triton", reason="triton is not installed")

BESIDE = ["nope", "t5", "shaw", "wavelet_biased", "projected_wide"]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in BESIDE] + [(name, d) for name in BESIDE[:4:3] for d in DTYPES[1:]],
)
def test_beside_every_term(name: str, dtype: torch.dtype, poisoned: list[int]) -> None:
    testing.assert_within(WithGates(POSITIONS[name]()), case(LONG, dtype=dtype), "triton")
    assert len(poisoned) >= 8  # also the sums of the gradient of the scores, by query and by key


@pytest.mark.parametrize("name", ["forget_gate", "cable", "wavelet"])
def test_positions_of_our_own(name: str) -> None:
    made = {
        "forget_gate": lambda: ForgetGate(2),
        "cable": lambda: Cable(2),
        "wavelet": lambda: Wavelet(64, scales=(1, 2), gate="forget", num_heads=2),
    }
    testing.assert_within(made[name](), case(80, batch=2), "triton")


@pytest.mark.parametrize(
    ("num_queries", "num_keys", "offset"), [(1, 110, 109), (33, 111, 40), (40, 60, 100), (40, 111, 13)]
)
@pytest.mark.parametrize("name", ["nope", "wavelet_biased"])
def test_offsets(name: str, num_queries: int, num_keys: int, offset: int, poisoned: list[int]) -> None:
    shape = case(num_queries, num_keys, query_offset=offset)
    testing.assert_within(WithGates(POSITIONS[name]()), shape, "triton")


@pytest.mark.parametrize("num_heads, num_kv_heads", [(4, 2), (3, 1)])
def test_grouped_queries_and_batches(num_heads: int, num_kv_heads: int) -> None:
    shape = case(50, batch=2, num_heads=num_heads, num_kv_heads=num_kv_heads)
    testing.assert_within(WithGates(POSITIONS["shaw"]()), shape, "triton")


@pytest.mark.parametrize("window", [7, 40])
@pytest.mark.parametrize("name", ["nope", "shaw"])
def test_windows(name: str, window: int, poisoned: list[int]) -> None:
    testing.assert_within(WithGates(POSITIONS[name]()), case(100), "triton", window=window)


def test_windows_that_some_queries_see_no_key_in() -> None:
    shape = case(40, 30, query_offset=20)
    testing.assert_within(WithGates(NoPE()), shape, "triton", window=3)


def test_documents() -> None:
    place = torch.arange(100, device=DEVICE)
    for ids in ((place >= 50).long() + (place >= 65).long(), place // 7 % 3):
        testing.assert_within(WithGates(POSITIONS["shaw"]()), case(100), "triton", document_ids=ids[None])


def test_one_gate_for_every_key_is_that_gate_at_every_key() -> None:
    q, k, v, grad = case(70).inputs()

    def run(gates: Tensor) -> list[Tensor]:
        gates = gates.to(DEVICE).requires_grad_()
        terms = ScoreTerms(q_BHTD=q, k_BGSD=k, gates_BHS=gates)
        call = Call(terms=terms, v_BGSD=v, mask=Mask(num_queries=70, num_keys=70), softmax_scale=0.125)
        out = run_backend("triton", call)
        return [out, *torch.autograd.grad(out, gates, grad)]

    slopes = torch.tensor([-0.3, -0.02])[None, :, None]
    one, many = run(slopes), run(slopes.expand(-1, -1, 70).clone())
    torch.testing.assert_close(one[0], many[0])
    torch.testing.assert_close(one[1], many[1][..., 1:].sum(-1, keepdim=True))  # no pair of keys crosses the first gate
    torch.testing.assert_close(
        one[0], attention(q, k, v, position=_Slopes(), backend="reference"), rtol=1e-4, atol=1e-5
    )


class _Slopes(ALiBi):
    """ALiBi with slopes of its own."""

    def __init__(self) -> None:
        super().__init__(2)

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        slopes = torch.tensor([-0.3, -0.02], device=q_BHTD.device)[None, :, None]
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, gates_BHS=slopes)


@pytest.mark.parametrize("gate", [-1e-4, -3.0])
def test_a_long_history_loses_nothing(gate: float) -> None:
    """c has grown to 200,000 before the first query, as after 64k keys: float32 holds it to 0.008 there."""
    length, rows = 2048, 40
    shape: dict[str, Any] = {"batch": 1, "num_heads": 1, "num_kv_heads": 1}
    q, k, v, grad = (x.double() for x in case(rows, rows, **shape).inputs())
    generator = torch.Generator().manual_seed(0)
    gates = gate * (0.5 + torch.rand(1, 1, rows, generator=generator, dtype=torch.float64)).to(DEVICE)
    # keys before them weigh nothing: a document of their own, whose gates count all the same
    before = torch.full((1, 1, length - rows), -100.0, dtype=torch.float64, device=DEVICE)
    ids = (torch.arange(length, device=DEVICE) >= length - rows).long()[None]

    def run(dtype: torch.dtype, backend: str, whole: bool) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v, gates)]
        keys, values, all_gates, offset, documents = leaves[1], leaves[2], leaves[3], 0, None
        if whole:
            empty = torch.zeros(1, 1, length - rows, 64, dtype=dtype, device=DEVICE)
            keys, values = (torch.cat([empty, x], 2) for x in (keys, values))
            all_gates, offset, documents = torch.cat([before.to(dtype), all_gates], 2), length - rows, ids
        mask = Mask(num_queries=rows, num_keys=keys.shape[2], query_offset=offset, document_ids_BS=documents)
        terms = ScoreTerms(q_BHTD=leaves[0], k_BGSD=keys, gates_BHS=all_gates)
        out = run_backend(backend, Call(terms=terms, v_BGSD=values, mask=mask, softmax_scale=0.125))
        return [out, *torch.autograd.grad(out, leaves, grad.to(dtype))]

    truth, found = run(torch.float64, "reference", False), run(torch.float32, "triton", True)
    for x, expected in zip(found, (y.detach() for y in truth), strict=True):
        torch.testing.assert_close(x.double(), expected, rtol=0.0, atol=float(2e-6 * expected.abs().max()))


def test_same_bits_twice() -> None:
    def run() -> list[Tensor]:
        position, shape = WithGates(POSITIONS["shaw"]()).to(DEVICE), case(60)
        q, k, v, grad = shape.inputs()
        gates = shape.gates(position)
        assert gates is not None
        leaves = [x.requires_grad_() for x in (q, k, v, gates)]
        out = attention(q, k, v, position=position, backend="triton", gates=gates)
        return [out, *torch.autograd.grad(out, leaves, grad)]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)
