"""What both families share: the config's field `position`, how they generate, how transformers comes to know them."""

import dataclasses
import functools
import inspect
from abc import ABC
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from wavepos.positions import PositionConfig, parse_position, position_dict

_READ_BY_GENERATE = {"tokenizer", "assistant_tokenizer"}

_OF_TRANSFORMERS = (
    {field.name for field in dataclasses.fields(PreTrainedConfig)}
    | {name for name, value in vars(PreTrainedConfig).items() if isinstance(value, property) and value.fset}
    | {"attn_implementation", "model_type", "auto_map", "quantization_config"}  # what loading and saving add
)
"""Fields that transformers gives to the config of every model."""

_UNSERVED = {
    "layer_types": "every layer sees all keys before it",
    "sliding_window": "every layer sees all keys before it",
    "per_layer_config": "all layers are alike",
}


class PositionedConfig(PreTrainedConfig, ABC):  # type: ignore[misc] # transformers is untyped here
    """A config with a field `position` that takes no field without effect.

    `from_pretrained(path, position={"method": "wavelet", "stretch": 4})` changes the given keys and keeps the saved
    ones where the method is the saved one; another method stands for itself alone.

    Raises:
        ValueError: a field that neither the config nor transformers' own base has, or one that would have no effect.
    """

    position: dict[str, Any] = dataclasses.field(default_factory=dict)
    unserved: ClassVar[Mapping[str, str]] = {}
    """Fields of other models that would have no effect here, and why; None and False are taken for them."""

    def __post_init__(self, **kwargs: Any) -> None:
        for name, why in {**_UNSERVED, **self.unserved}.items():
            if kwargs.pop(name, None) not in (None, False):
                raise ValueError(f"{name} has no effect in {type(self).__name__}: {why}")
        for name in kwargs:
            if name not in _OF_TRANSFORMERS and not name.startswith("_"):  # those are transformers' bookkeeping
                raise self._unknown(name)
        super().__post_init__(**kwargs)

    @property
    def position_config(self) -> PositionConfig:
        """The field `position`, which is a JSON object, as the config that it stands for."""
        return parse_position(self.position)

    @classmethod
    def field_names(cls) -> list[str]:
        """The fields of this family, `position` among them."""
        return [name for name in inspect.signature(cls.__init__).parameters if name not in ("self", "kwargs")]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """transformers' own, with the given fields in place of the saved ones before the config is made and checked."""
        given = {name: kwargs.pop(name) for name in cls.field_names() if name in kwargs}
        if given.get("position") is not None:
            given["position"] = _merged(config_dict.get("position"), given["position"])
        rest_wanted = kwargs.pop("return_unused_kwargs", False)
        config, rest = super().from_dict({**config_dict, **given}, return_unused_kwargs=True, **kwargs)
        if rest_wanted:
            return config, rest
        for name in rest:
            raise cls._unknown(name)
        return config

    @classmethod
    def _unknown(cls, name: str) -> ValueError:
        own = cls.field_names()
        near = get_close_matches(name, own, n=1, cutoff=0.7) or get_close_matches(name, [*own, *_OF_TRANSFORMERS], n=1)
        return ValueError(f"{cls.__name__} has no field {name!r}{f', nearest is {near[0]!r}' if near else ''}")


def _merged(saved: Any, given: str | Mapping[str, Any] | PositionConfig) -> dict[str, Any]:
    if not isinstance(given, str | Mapping):
        return position_dict(given)
    fields = {"method": given} if isinstance(given, str) else dict(given)
    if isinstance(saved, Mapping) and saved.get("method") == fields.get("method"):
        return {**saved, **fields}
    return fields


class PositionedGenerationMixin(GenerationMixin):  # type: ignore[misc] # transformers is untyped here
    """transformers' `generate` for models that refuse arguments they do not know."""

    @functools.wraps(GenerationMixin.prepare_inputs_for_generation)  # transformers reads its signature
    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' own, without what `generate` hands to every step and reads itself."""
        own = {name: value for name, value in kwargs.items() if name not in _READ_BY_GENERATE}
        return super().prepare_inputs_for_generation(*args, **own)


def register(
    config: type[PositionedConfig],
    *,
    causal_lm: type[PreTrainedModel],
    base: type[PreTrainedModel] | None = None,
    classifier: type[PreTrainedModel] | None = None,
) -> None:
    """Make a family known to transformers: to its Auto classes, and by name where it asks for names.

    Trainer's label smoothing shifts labels, and pipelines accept a model, only for class names in transformers' tables
    of names, which `AutoModelForCausalLM.register` leaves as they are.

    Args:
        config: the family's config.
        causal_lm: its language model.
        base: its model without a head.
        classifier: its model for sequence classification.
    """
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModelForCausalLM.register(config, causal_lm, exist_ok=True)
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type] = causal_lm.__name__
    if base is not None:
        AutoModel.register(config, base, exist_ok=True)
    if classifier is not None:
        AutoModelForSequenceClassification.register(config, classifier, exist_ok=True)
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[config.model_type] = classifier.__name__
