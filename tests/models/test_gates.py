"""Gates in models: projected, rounded and cached with the keys, for the two families and every cache."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from small_llama import tokens
from small_models import small
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

from wavepos.models import from_llama
from wavepos.models.loading import load_model
from wavepos.models.projections import Projected, RelativeProjection, updated
from wavepos.positions.terms import ReadsGates

GATED = ["forget_gate", "cable", {"method": "wavelet", "gate": "forget", "query_bias": "recency"}]
FAMILIES = ["llama", "baevski-auli"]


def noisy(model: Any) -> Any:
    """Gates that matter: projections and f away from where they start."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "position" in name or "r_proj" in name or "relative" in name:
            nn.init.normal_(parameter, mean=0.3, std=0.3)
    return model


@pytest.mark.parametrize("position", GATED, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_equals_uncached(family: str, position: str | dict) -> None:
    model, x = noisy(small(family, position)), tokens()
    with torch.no_grad():
        whole = model(x, use_cache=False).logits
        for pieces in ([1] * 48, [20, 7, 1, 20]):
            cache = DynamicCache(config=model.config)
            read = torch.cat([model(piece, past_key_values=cache).logits for piece in x.split(pieces, 1)], 1)
            torch.testing.assert_close(read, whole, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gates_are_rounded_before_they_are_cached(dtype: torch.dtype) -> None:
    """What a cache gives back is bit for bit what is read without one, whatever the dtype."""
    model = noisy(small("llama", "forget_gate")).to(dtype)
    attention = model.model.layers[0].self_attn
    hidden = torch.randn(2, 48, 64, dtype=dtype)
    _, gates = Projected.of(attention.r_proj, attention.position, hidden, 4)
    assert gates is not None
    assert gates.dtype == dtype
    k, v = (torch.randn(2, 2, 48, 16, dtype=dtype) for _ in range(2))
    cache = StaticCache(config=model.config, max_cache_len=64)
    for start, end in ((0, 30), (30, 31), (31, 48)):
        kept = updated(cache, k[:, :, start:end], v[:, :, start:end], gates[:, :, start:end], 0)
    for given, found in zip((k, v, gates), kept, strict=True):
        assert found is not None
        assert torch.equal(found[:, :, :48], given)
    assert kept[0].stride(-1) == 1
    assert kept[0].stride(-2) % 8 == 0, "kernels read rows that begin at multiples of 16 bytes"


@pytest.mark.parametrize("position", GATED, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_of_a_gated_model_learns(family: str, position: str | dict) -> None:
    model, x = small(family, position).train(), tokens(4, 40)
    model(input_ids=x, labels=x).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("position", GATED, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_reads_the_same(family: str, position: str | dict, tmp_path: Path) -> None:
    model, x = noisy(small(family, position)), tokens()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config.position == model.config.position
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=x).logits, model(input_ids=x).logits)


def test_a_llama_becomes_a_forgetting_one() -> None:
    """Its weights are taken over; the gate's projection and f hold their starting values and learn."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=97, num_key_value_heads=2, **sizes))
    model, x = from_llama(llama, position={"method": "fox", "decay_times": [2.0, 512.0]}), tokens()
    assert model.config.position == {"method": "forget_gate", "decay_times": (2.0, 512.0)}
    attention = model.model.layers[1].self_attn
    assert torch.equal(attention.q_proj.weight, llama.model.layers[1].self_attn.q_proj.weight)
    times = -1.0 / attention.position.gates(torch.zeros(1, 4, 1)).flatten()
    torch.testing.assert_close(times[[0, -1]], torch.tensor([2.0, 512.0]), rtol=1e-4, atol=0.0)
    model.train()(input_ids=x, labels=x).loss.backward()
    assert attention.r_proj.weight.grad.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_past_is_forgotten_and_the_gate_says_how_much(family: str) -> None:
    """With gates shut, every token sees itself alone: what stands before it does not matter."""
    model, x = small(family, "forget_gate"), tokens()
    for module in model.modules():
        if isinstance(module, ReadsGates):
            nn.init.constant_(module.bias_H, -200.0)  # type: ignore[arg-type] # a parameter
    other = torch.cat([x[:, :20].flip(1), x[:, 20:]], 1)
    with torch.no_grad():
        torch.testing.assert_close(model(other).logits[:, 20:], model(x).logits[:, 20:], atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_projection_to_gates_has_one_row_per_head_and_no_bias(family: str) -> None:
    found = [module for module in small(family, "forget_gate").modules() if isinstance(module, RelativeProjection)]
    assert [(tuple(module.weight.shape), module.bias) for module in found] == [((4, 64), None)] * 2
    plain = [module for module in small(family, "wavelet").modules() if isinstance(module, RelativeProjection)]
    assert plain == []


@pytest.mark.parametrize("position", GATED, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_by_bands_and_blocks_are_the_dense_ones(
    family: str, position: str | dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of projections and f too, with a far part."""
    band = importlib.import_module("wavepos.ops.banded.band")
    monkeypatch.setattr(band, "SHORT", 0)
    monkeypatch.setattr(band, "GATED_BLOCK", 32)
    model, x = noisy(small(family, position)), tokens(2, 200)
    results = []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        loss = model(input_ids=x, labels=x, use_cache=False).loss
        results.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    for (name, _), ours, dense in zip([("loss", None), *model.named_parameters()], *results, strict=True):
        largest = float(dense.abs().max())
        torch.testing.assert_close(
            ours, dense, rtol=0.0, atol=2e-5 * largest, msg=lambda text, at=name: f"{at}: {text}"
        )


def test_gates_of_huge_logits_stay_finite_in_float16() -> None:
    model = small("llama", "forget_gate").half()
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        attention.r_proj.weight.fill_(1000.0)
        attention.position.bias_H.fill_(-60000.0)
    _, gates = Projected.of(attention.r_proj, attention.position, torch.full((1, 3, 64), -1.0).half(), 4)
    assert gates is not None
    assert bool(gates.isfinite().all())


def test_a_compiled_model_is_the_eager_one() -> None:
    torch.compiler.reset()
    model, x = noisy(small("llama", "forget_gate")), tokens()

    def gradients(run: Any) -> list[Tensor]:
        loss = run(input_ids=x, labels=x, use_cache=False).loss
        return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]

    eager = gradients(model)
    compiled = gradients(torch.compile(model, backend="aot_eager", fullgraph=True))
    for ours, expected in zip(compiled, eager, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
