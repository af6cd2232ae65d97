"""The Llama family on disk: saved, loaded, stretched, converted, found by remote code, and what is refused."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_llama import POSITIONS, RECENCY, SIZES, config, name, randomised, small_llama, tokens
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
)

from wavepos.models import WaveposLlamaConfig, WaveposLlamaForCausalLM, WaveposLlamaModel, from_llama
from wavepos.positions import Position, position_dict
from wavepos.positions.wavelet import WaveletConfig


@pytest.mark.parametrize("position", POSITIONS, ids=name)
def test_a_saved_model_is_the_same_again(position: str | dict, tmp_path: Path) -> None:
    model, x = small_llama(position), tokens()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is WaveposLlamaForCausalLM
    assert json.dumps(loaded.config.position) == json.dumps(model.config.position)
    with torch.no_grad():
        assert torch.equal(loaded(x).logits, model(x).logits)
        base = AutoModel.from_pretrained(tmp_path)
        assert type(base) is WaveposLlamaModel
        assert torch.equal(base(x).last_hidden_state, model.model(x).last_hidden_state)
    assert (tmp_path / "model.safetensors").is_file()


def test_a_classifier_starts_from_a_language_model(tmp_path: Path) -> None:
    model = small_llama(RECENCY)
    model.save_pretrained(tmp_path)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert classifier(tokens()).logits.shape == (2, 3)
    layer = classifier.model.layers[1].self_attn
    assert torch.equal(layer.position.query_bias_HD, model.model.layers[1].self_attn.position.query_bias_HD)


def test_bf16_loading_keeps_tables_in_float32(tmp_path: Path) -> None:
    model, x = small_llama(), tokens()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    tables = []
    for one in (model, loaded):
        q = torch.randn(1, 4, 8, 16).to(one.dtype)
        tables.append(one.model.layers[0].self_attn.position.terms(q, q[:, :2]).table)
    assert torch.equal(*tables)
    assert not [key for key, _ in loaded.named_buffers() if "rotary_emb" not in key]  # whose angles nobody reads
    with torch.no_grad():
        expected = model(x).logits
        assert float((loaded(x).logits.float() - expected).abs().max()) < 0.03 * float(expected.abs().max())


def test_a_device_map_is_followed(tmp_path: Path) -> None:
    model, x = small_llama(RECENCY), tokens()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, device_map={"": "cpu"})
    with torch.no_grad():
        assert torch.equal(loaded(x).logits, model(x).logits)
    offloaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, device_map={"model": "cpu", "lm_head": "disk"}, offload_folder=tmp_path / "offload"
    )
    with torch.no_grad():
        torch.testing.assert_close(offloaded(x).logits, model(x).logits)


def test_stretch_changes_the_saved_scales_while_loading(tmp_path: Path) -> None:
    model, x = small_llama({"method": "wavelet", "scales": [1.0, 2.0, 4.0, 8.0]}), tokens()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, position={"method": "wavelet", "stretch": 4})
    by_hand = small_llama({"method": "wavelet", "scales": [4.0, 8.0, 16.0, 32.0]})
    with torch.no_grad():
        assert torch.equal(loaded(x).logits, by_hand(x).logits)
        assert not torch.allclose(loaded(x).logits, model(x).logits)
    loaded.save_pretrained(tmp_path / "again")
    again = AutoConfig.from_pretrained(tmp_path / "again").position
    assert again["stretch"] == 4
    assert list(again["scales"]) == [1.0, 2.0, 4.0, 8.0]
    with pytest.raises(ValueError, match=r"stretch must lie between 1e-06 and 1000000.0, got 0.0"):
        AutoConfig.from_pretrained(tmp_path, position={"method": "wavelet", "stretch": 0})
    with pytest.raises(ValueError, match="stretch goes with wavelets that have a formula"):
        small_llama({"method": "wavelet", "wavelet": "db2", "stretch": 2.0})


def test_another_position_while_loading_stands_alone(tmp_path: Path) -> None:
    small_llama(RECENCY).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path, position="alibi").position == {"method": "alibi"}


def run_elsewhere(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HOME": str(directory / "hub"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


LOADS = "from transformers import AutoModelForCausalLM as A; m = A.from_pretrained({path!r}, trust_remote_code=True); "


def test_a_directory_loads_with_trust_remote_code_where_nobody_imports_wavepos(tmp_path: Path) -> None:
    small_llama(RECENCY).save_pretrained(tmp_path / "model")
    done = run_elsewhere(tmp_path, LOADS.format(path=str(tmp_path / "model")) + "print(type(m).__name__)")
    assert done.stdout.split()[-1:] == ["WaveposLlamaForCausalLM"], done.stderr


def test_without_wavepos_the_reason_names_the_package(tmp_path: Path) -> None:
    small_llama().save_pretrained(tmp_path / "model")
    hidden = (
        "import sys, importlib.abc\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'wavepos': raise ModuleNotFoundError(\"No module named 'wavepos'\", name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    done = run_elsewhere(tmp_path, hidden + LOADS.format(path=str(tmp_path / "model")))
    assert done.returncode != 0
    assert "requires the following packages that were not found in your environment: wavepos" in done.stderr


def test_serving_engines_are_told_that_the_attention_cannot_be_swapped() -> None:
    assert not WaveposLlamaForCausalLM.is_backend_compatible()
    assert not WaveposLlamaForCausalLM._supports_flash_attn


def test_context_parallel_hooks_are_refused() -> None:
    from accelerate.big_modeling import _attach_context_parallel_hooks

    model = small_llama()
    _attach_context_parallel_hooks(model)
    with pytest.raises(ValueError, match=r"context parallelism is not served: .* Shard the batch or the weights"):
        model(tokens())


@pytest.mark.parametrize("field", ["rope_parameters", "rope_theta", "rope_scaling"])
def test_rotary_fields_outside_the_position_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"{field} has no effect in WaveposLlamaConfig: .* position=\{{'method'"):
        config(**{field: {"rope_type": "default"}})


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads must divide num_attention_heads, got 3 and 4"),
        ({"hidden_size": 66}, "hidden_size must be a multiple of num_attention_heads, got 66 and 4"),
        ({"position": {"method": "wavelet", "scale": 3}}, "got the unknown key 'scale'"),
    ],
)
def test_sizes_that_do_not_fit_are_named(fields: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        WaveposLlamaConfig(**{**SIZES, **fields})


def test_a_position_may_be_its_config() -> None:
    given = WaveletConfig(scales=(1.0, 2.0), query_bias="recency")
    assert WaveposLlamaConfig(**SIZES, position=given).position == position_dict(given)


def test_a_llamas_checkpoint_or_config_points_to_from_llama(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"rope_parameters has no effect .*from_llama takes over"):
        WaveposLlamaForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"config must be a WaveposLlamaConfig, got LlamaConfig: .*from_llama"):
        WaveposLlamaForCausalLM(LlamaConfig(**SIZES))


def llama(**fields: object) -> LlamaForCausalLM:
    model: LlamaForCausalLM = randomised(LlamaForCausalLM(LlamaConfig(**{**SIZES, **fields})))
    return model


@pytest.mark.parametrize("position", ["wavelet", RECENCY, "transformer_xl", "learned_relative"], ids=name)
def test_a_llamas_weights_are_taken_over_and_the_change_is_said(
    position: str | dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = llama(tie_word_embeddings=True)
    theirs.save_pretrained(tmp_path)
    for source in (theirs, tmp_path, str(tmp_path)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="wavepos"):
            ours = from_llama(source, position)
        for key, x in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[key], x)
        assert "trained with other positions: train on before use" in caplog.text
        new = set(ours.state_dict()) - set(theirs.state_dict())
        assert bool(new) == ("starting values" in caplog.text)
        for module in ours.modules():
            if isinstance(module, Position):
                start = {key: x.clone() for key, x in module.state_dict().items()}
                if position == RECENCY:
                    module.reset_parameters()
                    for key, x in module.state_dict().items():
                        assert torch.equal(x, start[key])
        assert all(torch.isfinite(x).all() for x in ours.state_dict().values())
        assert torch.isfinite(ours(tokens(), labels=tokens()).loss)


def test_rotary_says_that_nothing_else_changed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="wavepos"):
        from_llama(llama(), "rotary")
    assert caplog.text.rstrip().endswith("nothing else changed")


def test_another_model_is_refused(tmp_path: Path) -> None:
    MistralConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="source must be a model of type 'llama', got 'mistral'"):
        from_llama(tmp_path)


def test_a_partial_rotation_is_refused() -> None:
    parameters = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    theirs = llama()
    theirs.config.rope_parameters = parameters
    with pytest.raises(ValueError, match=r"rotates a part of each head .*transformers' Llama rotates all of it"):
        from_llama(theirs, "rotary")


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_a_llama_with_proportional_rotation_computes_what_it_computed(factor: float) -> None:
    rope = {"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "factor": factor}
    theirs = llama(rope_parameters=rope)
    ours = from_llama(theirs, "rotary")
    assert ours.config.position["partial_rotary_style"] == "high_frequencies"
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens()).logits, theirs(tokens()).logits, atol=2e-5, rtol=0.0)
