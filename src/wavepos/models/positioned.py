"""What both families share: the config's field `position`, how they generate, how transformers comes to know them."""

import functools
from abc import ABC
from collections.abc import Mapping
from typing import Any

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

from wavepos.positions import PositionConfig, position_dict

_READ_BY_GENERATE = {"tokenizer", "assistant_tokenizer"}


class PositionedConfig(PreTrainedConfig, ABC):  # type: ignore[misc] # transformers is untyped here
    """A config with a field `position`.

    `from_pretrained(path, position={"method": "wavelet", "stretch": 4})` changes the given keys and keeps the saved
    ones where the method is the saved one; another method stands for itself alone.
    """

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """transformers' own, with `position` merged into the saved one before the config is made."""
        given = kwargs.pop("position", None)
        if given is not None:
            config_dict = {**config_dict, "position": _merged(config_dict.get("position"), given)}
        return super().from_dict(config_dict, **kwargs)


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
