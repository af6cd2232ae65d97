"""The configs of served families: the family's own fields, the field `position`, and whether its own rotation stays."""

import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar, Self

from transformers.configuration_utils import PreTrainedConfig

from wavepos.models.positioned_config import PositionedConfig, with_family_scales
from wavepos.positions import LayersLike, layer_configs, parse_layers
from wavepos.positions.rotary import RotaryConfig

_LEGACY = {
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "rotary_emb_base",
    "rotary_pct",
    "rope_local_base_freq",
}
"""Older names of `rope_parameters`, which transformers still reads."""

_DERIVED = {"head_dim", "ignore_keys_at_rope_validation", "num_local_experts"}
"""Fields that some families' configs have without naming them among their own."""

_UNSERVED = {
    "attn_logit_softcapping": "wavepos.attention does not soft-cap scores; attn_logit_softcapping=None leaves them "
    "uncapped, and weights that were trained with it are to be trained on",
    "use_bidirectional_attention": "positions here are of causal decoders",
}


class PositionedDecoderConfig(PositionedConfig):
    """A family's config with any position.

    Args:
        position: as `WaveposLlamaConfig` takes it. A `window` of it and the family's own `sliding_window` both hold.
        native_rotation: whether the family's own rotation stays, as `rope_parameters` says it: then position is what
            comes on top ("nope": nothing). False: `rope_parameters` has no effect.
        kwargs: the fields of the family and of transformers.

    Raises:
        ValueError: a field that neither the family nor transformers' own base has, or one that is not served; two
            rotations; a list of positions that has not one for each layer.
    """

    family: ClassVar[type[PreTrainedConfig]]
    native_rotation: bool

    def __init__(self, *, position: LayersLike = "wavelet", native_rotation: bool = False, **kwargs: Any) -> None:
        name = type(self).__name__
        for key in kwargs:
            if not self.knows(key):
                raise self._unknown(key)
        if not isinstance(native_rotation, bool):
            raise ValueError(f"native_rotation must be True or False, got {native_rotation!r}")
        super(PositionedConfig, self).__init__(**kwargs)  # the family's own: `position` is checked once sizes are known
        for key, why in _UNSERVED.items():
            if getattr(self, key, None) not in (None, False):
                raise ValueError(f"{key}={getattr(self, key)!r} is not served in {name}: {why}")
        if getattr(self, "is_causal", True) is False:
            raise ValueError(f"is_causal=False is not served in {name}: positions here are of causal decoders")
        layers = layer_configs(parse_layers(position), self.num_hidden_layers)
        if native_rotation and any(isinstance(own, RotaryConfig) for own in layers):
            raise ValueError(
                f"position 'rotary' and native_rotation=True of {name} would rotate twice: give position='nope' to "
                "keep the family's own rotation alone"
            )
        self.position = with_family_scales(position)
        self.native_rotation = native_rotation
        self.make_models()

    @staticmethod
    @abstractmethod
    def make_models() -> Any:
        """Make the family's model classes known to transformers: their code is read where there is a first config."""

    @classmethod
    def field_names(cls) -> list[str]:
        """The fields of the family, `position` and `native_rotation`."""
        base = {field.name for field in dataclasses.fields(PreTrainedConfig)}
        own = [field.name for field in dataclasses.fields(cls.family) if field.name not in base]
        return [*own, "position", "native_rotation"]

    @classmethod
    def knows(cls, name: str) -> bool:
        """Whether a field has a meaning here."""
        return name in {*cls.field_names(), *cls.attribute_map, *_LEGACY, *_DERIVED} or super().knows(name)

    @classmethod
    def of(cls, theirs: PreTrainedConfig, position: LayersLike, native_rotation: bool) -> Self:
        """The config of our family with the fields of one of theirs."""
        data = {key: value for key, value in theirs.to_dict().items() if cls.knows(key)}
        for key in ("architectures", "model_type", "auto_map", "transformers_version"):
            data.pop(key, None)
        return cls(**data, position=position, native_rotation=native_rotation)
