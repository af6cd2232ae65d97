"""The config of both families: sizes of their own and the field `position`, of all layers or of each."""

import dataclasses
import inspect
from abc import ABC
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

from transformers.configuration_utils import PreTrainedConfig

from wavepos.positions import LayersLike, PositionConfig, layer_configs, parse_layers, parse_position, position_dict
from wavepos.positions.layers import merged, with_each
from wavepos.positions.wavelet import WaveletConfig
from wavepos.wavelets import Sampled, mother_wavelet

PAPER_SCALES = tuple(2.0**i for i in range(2, 10))
"""a = 2² … 2⁹ (section 7.1)."""

_OF_TRANSFORMERS = (
    set(vars(PreTrainedConfig()))  # not dataclasses.fields: transformers 5.0 has no dataclass here
    | {name for name, value in vars(PreTrainedConfig).items() if isinstance(value, property) and value.fset}
    # what loading and saving add
    | {"attn_implementation", "experts_implementation", "model_type", "auto_map", "quantization_config"}
)
"""Fields that transformers gives to the config of every model."""

_WINDOWS = "windows stand in position={'method': …, 'window': …}, of all layers or of each"
_UNSERVED = {
    "layer_types": _WINDOWS,
    "sliding_window": _WINDOWS,
    "per_layer_config": "layers differ in position=[…] alone",
}


class PositionedConfig(PreTrainedConfig, ABC):  # type: ignore[misc] # transformers is untyped here
    """A config with a field `position` that takes no field without effect.

    `from_pretrained(path, position={"method": "wavelet", "stretch": 4})` changes the given keys and keeps the saved
    ones where the method is the saved one; another method stands for itself alone, and so does a list or a pattern.
    In a saved list or pattern one method changes the layers that have it (`wavepos.positions.layers.merged`).

    Raises:
        ValueError: a field that neither the config nor transformers' own base has, or one that would have no effect;
            a list of positions that has not one for each layer.
    """

    position: Any
    """JSON: an object with a method, a list of such objects, or a pattern of two."""
    num_hidden_layers: int
    unserved: ClassVar[Mapping[str, str]] = {}
    """Fields of other models that would have no effect here, and why; None and False are taken for them."""

    def __init__(self, *, position: Any, **kwargs: Any) -> None:
        for name, why in {**_UNSERVED, **self.unserved}.items():
            if kwargs.pop(name, None) not in (None, False):
                raise ValueError(f"{name} has no effect in {type(self).__name__}: {why}")
        for name in kwargs:
            if not self.knows(name):
                raise self._unknown(name)
        layer_configs(parse_layers(position), self.num_hidden_layers)
        self.position = position
        super().__init__(**kwargs)

    @property
    def output_attentions(self) -> bool | None:
        """Whether weights are returned where the caller does not say, whatever the attention function."""
        return self._output_attentions

    @output_attentions.setter
    def output_attentions(self, value: bool | None) -> None:
        self._output_attentions = value

    def validate_output_attentions(self) -> None:
        """transformers' own would refuse all but its "eager"; all of our functions give weights."""

    @property
    def position_configs(self) -> tuple[PositionConfig, ...]:
        """The config of each layer's position; where layers are left out, those of the first ones."""
        layers = parse_layers(self.position)
        if isinstance(layers, tuple):
            layers = layers[: self.num_hidden_layers]
        return layer_configs(layers, self.num_hidden_layers)

    @property
    def position_config(self) -> PositionConfig:
        """The config of the position that all layers have; ValueError where they differ."""
        return parse_position(self.position)

    @property
    def relative_bias(self) -> bool:
        """Whether the projections to relative states have a bias."""
        return False

    @classmethod
    def field_names(cls) -> list[str]:
        """The fields of this family, `position` among them."""
        return [name for name in inspect.signature(cls.__init__).parameters if name not in ("self", "kwargs")]

    @classmethod
    def knows(cls, name: str) -> bool:
        """Whether a field that is not among the family's own has a meaning here."""
        return name in _OF_TRANSFORMERS or name.startswith("_")  # transformers' bookkeeping

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """transformers' own, with the given fields in place of the saved ones before the config is made and checked."""
        given = {name: kwargs.pop(name) for name in (*cls.field_names(), *cls.unserved) if name in kwargs}
        if given.get("position") is not None:
            given["position"] = merged(config_dict.get("position"), given["position"])
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


def with_family_scales(position: LayersLike) -> Any:
    """The position's JSON, with the family's scales where a wavelet's are not given."""
    return with_each(parse_layers(position), _with_scales)


def _with_scales(config: PositionConfig) -> dict[str, Any]:
    if not isinstance(config, WaveletConfig) or config.scales is not None:
        return position_dict(config)
    if isinstance(mother_wavelet(config.wavelet), Sampled):  # its scales are levels
        return position_dict(config)
    return position_dict(dataclasses.replace(config, scales=PAPER_SCALES))
