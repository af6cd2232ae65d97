"""Gates per key: the authors' formulas, where they start, what is refused, and configs that lack the field."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from wavepos import Cable, ForgetGate, NoPE, T5Bias, Wavelet, attention
from wavepos.ops.attention import attention_map
from wavepos.positions import parse_position, position_dict
from wavepos.runs import fingerprint, run_name
from wavepos.training.config import TrainConfig

B, H, S, D = 2, 4, 50, 16


def tensors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, H, S, D, generator=generator, dtype=torch.float64) for _ in range(3))
    logits = torch.randn(B, H, S, generator=generator, dtype=torch.float64)
    return q.to(dtype), k.to(dtype), v.to(dtype), logits.to(dtype)


def foxs(q: Tensor, k: Tensor, v: Tensor, log_fgate: Tensor) -> Tensor:
    """Forgetting attention as its authors write it: D[i,j] = Σ_{l=j+1}^{i} log f_l, one sum at a time."""
    out = torch.zeros_like(q)
    for i in range(q.shape[2]):
        decay = torch.stack([log_fgate[:, :, j + 1 : i + 1].sum(-1) for j in range(i + 1)], -1)
        scores = (q[:, :, i : i + 1] @ k[:, :, : i + 1].mT).squeeze(2) / math.sqrt(q.shape[-1]) + decay
        out[:, :, i] = (scores.softmax(-1)[:, :, None] @ v[:, :, : i + 1]).squeeze(2)
    return out


def test_the_forget_gate_is_its_authors() -> None:
    q, k, v, logits = tensors()
    position = ForgetGate(H).double()
    torch.nn.init.normal_(position.bias_H)
    gates = position.gates(logits)
    torch.testing.assert_close(gates, logsigmoid(logits + position.bias_H.detach()[:, None]))
    out = attention(q, k, v, position=position, gates=gates)
    torch.testing.assert_close(out, foxs(q, k, v, gates), rtol=1e-12, atol=1e-12)
    weights = attention_map(q, k, position=position, gates=gates)
    torch.testing.assert_close(weights @ v, out, rtol=1e-12, atol=1e-12)


def test_cable_is_its_authors_and_the_forget_gate_of_negated_logits() -> None:
    q, k, v, logits = tensors()
    gates = Cable(H).gates(logits)
    sums = (-softplus(logits)).cumsum(-1)
    scores = q @ k.mT / math.sqrt(D) + sums[..., :, None] - sums[..., None, :]
    hidden = torch.ones(S, S, dtype=torch.bool).triu(1)
    expected = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(attention(q, k, v, position=Cable(H), gates=gates), expected)
    torch.testing.assert_close(gates, ForgetGate(H).double().gates(-logits))


@pytest.mark.parametrize("gate", ["forget", "cable"])
def test_wavelets_with_a_gate_are_wavelets_beside_it(gate: str) -> None:
    q, k, v, logits = tensors()
    position = Wavelet(D, scales=(1.0, 2.0), gate=gate, num_heads=H).double()  # type: ignore[arg-type] # parametrised
    gates = position.gates(logits).detach()
    terms = position.terms(q, k, gates_BHS=gates)
    plain = Wavelet(D, scales=(1.0, 2.0)).terms(q, k)
    assert terms.gates_BHS is gates
    assert terms.table is not None
    assert plain.table is not None
    assert torch.equal(terms.table, plain.table)
    out, wavelets, alone = (
        attention(q, k, v, position=position, gates=gates),
        attention(q, k, v, position=Wavelet(D, scales=(1.0, 2.0))),
        attention(q, k, v, position=ForgetGate(H), gates=gates),
    )
    assert float((out - wavelets).abs().max()) > 1e-2
    assert float((out - alone).abs().max()) > 1e-2
    open_gates = torch.zeros_like(gates)
    torch.testing.assert_close(attention(q, k, v, position=position, gates=open_gates), wavelets)


def test_a_gate_starts_at_one_half_or_at_the_times_in_which_heads_forget() -> None:
    assert not ForgetGate(4).bias_H.any()
    position = ForgetGate(3, decay_times=(2.0, 512.0))
    times = -1.0 / position.gates(torch.zeros(1, 3, 1))
    torch.testing.assert_close(times.flatten(), torch.tensor([2.0, 32.0, 512.0]), rtol=1e-5, atol=0.0)
    with pytest.raises(ValueError, match="decay_times must be the shortest and the longest one"):
        ForgetGate(3, decay_times=(2.0,))


def test_log_gates_of_half_precision_logits_are_float32() -> None:
    logits = torch.tensor([[[-20.0, 0.0, 20.0]]], dtype=torch.bfloat16)
    for position in (ForgetGate(1).bfloat16(), Cable(1)):
        gates = position.gates(logits)
        assert gates.dtype == torch.float32
        assert bool((gates < 0.0).all())


def test_gates_that_do_not_fit_are_refused() -> None:
    q, k, v, logits = tensors(torch.float32)
    position = ForgetGate(H)
    gates = position.gates(logits).detach()
    with pytest.raises(ValueError, match=r"ForgetGate needs gates of shape .* = \(2, 4, 50\), got None"):
        attention(q, k, v, position=position)
    for other in (NoPE(), T5Bias(H), Wavelet(D, scales=(1.0, 2.0))):
        with pytest.raises(ValueError, match=rf"gates go with positions that read them .*, got {type(other).__name__}"):
            attention(q, k, v, position=other, gates=gates)
    for wrong, message in (
        (gates[:, :2], r"shape \[batch, heads, keys\] = \(2, 4, 50\), got \(2, 2, 50\)"),
        (gates[..., None], r"got \(2, 4, 50, 1\)"),
        (gates.double(), "must be of float32 or q's dtype .* got torch.float64"),
        (-gates, "finite and at most 0, got values from"),
        (torch.where(gates < -1.0, torch.nan, gates), "finite and at most 0"),
        (torch.where(gates < -1.0, -torch.inf, gates), "finite and at most 0"),
    ):
        with pytest.raises(ValueError, match=message):
            attention(q, k, v, position=position, gates=wrong)
        with pytest.raises(ValueError, match=message):
            attention_map(q, k, position=position, gates=wrong)
    with pytest.raises(ValueError, match="this Wavelet has no gate"):
        Wavelet(D, scales=(1.0, 2.0)).gates(logits)
    with pytest.raises(ValueError, match="num_heads must be given with gate, got None"):
        Wavelet(D, scales=(1.0, 2.0), gate="forget")
    with pytest.raises(ValueError, match="gate must be one of 'forget', 'cable' or None, got 'forgit': did you mean"):
        parse_position({"method": "wavelet", "gate": "forgit"})


def test_names_of_the_methods() -> None:
    assert parse_position("FoX").method == parse_position("forget-gate").method == "forget_gate"
    assert parse_position("CABLE").method == "cable"


def test_a_config_without_the_field_is_the_same_run() -> None:
    """Run directories are found by fingerprints and names: those of before there was a gate, written out."""
    old = {key: value for key, value in position_dict(parse_position("wavelet")).items() if key != "gate"}
    assert parse_position(old) == parse_position("wavelet")
    config = TrainConfig(
        corpus="stdlib", tokenizer="bpe:1000", position=old, size="tiny", seq_len=64, steps=10, batch_tokens=1024,
        learning_rate=1e-3, warmup_steps=2,
    )  # fmt: skip
    assert fingerprint(config) == FINGERPRINT
    assert run_name(config, exact=True) == f"tiny-wavelet-stdlib-0-{FINGERPRINT[:8]}"
    gated = dataclasses.replace(config, position={"method": "wavelet", "gate": "forget"})
    assert fingerprint(gated) != FINGERPRINT
    assert run_name(gated) == "tiny-wavelet-forget-stdlib-0"


FINGERPRINT = "8816a6c6a7d7199e05170e73ef56fae5dbb8dcd1a32645e0c0f169ffc04fb397"
