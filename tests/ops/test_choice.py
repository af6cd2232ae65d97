"""The rule of "auto": the fused kernel on a GPU that has proven it, then banded, then the reference."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from wavepos import ALiBi, NoPE, T5Bias, TransformerXLRelative, Wavelet, attention
from wavepos.ops import choice
from wavepos.ops.call import Call
from wavepos.ops.choice import IMPLEMENTATIONS, choose
from wavepos.ops.mask import Mask
from wavepos.positions import Position, ScoreTerms

pytest.importorskip("triton", reason="triton is not installed")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WAVELET = Wavelet(64, scales=(1.0, 2.0))


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a GPU; the kernel runs under Triton's interpreter where there is none."""
    monkeypatch.setattr(choice, "_on_gpu", lambda q: True)
    choice._prove.cache_clear()
    yield
    choice._prove.cache_clear()


class Gated(Position):
    """A gate of its own for every key."""

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, gates_BHS=-k_BGSD[..., 0].abs())

    def reset_parameters(self) -> None:
        return None


def chosen(position: Position, queries: int = 20, backend: Any = "auto", dropout: float = 0.0, **mask: Any) -> str:
    q = torch.randn(1, 2, queries, 64, device=DEVICE)
    k = torch.randn(1, 2, mask.get("query_offset", 0) + queries, 64, device=DEVICE)
    terms = position.terms(q, k, q_offset=mask.get("query_offset", 0))
    call = Mask(num_queries=queries, num_keys=k.shape[2], **mask)
    found = choose(backend, Call(terms=terms, v_BGSD=k, mask=call, softmax_scale=0.125, dropout=dropout))
    return next(name for name, implementation in IMPLEMENTATIONS.items() if implementation is found)


def test_a_cpu_takes_banded_and_the_reference_for_dropout() -> None:
    if DEVICE.type == "cuda":
        pytest.skip("this is what a CPU takes")
    assert chosen(WAVELET) == "banded"
    assert chosen(WAVELET, dropout=0.1) == "reference"


@pytest.mark.usefixtures("on_gpu")
def test_a_gpu_takes_the_kernel_where_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "proven", lambda *_: True)
    assert chosen(WAVELET) == "triton"
    assert chosen(T5Bias(2, num_buckets=8, max_distance=9)) == "triton"
    assert chosen(ALiBi(2)) == "triton"
    assert chosen(Gated()) == "triton"
    assert chosen(WAVELET, window=7) == "triton"
    assert chosen(WAVELET, causal=False) == "triton"
    assert chosen(NoPE()) == "banded"
    assert chosen(WAVELET, queries=1, query_offset=40) == "banded"
    assert chosen(TransformerXLRelative(64, 2)) == "banded"
    padding = torch.ones(1, 20, dtype=torch.bool, device=DEVICE)
    assert chosen(WAVELET, key_padding_BS=padding) == "banded"
    assert chosen(WAVELET, dropout=0.1) == "reference"
    assert chosen(WAVELET, backend="banded") == "banded"


@pytest.mark.usefixtures("on_gpu")
def test_without_triton_a_gpu_takes_banded(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(call: Call) -> str:
        raise ImportError("backend='triton' needs the package triton: pip install triton")

    monkeypatch.setitem(IMPLEMENTATIONS, "triton", replace(IMPLEMENTATIONS["triton"], limits=missing))
    assert chosen(WAVELET) == "banded"


@pytest.mark.usefixtures("on_gpu")
def test_the_kernel_proves_itself_once_and_is_then_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "PROOF_LENGTH", 75)
    monkeypatch.setattr(choice, "PROOF_TABLE", 33)
    generator_state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choice.proven("triton", DEVICE, torch.float32, 64, False, False, True)
        assert choice.proven("triton", DEVICE, torch.float32, 64, True, True, True)
        assert choice.proven("triton", DEVICE, torch.float32, 64, False, False, False)
    assert torch.equal(torch.get_rng_state(), generator_state)
    monkeypatch.setattr(choice, "_proof", None)  # asked no second time
    assert chosen(WAVELET) == "triton"


@pytest.mark.usefixtures("on_gpu")
def test_what_is_compiled_apart_is_proven_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bool, ...]] = []
    monkeypatch.setattr(choice, "proven", lambda *given: not asked.append(given[-3:]))
    for position, mask in ((WAVELET, {}), (Gated(), {"window": 7}), (WAVELET, {"causal": False})):
        chosen(position, **mask)
    assert asked == [(False, False, True), (True, True, True), (False, False, False)]  # gated, windowed, causal


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("fault", ["wrong", "nan", "fails"])
def test_a_kernel_that_is_off_is_not_taken_and_said_so(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "PROOF_LENGTH", 75)
    monkeypatch.setattr(choice, "PROOF_TABLE", 33)
    real = IMPLEMENTATIONS["triton"]

    def faulty(call: Call) -> Tensor:
        if fault == "fails":
            raise RuntimeError("out of resource: shared memory")
        out = real.compute(call)
        return out + (torch.nan if fault == "nan" else 0.01 * call.v_BGSD.repeat_interleave(2, 1))

    monkeypatch.setitem(IMPLEMENTATIONS, "triton", replace(real, compute=faulty))
    message = "shared memory" if fault == "fails" else "it is off by"
    with pytest.warns(RuntimeWarning, match=f"does not work on {DEVICE} .*{message}.* takes 'banded'"):
        assert chosen(WAVELET) == "banded"
    assert chosen(WAVELET) == "banded"  # the warning came once


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("fault", ["wrong", "fails"])
def test_banded_that_is_off_on_a_gpu_is_not_taken_and_said_so(
    fault: str, gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "PROOF_LENGTH", 75)
    monkeypatch.setattr(choice, "PROOF_TABLE", 33)
    real = IMPLEMENTATIONS["banded"]

    def faulty(call: Call) -> Tensor:
        if fault == "fails":
            raise RuntimeError("no kernel image is available")
        return real.compute(call) * 1.001

    monkeypatch.setitem(IMPLEMENTATIONS, "banded", replace(real, compute=faulty))
    monkeypatch.setitem(IMPLEMENTATIONS, "triton", replace(IMPLEMENTATIONS["triton"], limits=lambda call: "off"))
    q = torch.randn(1, 2, 20, 64, device=DEVICE)
    gates = -torch.rand(1, 2, 20, device=DEVICE) if gated else None
    terms = replace(WAVELET.terms(q, q), gates_BHS=gates)
    call = Call(terms=terms, v_BGSD=q, mask=Mask(num_queries=20, num_keys=20), softmax_scale=0.125)
    message = "no kernel image" if fault == "fails" else "it is off by 0.001"
    with pytest.warns(RuntimeWarning, match=f"backend='banded' does not work on {DEVICE} .*{message}.*dense reference"):
        assert choose("auto", call) is IMPLEMENTATIONS["reference"]
    assert choose("auto", call) is IMPLEMENTATIONS["reference"]  # the warning came once
    monkeypatch.setattr(choice, "DENSE_LIMIT", 100)
    with pytest.raises(ValueError, match=r"'banded' does not work on .* takes the dense reference up to 100 scores"):
        choose("auto", call)
    assert choose("banded", call) is IMPLEMENTATIONS["banded"]  # who names it gets it


@pytest.mark.usefixtures("on_gpu")
def test_banded_proves_itself_with_and_without_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for gated in (False, True):
                assert choice.proven("banded", DEVICE, dtype, 64, gated, False, True)


@pytest.mark.usefixtures("on_gpu")
def test_the_choice_traces_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "PROOF_LENGTH", 75)
    monkeypatch.setattr(choice, "PROOF_TABLE", 33)
    torch.compiler.reset()
    q, k = torch.randn(1, 2, 40, 64, device=DEVICE), torch.randn(1, 2, 40, 64, device=DEVICE)
    call = torch.compile(lambda: attention(q, k, k, position=WAVELET), fullgraph=True, backend="eager")
    expected = attention(q, k, k, position=WAVELET, backend="reference")
    torch.testing.assert_close(call(), expected, atol=1e-5, rtol=1e-4)
