"""The configs of both families: their defaults, and that no field is taken without effect."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_llama import SIZES, small_llama, tokens
from small_models import small
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Trainer, TrainingArguments

from wavepos.models import BaevskiAuliConfig, WaveposLlamaConfig, baevski_auli_config, llama_config

CONFIGS = [WaveposLlamaConfig, BaevskiAuliConfig]


def test_defaults_are_llamas() -> None:
    ours, theirs = WaveposLlamaConfig(), LlamaConfig()
    own = set(vars(theirs)) - set(vars(PreTrainedConfig()))
    own -= {"rope_parameters", "pretraining_tp"}  # the position's; read by no one
    assert {"rms_norm_eps", "max_position_embeddings", "head_dim"} <= own
    for name in own:
        assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize("size", ["tiny", "small", "1b", "7b"])
def test_named_sizes_keep_llama_2s_epsilon(size: Any) -> None:
    assert llama_config(size, 32_000).rms_norm_eps == 1e-5


def test_the_7b_keeps_llama_2s_length() -> None:
    assert llama_config("7b", 32_000).max_position_embeddings == 4096


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("postion", "position"),
        ("positions", "position"),
        ("hidden_siz", "hidden_size"),
        ("num_layers", "num_hidden_layers"),
        ("output_attention", "output_attentions"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest(
    config: type[PreTrainedConfig], name: str, nearest: str, tmp_path: Path
) -> None:
    match = rf"{config.__name__} has no field '{name}', nearest is '{nearest}'"
    with pytest.raises(ValueError, match=match):
        config(**{name: "rotary"})
    config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=match):
        AutoConfig.from_pretrained(tmp_path, **{name: "rotary"})
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: "rotary"}))
    with pytest.raises(ValueError, match=match):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("layer_types", ["sliding_attention"] * 2, r".*windows stand in position=\{'method': …, 'window': …\}"),
        ("sliding_window", 16, r".*windows stand in position=\{'method': …, 'window': …\}"),
        ("per_layer_config", {"0": {"hidden_size": 8}}, r"has no effect in \w+: layers differ in position=\[…\] alone"),
    ],
)
def test_a_field_without_effect_is_refused(config: type[PreTrainedConfig], name: str, value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"{name} {why}"):
        config(**{name: value})
    assert name not in config(**{name: None}).to_dict()


def test_tied_embeddings_of_baevski_auli_are_no_choice() -> None:
    with pytest.raises(ValueError, match="tie_word_embeddings has no effect in BaevskiAuliConfig: the softmax reads"):
        BaevskiAuliConfig(tie_word_embeddings=True)
    assert BaevskiAuliConfig(tie_word_embeddings=False) == BaevskiAuliConfig()


@pytest.mark.parametrize("config", CONFIGS)
def test_fields_of_every_config_of_transformers_pass_and_come_back(
    config: type[PreTrainedConfig], tmp_path: Path
) -> None:
    fields = {
        "output_hidden_states": True,
        "output_attentions": True,
        "return_dict": False,
        "dtype": "bfloat16",
        "id2label": {0: "a", 1: "b", 2: "c"},
        "label2id": {"a": 0, "b": 1, "c": 2},
        "problem_type": "single_label_classification",
        "architectures": ["Something"],
        "name_or_path": "somewhere",
        "attn_implementation": "eager",
        "quantization_config": {"quant_method": "something"},
    }
    made = config(**fields)
    made.save_pretrained(tmp_path)
    for again in (AutoConfig.from_pretrained(tmp_path), config.from_pretrained(tmp_path), config(**made.to_dict())):
        assert again.dtype == torch.bfloat16
        assert (again.num_labels, again.id2label[2], again.output_attentions) == (3, "c", True)
        assert (again.output_hidden_states, again.return_dict, again.architectures) == (True, False, ["Something"])


@pytest.mark.parametrize("family", ["llama", "baevski-auli"])
def test_what_trainer_writes_into_a_config_can_be_loaded(family: str, tmp_path: Path) -> None:
    rows = [{"input_ids": row, "labels": row} for row in tokens(4, 20)]
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True, max_steps=1)
    trainer = Trainer(small(family), arguments, train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert loaded.config.use_cache is False
    with torch.no_grad():
        out = loaded(tokens(1, 10))
        assert out.past_key_values is None
        assert torch.equal(out.logits, trainer.model.eval()(tokens(1, 10)).logits)


@pytest.mark.parametrize("family", ["llama", "baevski-auli"])
def test_a_cache_is_made_in_evaluation_unless_the_config_says_no(family: str) -> None:
    model, x = small(family), tokens(1, 10)
    assert model(x).past_key_values.get_seq_length() == 10
    assert model(x, use_cache=False).past_key_values is None
    assert model.train()(x).past_key_values is None
    assert small(family, use_cache=False)(x).past_key_values is None


def test_fields_given_while_loading_are_checked_with_the_saved_ones(tmp_path: Path) -> None:
    small_llama().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_key_value_heads must divide num_attention_heads, got 3 and 4"):
        AutoConfig.from_pretrained(tmp_path, num_key_value_heads=3)
    assert AutoConfig.from_pretrained(tmp_path, rms_norm_eps=1e-3).rms_norm_eps == 1e-3
    with pytest.raises(ValueError, match="tie_word_embeddings has no effect"):
        AutoConfig.for_model("wavepos_baevski_auli", tie_word_embeddings=True)


def test_a_position_stands_in_the_config_as_json_and_as_its_config() -> None:
    config = WaveposLlamaConfig(**SIZES, position="rotary")
    assert config.position["method"] == config.position_config.method == "rotary"
    assert baevski_auli_config("tiny", 97, "alibi").position_config.method == "alibi"
