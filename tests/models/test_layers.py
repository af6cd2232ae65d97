"""Models whose layers have positions of their own: local and global ones, windows, and caches that slide."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_llama import SIZES, small_llama, tokens
from small_models import FAMILIES, small
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache
from transformers.cache_utils import DynamicSlidingWindowLayer, StaticSlidingWindowLayer
from transformers.generation.configuration_utils import CompileConfig

from wavepos import NoPE, attention
from wavepos.analysis.model_attention import attention_inputs, attention_output
from wavepos.models import BaevskiAuliConfig, WaveposLlamaConfig, from_llama
from wavepos.models.loading import load_model
from wavepos.positions import Position

RNOPE_SWA = {"local": {"method": "rotary", "window": 8}, "global": "nope", "every": 4}
SWAN = {"local": {"method": "rotary", "window": 8}, "global": {"method": "nope", "temperature": "log"}, "every": 2}
IROPE = {
    "local": {"method": "rotary", "window": 16, "partial_rotary_factor": 0.5},
    "global": {"method": "nope", "temperature": "llama4"},
    "every": 4,
}
OURS = {"local": {"method": "wavelet", "window": 12}, "global": {"method": "nope", "temperature": "log"}, "every": 4}
MIXED = [
    {"method": "wavelet", "window": 5, "query_bias": "recency"},
    {"method": "learned_relative", "window": 9},
    "rotary",
    {"method": "t5", "window": 1},
]
TEMPERED_WINDOW = {"method": "wavelet", "window": 7, "temperature": "log"}
ALL_SLIDE = {"method": "rotary", "window": 6}
DYNAMIC_NTK = {"rope_type": "dynamic", "factor": 4.0, "max_position_embeddings": 16}
GATED = {
    "local": {"method": "wavelet", "window": 10, "gate": "forget", "query_bias": "recency", "learn": ["scales"]},
    "global": {"method": "forget_gate", "temperature": "log"},
    "every": 4,
}
POSITIONS = {
    "gated": GATED,
    "rnope-swa": RNOPE_SWA,
    "swan": SWAN,
    "irope": IROPE,
    "ours": OURS,
    "mixed": MIXED,
    "tempered": TEMPERED_WINDOW,
    "all": ALL_SLIDE,
}
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


def four(position: Any, **fields: Any) -> Any:
    return small_llama(position, num_hidden_layers=4, **fields)


def few(position: Any) -> Any:
    """A layer of each kind: what a compiler traces costs as much as there are layers."""
    if isinstance(position, list):
        return four(position)
    return small_llama(position if "method" in position else {**position, "every": 2}, num_hidden_layers=2)


@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.parametrize("family", ["llama", "baevski-auli"])
def test_each_layer_attends_as_the_core_does_with_its_position_and_window(family: str, name: str) -> None:
    model, x = small(family, POSITIONS[name], num_hidden_layers=4).double(), tokens(1, 40)
    for layer in range(4):
        seen = attention_inputs(model, x, layer)
        window = seen.position.window
        assert window == model.config.position_configs[layer].window
        core = attention(
            seen.q_BHTD, seen.k_BGSD, seen.v_BGSD, position=seen.position, relative_states=seen.relative_states_BHTE,
            gates=seen.gates_BHS, window=window,
        )  # fmt: skip
        torch.testing.assert_close(core[0].transpose(0, 1).flatten(1), attention_output(model, x, layer))
        torch.testing.assert_close(core[0], seen.output())  # attention maps too


@pytest.mark.parametrize("family", ["llama", "baevski-auli"])
def test_a_window_hides_what_is_beyond_it(family: str) -> None:
    model, x = small(family, {"method": "nope", "window": 4}), tokens(1, 20)
    far = x.clone()
    far[:, :13] = 5
    with torch.no_grad():
        near, changed = model(x).logits[:, -1], model(far).logits[:, -1]  # two layers see 2 · 3 tokens back
        torch.testing.assert_close(changed, near, **TOLERANCE)
        far[:, 13] = (x[:, 13] + 1) % 97
        assert not torch.allclose(model(far).logits[:, -1], near, **TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_as_given_and_loaded_again(family: str, tmp_path: Path) -> None:
    for name in ("ours", "mixed"):
        model, x = small(family, POSITIONS[name], num_hidden_layers=4), tokens()
        for key, parameter in model.named_parameters():
            if "position" in key:
                nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(tmp_path / name)
        stored = json.loads((tmp_path / name / "config.json").read_text())["position"]
        assert stored == json.loads(json.dumps(model.config.position))
        assert isinstance(stored, list) or stored["every"] == 4
        again = AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        assert torch.equal(again(x).logits, model(x).logits)


def test_layers_of_one_config_share_what_learns_nothing() -> None:
    layers = [layer.self_attn.position for layer in small_llama(OURS, num_hidden_layers=8).model.layers]
    assert len({id(position) for position in layers if position.temperature is None}) == 1
    assert len({id(position) for position in layers}) == 3
    assert [isinstance(position, NoPE) for position in layers] == [False, False, False, True] * 2


def test_layer_types_and_the_window_are_those_of_the_position(tmp_path: Path) -> None:
    config = WaveposLlamaConfig(**{**SIZES, "num_hidden_layers": 4}, position=RNOPE_SWA)
    assert config.layer_types == ["sliding_attention"] * 3 + ["full_attention"]
    assert config.sliding_window == 8
    config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert (stored["layer_types"], stored["sliding_window"]) == (config.layer_types, 8)
    again = WaveposLlamaConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    wider = WaveposLlamaConfig.from_pretrained(tmp_path, position={"method": "rotary", "window": 16})
    assert wider.position["local"]["window"] == wider.sliding_window == 16
    assert WaveposLlamaConfig.from_pretrained(tmp_path, position="alibi").layer_types is None
    with pytest.raises(ValueError, match="sliding_window follows from position in WaveposLlamaConfig, where it is 8"):
        WaveposLlamaConfig.from_pretrained(tmp_path, sliding_window=4)
    (tmp_path / "config.json").write_text(json.dumps({**stored, "sliding_window": 4}))
    with pytest.raises(ValueError, match="sliding_window follows from position in WaveposLlamaConfig, where it is 8"):
        WaveposLlamaConfig.from_pretrained(tmp_path)


def test_configs_without_windows_are_stored_as_before() -> None:
    for stored in (WaveposLlamaConfig(position="rope").to_dict(), BaevskiAuliConfig(position=ALL_SLIDE).to_dict()):
        assert not {"layer_types", "sliding_window"} & set(stored)


@pytest.mark.parametrize(
    ("position", "types", "window"),
    [
        (TEMPERED_WINDOW, None, None),
        ({"method": "rotary", "window": 6, "scaling": DYNAMIC_NTK}, None, None),
        (MIXED, ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"], 9),
    ],
)
def test_a_layer_keeps_all_keys_where_it_must_know_how_many_came_before(position: Any, types: Any, window: Any) -> None:
    config = WaveposLlamaConfig(**{**SIZES, "num_hidden_layers": 4}, position=position)
    assert (config.layer_types, config.sliding_window) == (types, window)


def test_layers_must_be_as_many_as_the_model_has() -> None:
    for config in (WaveposLlamaConfig, BaevskiAuliConfig):
        with pytest.raises(ValueError, match="position must hold a method for each of 4 layers, got 2"):
            config(num_hidden_layers=4, position=["rope", "nope"])


def read(model: Any, x: Tensor, cache: Any, pieces: list[int], **arguments: Any) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(piece, past_key_values=cache, **arguments).logits for piece in x.split(pieces, 1)], 1)


@pytest.mark.parametrize("pieces", [[1] * 20 + [28], [20, 7, 1, 20], [5, 3, 40], [40] + [1] * 8], ids=str)
@pytest.mark.parametrize("kind", ["dynamic", "static", "full"])
@pytest.mark.parametrize("name", POSITIONS)
def test_cached_equals_uncached(name: str, kind: str, pieces: list[int]) -> None:
    model, x = four(POSITIONS[name]), tokens()
    cache: Any = DynamicCache()
    if kind != "full":
        cache = DynamicCache(config=model.config) if kind == "dynamic" else StaticCache(model.config, max_cache_len=64)
        sliding: type = DynamicSlidingWindowLayer if kind == "dynamic" else StaticSlidingWindowLayer
        types = model.config.layer_types or ["full_attention"] * 4
        assert [isinstance(one, sliding) for one in cache.layers] == [one == "sliding_attention" for one in types]
    with torch.no_grad():
        whole = model(x, use_cache=False).logits
    torch.testing.assert_close(read(model, x, cache, pieces), whole, **TOLERANCE)
    if kind == "dynamic" and name == "rnope-swa":
        assert [layer.keys.shape[2] for layer in cache.layers] == [7, 7, 7, 48]


@pytest.mark.parametrize("name", POSITIONS)
def test_baevski_auli_reads_from_a_cache_as_it_reads_whole(name: str) -> None:
    model, x = small("baevski-auli", POSITIONS[name], num_hidden_layers=4), tokens()
    with torch.no_grad():
        whole = model(x, use_cache=False).logits
    torch.testing.assert_close(read(model, x, DynamicCache(), [20, 7, 1, 20]), whole, **TOLERANCE)


@pytest.mark.parametrize("name", ["gated", "irope", "ours", "mixed", "tempered"])
def test_a_compiled_step_with_a_static_cache_serves_every_token(name: str) -> None:
    torch.compiler.reset()
    model, x = few(POSITIONS[name]), tokens()
    with torch.no_grad():
        whole = model(x, use_cache=False).logits
    cache = StaticCache(config=model.config, max_cache_len=64)
    first = read(model, x[:, :20], cache, [20])
    step = torch.compile(model, fullgraph=True, backend="eager")
    rest = read(step, x[:, 20:], cache, [1] * 28)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, **TOLERANCE)


def generated(model: Any, x: Tensor, mask: Tensor, **arguments: Any) -> Tensor:
    return model.generate(x, attention_mask=mask, max_new_tokens=20, min_new_tokens=20, do_sample=False, **arguments)


@pytest.mark.parametrize("name", ["rnope-swa", "ours", "mixed", "all"])
def test_generation_is_the_same_however_it_caches_and_pads(name: str) -> None:
    model, x = four(POSITIONS[name]), tokens(2, 25)
    mask = torch.ones_like(x)
    x[0, :7], mask[0, :7] = 0, 0
    plain = generated(model, x, mask, use_cache=False)
    for arguments in ({}, {"cache_implementation": "static"}, {"prefill_chunk_size": 6}):
        assert torch.equal(generated(model, x, mask, **arguments), plain), arguments
    if name != "ours":  # a temperature counts slots
        assert torch.equal(plain[:1, 7:], generated(model, x[:1, 7:], mask[:1, 7:]))
    one, all_of_it = x[1:], mask[1:]
    assert torch.equal(
        generated(model, one, all_of_it, num_beams=3), generated(model, one, all_of_it, num_beams=3, use_cache=False)
    )
    assert torch.equal(generated(model, one, all_of_it, prompt_lookup_num_tokens=3), plain[1:])


@pytest.mark.parametrize("name", ["ours", "all"])
def test_generate_compiles_its_step_unless_all_caches_slide(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    model, x = few(POSITIONS[name]), tokens(2, 5)
    mask = torch.ones_like(x)
    x[0, :2], mask[0, :2] = 0, 0
    compiled_calls: list[Any] = []
    get = model.get_compiled_call
    monkeypatch.setattr(model, "get_compiled_call", lambda config: compiled_calls.append(config) or get(config))
    compile_config = CompileConfig(backend="eager", fullgraph=True, mode="default")
    compile_config._compile_all_devices = True
    compiled = generated(model, x, mask, cache_implementation="static", compile_config=compile_config)
    assert torch.equal(compiled, generated(model, x, mask, use_cache=False))
    assert bool(compiled_calls) == (name != "all")


def test_a_sliding_cache_of_another_model_is_refused() -> None:
    model, x = four("wavelet"), tokens(1, 20)
    cache = DynamicCache(config=four(ALL_SLIDE).config)
    with pytest.raises(ValueError, match="a cache that drops keys does not fit layer 0 with Wavelet: make the cache"):
        read(model, x, cache, [20])


@pytest.mark.parametrize("family", ["llama", "baevski-auli"])
def test_read_with_changes_the_layers_that_have_the_method(family: str, tmp_path: Path) -> None:
    small(family, OURS, num_hidden_layers=4).save_pretrained(tmp_path)
    model = load_model(tmp_path, position={"method": "wavelet", "stretch": 4.0})
    assert [own.method for own in model.config.position_configs] == ["wavelet"] * 3 + ["nope"]
    assert model.config.position["local"]["stretch"] == 4.0
    assert model.config.position["local"]["window"] == 12
    learned = [key for key in model.state_dict() if "temperature" in key]
    assert len(learned) == 1
    plain = load_model(tmp_path, position="alibi")
    assert {own.method for own in plain.config.position_configs} == {"alibi"}


def test_a_llama_becomes_local_and_global_layers_with_its_own_rotation() -> None:
    sizes = {**SIZES, "num_hidden_layers": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}
    ours = from_llama(LlamaForCausalLM(LlamaConfig(**sizes)), RNOPE_SWA)
    assert [getattr(own, "theta", None) for own in ours.config.position_configs] == [777.0, 777.0, 777.0, None]
    assert ours.config.sliding_window == 8


def test_a_position_is_one_module_per_layer_that_learns() -> None:
    model = small("baevski-auli", MIXED, num_hidden_layers=4)
    names = {key.rsplit(".", 1)[0] for key in model.state_dict() if key.startswith(("positions", "relative"))}
    assert names == {"positions.0", "positions.1", "positions.3", "relative.1"}
    assert sum(isinstance(module, Position) for module in model.modules()) == 4
