"""What any position may have, in both families: a length temperature follows the slot, whatever is cached."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_llama import small_llama, tokens
from small_models import FAMILIES, small
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from wavepos import attention
from wavepos.analysis.model_attention import attention_inputs, attention_output
from wavepos.models import WaveposLlamaConfig

LLAMA4 = {"form": "llama4", "attn_scale": 0.5, "floor_scale": 7}
POSITIONS = [
    {"method": method, "temperature": temperature}
    for method in ("nope", "rotary", "wavelet", "learned_relative", "alibi")
    for temperature in ("log", LLAMA4)
]


def name(position: dict[str, Any]) -> str:
    return f"{position['method']}-{'log' if position['temperature'] == 'log' else 'llama4'}"


@pytest.mark.parametrize("position", POSITIONS, ids=name)
@pytest.mark.parametrize("family", ["llama", "baevski-auli"])
def test_a_layer_attends_as_the_core_does_with_its_position(family: str, position: dict[str, Any]) -> None:
    model, x = small(family, position).double(), tokens(1, 40)
    seen = attention_inputs(model, x, 1)
    core = attention(
        seen.q_BHTD, seen.k_BGSD, seen.v_BGSD, position=seen.position, relative_states=seen.relative_states_BHTE
    )
    assert seen.position.temperature is not None
    torch.testing.assert_close(core[0].transpose(0, 1).flatten(1), attention_output(model, x, 1))


@pytest.mark.parametrize("position", POSITIONS, ids=name)
@pytest.mark.parametrize("kind", ["dynamic", "static", "compiled"])
def test_cached_equals_uncached(kind: str, position: dict[str, Any]) -> None:
    torch.compiler.reset()
    model, x = small_llama(position), tokens()
    cache = DynamicCache(config=model.config) if kind == "dynamic" else StaticCache(model.config, max_cache_len=64)
    step = torch.compile(model, fullgraph=True, backend="eager", dynamic=False) if kind == "compiled" else model
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        whole = model(x, use_cache=False).logits
        first = model(x[:, :20], past_key_values=cache).logits
        rest = [step(x[:, t : t + 1], past_key_values=cache).logits for t in range(20, 48)]
    torch.testing.assert_close(torch.cat([first, *rest], 1), whole, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_learned_temperature_is_one_per_layer_saved_and_loaded(family: str, tmp_path: Path) -> None:
    model, x = small(family, {"method": "rotary", "temperature": "log"}), tokens()
    learned = {name: value for name, value in model.named_parameters() if name.endswith("temperature.s_H")}
    assert len(learned) == 2
    for number, value in enumerate(learned.values()):
        assert torch.equal(value, torch.full((4,), 0.168))
        torch.nn.init.constant_(value, 0.3 + number)
    model(input_ids=x, labels=x).loss.backward()
    assert all(value.grad is not None and bool(value.grad.all()) for value in learned.values())
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(input_ids=x).logits, model(input_ids=x).logits)


def test_left_padding_counts_slots() -> None:
    """The factor is that of the slot: with padding before it a token's differs, and nothing else does."""
    model, x = small_llama({"method": "nope", "temperature": LLAMA4}, num_hidden_layers=1).double(), tokens(1, 20)
    padded, mask = torch.cat([torch.zeros(1, 7, dtype=torch.long), x], 1), torch.ones(1, 27, dtype=torch.long)
    mask[:, :7] = 0
    with torch.no_grad():
        slots = model(padded, attention_mask=mask).logits[:, 7:]
        layer: Any = model.model.layers[0].self_attn
        plain = type(layer.position)().with_temperature(LLAMA4)
        warm = layer.position.temperature
        layer.position = plain
        plain.temperature.factors = lambda m, dtype: warm.factors(m + 7, dtype)
        moved = model(x).logits
    torch.testing.assert_close(slots, moved)


def test_the_config_of_a_saved_model_holds_what_was_given() -> None:
    config = WaveposLlamaConfig(position={"method": "nope", "temperature": "log"})
    assert config.position == {"method": "nope", "temperature": {"form": "log", "start": 0.168}}
