"""What the configs of our models share: a position that stands in config.json and can be changed while loading."""

from abc import ABC
from collections.abc import Mapping
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from wavepos.positions import PositionConfig, PositionLike, parse_position, position_dict, position_fields


class PositionedConfig(PreTrainedConfig, ABC):  # type: ignore[misc] # transformers is untyped here
    """A config with a field `position`.

    `from_pretrained(path, position={"method": "wavelet", "stretch": 4})` changes the given keys and keeps the saved
    ones where the method is the saved one; another method stands for itself alone.
    """

    @property
    def position_config(self) -> PositionConfig:
        """The field `position`, which is a JSON object, as the config that it stands for."""
        return parse_position(self.position)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """transformers' own, with `position` merged into the saved one before the config is made."""
        given = kwargs.pop("position", None)
        if given is not None:
            config_dict = {**config_dict, "position": _merged(config_dict.get("position"), given)}
        return super().from_dict(config_dict, **kwargs)


def _merged(saved: Any, given: PositionLike) -> dict[str, Any]:
    if isinstance(given, PositionConfig):
        return position_dict(given)
    fields = position_fields(given)
    if isinstance(saved, Mapping) and saved.get("method") == fields["method"]:
        return {**saved, **fields}
    return fields
