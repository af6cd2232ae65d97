"""A trained RoPE Llama's weights in our family, with its own rotation or another positional method."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from wavepos.models.llama.config import WaveposLlamaConfig
from wavepos.models.llama.model import WaveposLlamaForCausalLM
from wavepos.models.loading import check_loaded
from wavepos.positions import LayersLike, RotaryConfig, layers_fields, parse_position, position_dict
from wavepos.positions.layers import with_each_field

logger = logging.getLogger(__name__)

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "attention_bias",
    "mlp_bias",
    "attention_dropout",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
)


def from_llama(
    source: str | Path | PreTrainedModel,
    position: LayersLike = "wavelet",
    *,
    dtype: torch.dtype | str = "auto",
) -> WaveposLlamaForCausalLM:
    """A Llama's weights with another positional method; what was changed is logged as a warning.

    With "rotary" the model computes what the Llama computes. With any other method its attention has lost the
    positions it was trained with: train it on (README, "Convert a Llama").

    Args:
        source: directory or hub name of a Llama checkpoint, or a `LlamaForCausalLM`.
        position: a method's name or JSON object, or a list or pattern of layers; a "rotary" without θ and scaling takes
            the Llama's.
        dtype: of the weights, where source is a path; "auto": as they are saved.

    Returns:
        The model; learned parameters of the method hold their starting values.

    Raises:
        ValueError: no Llama, a rotation that is not served, or weights that do not fit.
    """
    loading: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    if isinstance(source, PreTrainedModel):
        path, theirs = None, source.config
        loading |= {"state_dict": dict(source.state_dict()), "dtype": source.dtype}
    else:
        path, theirs = str(source), AutoConfig.from_pretrained(source, trust_remote_code=False)
        loading["dtype"] = dtype
    config = converted_config(theirs, position)
    model, info = WaveposLlamaForCausalLM.from_pretrained(path, config=config, **loading)
    if isinstance(source, PreTrainedModel):
        model.generation_config = source.generation_config
    new = sorted(info["missing_keys"])
    check_loaded(
        info, path or type(source).__name__, new={key for key in new if ".position." in key or ".r_proj." in key}
    )
    logger.warning(_changes(path or type(source).__name__, theirs, config, model, new))
    return model  # type: ignore[no-any-return] # transformers is untyped here


def converted_config(config: PreTrainedConfig, position: LayersLike) -> WaveposLlamaConfig:
    """The config of our family with a Llama's sizes.

    Raises:
        ValueError: not a Llama's config, or one that asks for the rotation of a part of the head.
    """
    if config.model_type != "llama":
        raise ValueError(f"source must be a model of type 'llama', got {config.model_type!r}")
    sizes = {name: getattr(config, name) for name in _SIZES}

    def with_theirs(fields: dict[str, Any]) -> dict[str, Any]:
        bare = fields["method"] == RotaryConfig.method and not set(fields) - {"method", "temperature", "window"}
        return {**position_dict(_rotation(config)), **fields} if bare else fields

    return WaveposLlamaConfig(**sizes, position=with_each_field(layers_fields(position), with_theirs))


def _rotation(config: PreTrainedConfig) -> RotaryConfig:
    """θ and scaling of a Llama's `rope_parameters`."""
    parameters = dict(config.rope_parameters)
    rope_type, theta = parameters.pop("rope_type", "default"), parameters.pop("rope_theta")
    parameters.pop("type", None)
    part = parameters.pop("partial_rotary_factor", 1.0)
    fields: dict[str, Any] = {"method": "rotary", "theta": float(theta)}
    if rope_type == "proportional":
        fields |= {"partial_rotary_factor": part, "partial_rotary_style": "high_frequencies"}
        rope_type = "linear" if parameters.get("factor", 1.0) != 1.0 else "default"
    elif part != 1.0:
        raise ValueError(
            f"source says that it rotates a part of each head (partial_rotary_factor={part}), and transformers' Llama "
            "rotates all of it: which is meant cannot be known"
        )
    if rope_type != "default":
        fields["scaling"] = {"rope_type": rope_type, **_completed(rope_type, parameters, config)}
    parsed = parse_position(fields)
    assert isinstance(parsed, RotaryConfig)
    return parsed


def _completed(rope_type: str, parameters: dict[str, Any], config: PreTrainedConfig) -> dict[str, Any]:
    """A scaling's parameters with those that transformers takes from the config around them."""
    if rope_type == "dynamic":
        parameters.setdefault("max_position_embeddings", config.max_position_embeddings)
        parameters.pop("original_max_position_embeddings", None)
    elif rope_type in ("yarn", "longrope"):
        parameters.setdefault("original_max_position_embeddings", config.max_position_embeddings)
        if rope_type == "longrope":
            trained = parameters["original_max_position_embeddings"]
            parameters.setdefault("factor", config.max_position_embeddings / trained)
    return parameters


def _changes(name: str, theirs: Any, config: WaveposLlamaConfig, model: Any, new: list[str]) -> str:
    taken = sum(1 for key in model.state_dict() if key not in new)
    told = f"from_llama: {taken} tensors of {name} taken over; position: {theirs.rope_parameters} -> {config.position}"
    learned = f"; starting values: {', '.join(new[:3])}{' …' if len(new) > 3 else ''}" if new else ""
    if config.position == position_dict(_rotation(theirs)):
        return f"{told}{learned}; nothing else changed"
    return f"{told}{learned}; the weights were trained with other positions: train on before use"
