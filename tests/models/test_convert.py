"""Other families' models taken over: from directories, with heads, by name; and what is refused, with its reason."""

import copy
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_families import positioned, small_config, small_model, tokens
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    GPTJConfig,
    GptOssConfig,
    MptConfig,
    OPTConfig,
    T5Config,
)

import wavepos.models
from wavepos.models import FAMILIES, convert, from_llama
from wavepos.models.decoder.convert import converted_config
from wavepos.models.loading import load_model

RECENCY = {"method": "wavelet", "query_bias": "recency"}


@pytest.mark.parametrize("family", ["qwen3", "mixtral", "qwen3_moe", "olmoe", "granitemoe", "phi3", "gpt_neox"])
def test_a_directory_is_taken_over_and_saved_in_the_familys_own_layout(family: str, tmp_path: Path) -> None:
    theirs, x = small_model(family), tokens()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = convert(tmp_path / "theirs", "rotary").eval()
    ours.save_pretrained(tmp_path / "ours")
    saved = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours")]
    assert saved[1]["model_type"] == f"wavepos_{saved[0]['model_type']}"
    with torch.no_grad():
        torch.testing.assert_close(ours(x).logits, theirs(x).logits, atol=1e-5, rtol=0.0)
    keys = [safetensors_keys(tmp_path / name) for name in ("theirs", "ours")]
    assert keys[0] == keys[1]


def safetensors_keys(directory: Path) -> set[str]:
    header = (directory / "model.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    return set(json.loads(header[8 : 8 + size])) - {"__metadata__"}


@pytest.mark.parametrize(
    ("auto", "shape"),
    [
        (AutoModelForSequenceClassification, (2, 3)),
        (AutoModelForTokenClassification, (2, 24, 3)),
        (AutoModelForQuestionAnswering, (2, 24)),
    ],
)
@pytest.mark.parametrize("family", ["llama", "qwen3", "mixtral"])
def test_heads_start_from_a_language_model(family: str, auto: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    model = positioned(family, RECENCY)
    model.save_pretrained(tmp_path)
    head = auto.from_pretrained(tmp_path, num_labels=3)
    assert type(head).__name__.startswith("Wavepos")
    out = head(tokens())
    assert (out.logits if "logits" in out else out.start_logits).shape == shape
    inner, base = head.base_model, AutoModel.from_pretrained(tmp_path)
    assert type(inner) is type(base) is type(model.model)
    with torch.no_grad():
        expected = model.model(tokens()).last_hidden_state
        for body in (base, inner.eval()):  # threads add up experts in an order of their own
            torch.testing.assert_close(body(tokens()).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    assert out[0].requires_grad


def test_classes_of_a_family_are_found_by_name() -> None:
    assert wavepos.models.WaveposQwen3ForCausalLM is type(positioned("qwen3", "nope"))
    assert wavepos.models.WaveposGemma3TextConfig.model_type == "wavepos_gemma3_text"
    assert wavepos.models.WaveposGemma3ForCausalLM is type(positioned("gemma3_text", "nope"))
    with pytest.raises(AttributeError, match="has no attribute 'WaveposBloomForCausalLM'"):
        wavepos.models.WaveposBloomForCausalLM  # noqa: B018
    for family in FAMILIES:
        if family == "gemma2":  # its default is soft-capping, which is refused
            continue
        assert AutoConfig.for_model(f"wavepos_{family}").position["method"] == "wavelet"


@pytest.mark.parametrize("family", ["qwen3", "gpt_neox"])
def test_a_directory_loads_with_trust_remote_code_where_nobody_imports_wavepos(family: str, tmp_path: Path) -> None:
    model = positioned(family, RECENCY)
    model.save_pretrained(tmp_path / "model")
    code = (
        "from transformers import AutoModelForCausalLM as A; "
        f"m = A.from_pretrained({str(tmp_path / 'model')!r}, trust_remote_code=True); print(type(m).__name__)"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split()[-1:] == [type(model).__name__], done.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_that_sharding_keeps_whole_are_in_the_model(family: str) -> None:
    model = positioned(family, "nope")
    assert model._no_split_modules == model.base_model._no_split_modules
    assert model._no_split_modules & {type(layer).__name__ for layer in model.base_model.layers}
    assert family != "llama" or model._no_split_modules == {"WaveposLlamaDecoderLayer"}


def test_a_model_is_copied_and_pickled(tmp_path: Path) -> None:
    model, x = positioned("qwen3", RECENCY), tokens()
    torch.save(model, tmp_path / "model.pt")
    with torch.no_grad():
        for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
            assert torch.equal(other(x).logits, model(x).logits)


def test_a_saved_position_is_changed_on_loading(tmp_path: Path) -> None:
    positioned("qwen3", "wavelet").save_pretrained(tmp_path)
    stretched = load_model(tmp_path, position={"method": "wavelet", "stretch": 4.0})
    assert stretched.config.position["stretch"] == 4.0
    other = load_model(tmp_path, position="forget_gate")
    assert {type(layer.self_attn.position).__name__ for layer in other.model.layers} == {"ForgetGate"}
    local = {"local": "wavelet", "global": "nope", "every": 2}
    assert load_model(tmp_path, position=local).config.position["every"] == 2


def test_what_was_changed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    theirs = small_model("qwen3")
    with caplog.at_level(logging.WARNING, logger="wavepos"):
        convert(theirs, "rotary")
        convert(theirs, "nope", native_rotation=True)
        convert(theirs, "wavelet", native_rotation=True)
        convert(theirs, RECENCY)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("wavepos")]
    assert [text.endswith("nothing else changed") for text in said] == [True, True, False, False]
    assert "beside its own rotation" in said[2]
    assert "starting values: model.layers.0.self_attn.position.query_bias_HD" in said[3]


def test_smollm3_keeps_its_layers_without_rotation() -> None:
    methods = [one["method"] for one in convert(small_model("smollm3"), "rotary").config.position]
    assert methods == ["rotary", "nope"]


def test_gemma3_keeps_the_bases_of_its_two_types_of_layer() -> None:
    theirs = small_model("gemma3_text", layer_types=["sliding_attention", "full_attention"])
    assert [one["theta"] for one in convert(theirs, "rotary").config.position] == [10_000.0, 1_000_000.0]
    with pytest.raises(ValueError, match="the layers of this gemma3_text rotate differently: give each layer's theta"):
        convert(theirs, ["rotary", "wavelet"])


@pytest.mark.parametrize(
    ("theirs", "match"),
    [
        (GPT2Config(), "source of type 'gpt2' is not served: it adds learned absolute positions to its embeddings"),
        (OPTConfig(), "source of type 'opt' is not served: it adds learned absolute positions"),
        (BloomConfig(), "source of type 'bloom' is not served: it computes its positions inside attention code"),
        (MptConfig(), "source of type 'mpt' is not served: it computes its positions inside attention code"),
        (FalconConfig(), "source of type 'falcon' is not served: it computes its positions inside attention code"),
        (GPTJConfig(), "source of type 'gptj' is not served: it computes its positions inside attention code"),
        (GptOssConfig(), "source of type 'gpt_oss' is not served: it has attention sinks"),
        (T5Config(), "source must be a decoder of one of the families apertus, .*, got type 't5'"),
    ],
    ids=["gpt2", "opt", "bloom", "mpt", "falcon", "gptj", "gpt_oss", "t5"],
)
def test_a_family_that_is_not_served_is_refused_with_its_reason(theirs: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        converted_config(theirs, "wavelet")


@pytest.mark.parametrize(
    ("family", "fields", "position", "native", "match"),
    [
        ("gemma2", {"attn_logit_softcapping": 50.0}, "nope", False, "attn_logit_softcapping=50.0 is not served"),
        (
            "gemma3_text",
            {"use_bidirectional_attention": True},
            "nope",
            False,
            "use_bidirectional_attention=True is not",
        ),
        ("cohere", {}, "rotary", False, "family 'cohere' rotates neighbours: give position='nope' and native_rotation"),
        ("qwen3", {}, "rotary", True, "would rotate twice: give position='nope'"),
        ("qwen3", {}, ["nope"], False, "a method for each of 2 layers, got 1"),
        ("qwen3", {}, "wavlet", False, "did you mean 'wavelet'"),
        ("llama", {}, "nope", True, "native_rotation has no effect in WaveposLlamaConfig: position='rotary' is"),
    ],
)
def test_what_is_not_served_is_refused_by_name(
    family: str, fields: dict[str, Any], position: Any, native: bool, match: str
) -> None:
    theirs = small_config(family, **fields)
    with pytest.raises(ValueError, match=match):
        converted_config(theirs, position, native_rotation=native)


def test_wrong_calls_are_named() -> None:
    model = positioned("qwen3", "wavelet")
    with pytest.raises(ValueError, match="source is of family 'wavepos_qwen3' already: from_pretrained"):
        convert(model, "alibi")
    with pytest.raises(ValueError, match="must be a model of type 'llama', got 'qwen3'; wavepos"):
        from_llama(small_model("qwen3"))
    with pytest.raises(ValueError, match="WaveposQwen3Config has no field 'positon', nearest is 'position'"):
        wavepos.models.WaveposQwen3Config(positon="wavelet")
    with pytest.raises(ValueError, match="native_rotation must be True or False, got 'yes'"):
        wavepos.models.WaveposQwen3Config(native_rotation="yes")
    with pytest.raises(TypeError, match="config must be a WaveposQwen3Config, got Qwen3Config"):
        type(model)(small_config("qwen3"))
    with pytest.raises(ValueError, match=r"attn_implementation must be 'sdpa' .* got 'flash_attention_2'"):
        model.set_attn_implementation("flash_attention_2")
    with pytest.raises(TypeError, match="takes no argument 'atention_mask'"):
        model(tokens(), atention_mask=torch.ones(2, 24))
    with pytest.raises(ValueError, match="packed rows"):
        model(tokens(1), position_ids=torch.cat([torch.arange(12), torch.arange(12)])[None], use_cache=True)
    with pytest.raises(NotImplementedError, match="continuous batching is not served"):
        model.generate_batch([[1, 2, 3]])


def test_a_plain_model_with_our_attention_function_is_refused() -> None:
    theirs = AutoModelForCausalLM.from_config(small_config("qwen3"), attn_implementation="wavepos")
    with pytest.raises(ValueError, match="attn_implementation 'wavepos' belongs to wavepos's own classes"):
        theirs(tokens())


def test_a_temperature_does_not_fit_the_familys_sliding_cache() -> None:
    model = positioned("mistral", {"method": "wavelet", "temperature": "log"})
    with torch.no_grad():
        assert model(tokens(), use_cache=False).logits.isfinite().all()
        with pytest.raises(
            ValueError, match="does not fit layer 0 with Wavelet and a length temperature: give Dynamic"
        ):
            model(tokens(), use_cache=True)


def test_losses_of_tokens_are_those_of_the_logits() -> None:
    model, x = positioned("granite", RECENCY), tokens()
    with torch.no_grad():
        losses = model.token_losses(x[:, :-1], x[:, 1:])
        logits = model(x[:, :-1]).logits.log_softmax(-1)
    torch.testing.assert_close(losses, -logits.gather(-1, x[:, 1:, None])[..., 0])
