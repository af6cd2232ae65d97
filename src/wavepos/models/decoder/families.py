"""The families of transformers that are served, and the derived classes of each."""

from functools import cache, partial
from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from wavepos.models.base import HEADS, register
from wavepos.models.decoder.config import PositionedDecoderConfig
from wavepos.models.decoder.model import DecoderLM, DecoderModel, DecoderPreTrainedModel
from wavepos.models.llama.config import WaveposLlamaConfig
from wavepos.models.llama.model import MODELS as LLAMA_MODELS

_MODULE = "wavepos.models"

_PROVEN = (
    "apertus",
    "arcee",
    "cohere",
    "cohere2",
    "ernie4_5",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "gpt_neox",
    "granite",
    "granitemoe",
    "helium",
    "llama",
    "mistral",
    "mixtral",
    "nemotron",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
)
"""Their model_types, each proven by tests/models/test_families.py."""

FAMILIES = tuple(family for family in _PROVEN if family in CONFIG_MAPPING)
"""Those that the installed transformers has."""

_TABLES = {auto: table for auto, (_, table) in HEADS.items()}


@cache
def family_config(family: str) -> Any:
    """Our config of a family: derived from its own, with the model_type `wavepos_<family's>`."""
    if family == "llama":
        return WaveposLlamaConfig
    theirs = CONFIG_MAPPING[family]
    name = "Wavepos" + theirs.__name__
    body = {
        "__init__": PositionedDecoderConfig.__init__,  # transformers makes one of the fields where a class has none
        "__module__": _MODULE,
        "__qualname__": name,
        "__doc__": f"`{theirs.__name__}` with a position: `PositionedDecoderConfig` says what the two fields are.",
        "family": theirs,
        "model_type": f"wavepos_{family}",
        "make_models": staticmethod(partial(family_models, family)),
    }
    return type(name, (PositionedDecoderConfig, theirs), body)


@cache
def family_models(family: str) -> dict[str, type[PreTrainedModel]]:
    """A family's derived classes by the names of transformers' Auto classes, registered there."""
    if family == "llama":
        return LLAMA_MODELS
    config = family_config(family)
    names = {auto: table[family] for auto, table in _TABLES.items() if family in table}
    shared: dict[str, Any] = {
        "config_class": config,
        # some heads of theirs have another, so that they cannot start from a language model's weights
        "base_model_prefix": getattr(transformers, names["AutoModelForCausalLM"]).base_model_prefix,
        "theirs": getattr(transformers, names["AutoModel"]),
        "auto_names": {"AutoConfig": config.__name__, **{auto: f"Wavepos{name}" for auto, name in names.items()}},
    }
    models: dict[str, type[PreTrainedModel]] = {}
    for auto, name in names.items():
        mixin = {"AutoModel": DecoderModel, "AutoModelForCausalLM": DecoderLM}.get(auto, DecoderPreTrainedModel)
        models[auto] = _derived(mixin, getattr(transformers, name), shared)
        shared.setdefault("inner_class", models["AutoModel"])
    models["AutoModel"].inner_class = models["AutoModel"]
    register(config, models)
    _register_conversions(family, config, models)
    return models


def derived_class(name: str) -> Any:
    """One of our classes by its name, such as WaveposQwen3Config or WaveposQwen3ForCausalLM.

    Raises:
        AttributeError: no family that is served has it.
    """
    if name.startswith("Wavepos"):
        for family in FAMILIES:
            config = family_config(family)
            if name == config.__name__:
                return config
            if name.startswith(config.__name__.removesuffix("Config").removesuffix("Text")):
                for model in family_models(family).values():
                    if model.__name__ == name:
                        return model
    raise AttributeError(f"module 'wavepos.models' has no attribute {name!r}")


def _register_conversions(family: str, config: Any, models: dict[str, Any]) -> None:
    """Let saved weights be read and written in the layout of theirs, where it is not the modules' (experts)."""
    known = [(family, config.model_type)]
    known += [(model.__name__.removeprefix("Wavepos"), model.__name__) for model in models.values()]
    for theirs, ours in known:
        if (mapping := get_checkpoint_conversion_mapping(theirs)) is not None:
            register_checkpoint_conversion_mapping(ours, mapping, overwrite=True)


def _derived(mixin: type, theirs: Any, shared: dict[str, Any]) -> Any:
    name = f"Wavepos{theirs.__name__}"
    body = {
        **shared,
        "__module__": _MODULE,
        "__qualname__": name,
        "__doc__": f"`{theirs.__name__}` with a position in each layer's attention.",
        "_skip_keys_device_placement": theirs._skip_keys_device_placement,
    }
    return type(name, (mixin, theirs), body)
