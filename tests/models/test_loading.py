"""A model that does not fill its config is refused by everything that loads one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_llama import RECENCY, tokens
from small_models import FAMILIES, small
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from wavepos.evaluate.generate import generate_text
from wavepos.evaluate.harness.plan import HarnessConfig
from wavepos.evaluate.harness.run import harness
from wavepos.evaluate.run import evaluate_run
from wavepos.models import from_llama
from wavepos.models.loading import load_model, weights_digest
from wavepos.training.build import build_model
from wavepos.training.config import TrainConfig
from wavepos.training.recipes import recipe


def change_config(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_weights(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_model_is_loaded_as_it_was_saved(family: str, tmp_path: Path) -> None:
    model, x = small(family), tokens()
    model.save_pretrained(tmp_path)
    loaded: Any = load_model(tmp_path)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(x).logits, model(x).logits)
    assert load_model(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_left_over_and_wrongly_shaped_weights_are_named(family: str, tmp_path: Path) -> None:
    model = small(family)
    first = "model.layers.2.input_layernorm.weight" if family == "llama" else "layers.2.attention_norm.bias"
    spare = "model.layers.1.input_layernorm.weight" if family == "llama" else "layers.1.attention_norm.bias"
    model.save_pretrained(tmp_path)
    change_config(tmp_path, num_hidden_layers=4)
    with pytest.raises(ValueError, match=rf"{tmp_path} lacks weights that its config asks for: {first} and \d+ more"):
        load_model(tmp_path)
    change_config(tmp_path, num_hidden_layers=1)
    with pytest.raises(ValueError, match=rf"{tmp_path} holds weights that its config has no place for: {spare} and"):
        load_model(tmp_path)
    change_config(tmp_path, num_hidden_layers=2, intermediate_size=64)
    with pytest.raises(ValueError, match=rf"{tmp_path} holds \S+ of shape \(.*128.*\), its config asks for \(.*64.*\)"):
        load_model(tmp_path)


def finished_run(directory: Path) -> Path:
    """A run whose model has two layers and a config that asks for four."""
    small("baevski-auli").save_pretrained(directory / "model")
    change_config(directory / "model", num_hidden_layers=4)
    (directory / "run.json").write_text(
        json.dumps({"status": "finished", "config": {"seq_len": 8, "corpus": "stdlib", "tokenizer": "bpe:97"}})
    )
    return directory


def test_eval_and_generate_refuse_a_partly_random_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(tmp_path)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: None)
    with pytest.raises(ValueError, match=r"lacks weights that its config asks for: layers\.2"):
        evaluate_run(run, None, None, 100, lambda *_: None)
    with pytest.raises(ValueError, match=r"lacks weights that its config asks for: layers\.2"):
        generate_text(run, "", 1, 0.0, 0)


def test_harness_refuses_a_partly_random_model_of_transformers_too(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=97, **sizes)).save_pretrained(tmp_path)
    change_config(tmp_path, num_hidden_layers=4)
    with pytest.raises(ValueError, match=r"lacks weights that its config asks for: model\.layers\.2"):
        harness(tmp_path, HarnessConfig(tasks=("passkey_retrieval",), lengths=(64,), max_length=64))


def run_from(directory: Path, position: Any) -> TrainConfig:
    return recipe("tiny", model="llama", corpus="stdlib", position=position, start_from=str(directory))


def test_a_run_does_not_start_from_a_partly_random_model(tmp_path: Path) -> None:
    small("llama", RECENCY).save_pretrained(tmp_path)
    config = run_from(tmp_path, "wavelet")
    change_config(tmp_path, num_hidden_layers=4)
    with pytest.raises(ValueError, match=r"lacks weights .*: model\.layers\.2\.input_layernorm\.weight"):
        build_model(config, 97)
    change_config(tmp_path, num_hidden_layers=2)
    change_weights(tmp_path, lambda weights: weights.pop("model.layers.1.self_attn.position.query_bias_HD"))
    with pytest.raises(ValueError, match=r"lacks weights .*: model\.layers\.1\.self_attn\.position\.query_bias_HD$"):
        build_model(config, 97)


@pytest.mark.parametrize(("saved", "given"), [("wavelet", "transformer_xl"), ("transformer_xl", RECENCY)])
def test_another_position_starts_anew_and_leaves_the_rest(saved: Any, given: Any, tmp_path: Path) -> None:
    model = small("llama", saved)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, position=given)
    for name, value in loaded.state_dict().items():
        if ".position." in name:
            assert torch.isfinite(value).all()
        else:
            assert torch.equal(value, model.state_dict()[name]), name
    assert any(".position." in name for name in loaded.state_dict())
    change_weights(tmp_path, lambda weights: weights.pop("model.norm.weight"))
    with pytest.raises(ValueError, match=r"lacks weights that its config asks for: model\.norm\.weight$"):
        load_model(tmp_path, position=given)


@pytest.mark.parametrize("position", ["t5", "transformer_xl"])
def test_a_layers_own_position_is_not_made_up_where_it_is_missing(position: str, tmp_path: Path) -> None:
    small("baevski-auli", position, num_hidden_layers=3).save_pretrained(tmp_path)
    change_weights(tmp_path, lambda weights: [weights.pop(key) for key in list(weights) if "positions.2." in key])
    with pytest.raises(ValueError, match=r"lacks weights that its config asks for: positions\.2\."):
        load_model(tmp_path)


def test_from_llama_names_what_a_llama_lacks(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=97, **sizes)).save_pretrained(tmp_path)
    change_weights(tmp_path, lambda weights: weights.pop("model.norm.weight"))
    with pytest.raises(ValueError, match=rf"{tmp_path} lacks weights that its config asks for: model\.norm\.weight$"):
        from_llama(tmp_path, "wavelet")


def test_code_in_a_directory_is_not_run(tmp_path: Path) -> None:
    small("llama").save_pretrained(tmp_path)
    (tmp_path / "modeling_wavepos.py").write_text("raise SystemExit('this code was run')")
    assert type(load_model(tmp_path)).__module__ == "wavepos.models.llama.model"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("position", ["kerple", RECENCY], ids=["kerple", "recency"])
def test_what_is_loaded_of_a_position_stays_where_something_of_it_is_missing(
    position: str | dict, family: str, tmp_path: Path
) -> None:
    model = small(family, position)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    learned = [key for key in saved if "rho_" in key or "query_bias" in key]
    first = learned[0]
    change_weights(tmp_path, lambda weights: weights.pop(first))
    loaded: Any = type(model).from_pretrained(tmp_path)
    state = loaded.state_dict()
    assert not torch.equal(state[first], saved[first])
    for key in set(saved) - {first}:
        assert torch.equal(state[key], saved[key]), key


def test_a_weight_that_changes_anywhere_in_a_small_model_changes_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    content = bytearray(2**20)
    path.write_bytes(content)
    digests = {weights_digest(tmp_path)}
    for place in (0, 700_001, 2**20 - 1):
        content[place] = 1
        path.write_bytes(content)
        digests.add(weights_digest(tmp_path))
    path.rename(tmp_path / "other.safetensors")
    digests.add(weights_digest(tmp_path))
    assert len(digests) == 5
    (tmp_path / "config.json").write_text("{}")
    assert weights_digest(tmp_path) in digests
