"""The positions of a model's layers: one method for all, one for each, or a pattern of local and global layers.

"wavelet"
["rotary", "rotary", "nope", "rotary"]
{"local": {"method": "wavelet", "window": 512}, "global": "nope", "every": 4}
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wavepos.positions.config import PositionConfig
from wavepos.positions.registry import PositionLike, parse_position, position_fields
from wavepos.positions.typed import LONGEST

LayersLike = PositionLike | Sequence[PositionLike]
"""A method for all layers, a list of methods, or a pattern; names, objects or configs, or all of it as JSON text."""

_PATTERN = ("local", "global", "every")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPattern:
    """Layers `every`, 2·`every`, … counted from 1 are global and the others local, as in transformers' `layer_types`.

    Attributes:
        local_layers: the position of the local layers.
        global_layers: that of the global ones.
        every: at least 1; with 1 all are global.
    """

    local_layers: PositionConfig
    global_layers: PositionConfig
    every: int


LayerPositions = PositionConfig | tuple[PositionConfig, ...] | LayerPattern
"""What stands for the layers of a model, parsed."""


def parse_layers(data: LayersLike | LayerPattern) -> LayerPositions:
    """What a method, a list of methods or a pattern stands for.

    Raises:
        ValueError: a list without a method, a pattern without one of its keys or with another, an `every` that is no
            whole number from 1 on, or whatever `parse_position` refuses.
    """
    if isinstance(data, PositionConfig | LayerPattern):
        return data
    return _parsed(layers_fields(data))


def layers_fields(data: LayersLike | LayerPattern) -> Any:
    """The JSON of the layers as it was given, under the methods' own names, without the defaults.

    Raises:
        ValueError: as `parse_layers`, but for values that `position_fields` does not look at.
    """
    if isinstance(data, PositionConfig | LayerPattern):
        return layers_json(data)
    return _fields(_from_text(data) if isinstance(data, str) and data.lstrip().startswith(("[", "{")) else data)


def _fields(data: Any) -> Any:
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        if not data:
            raise ValueError("position must hold a method for each layer, got an empty list")
        return [position_fields(one) for one in data]
    if not isinstance(data, Mapping) or not {"local", "global"} & set(data):
        return position_fields(data)
    if missing := [key for key in _PATTERN if key not in data]:
        raise ValueError(f"a pattern of layers has the keys local, global and every, got none named {missing[0]!r}")
    if unknown := sorted(set(data) - set(_PATTERN)):
        raise ValueError(
            f"a pattern of layers has the keys local, global and every, got the unknown key {unknown[0]!r}"
        )
    every = data["every"]
    if not isinstance(every, int) or isinstance(every, bool) or not 1 <= every <= LONGEST:
        raise ValueError(f"every of a pattern of layers must be a whole number of at least 1, got {every!r}")
    return {"local": position_fields(data["local"]), "global": position_fields(data["global"]), "every": every}


def layers_json(layers: LayerPositions) -> Any:
    """The JSON of the layers: `parse_layers(layers_json(layers)) == layers`, also by way of JSON."""
    return with_each(layers, lambda config: config.to_json())


def layer_configs(layers: LayerPositions, num_layers: int) -> tuple[PositionConfig, ...]:
    """The config of each layer.

    Raises:
        ValueError: a list of another length.
    """
    match layers:
        case LayerPattern():
            kinds = (
                layers.global_layers if (i + 1) % layers.every == 0 else layers.local_layers for i in range(num_layers)
            )
            return tuple(kinds)
        case tuple():
            if len(layers) != num_layers:
                raise ValueError(f"position must hold a method for each of {num_layers} layers, got {len(layers)}")
            return layers
        case _:
            return (layers,) * num_layers


def distinct_configs(layers: LayerPositions) -> tuple[PositionConfig, ...]:
    """The configs that occur, each once."""
    match layers:
        case LayerPattern():
            return tuple(dict.fromkeys((layers.local_layers, layers.global_layers)))
        case tuple():
            return tuple(dict.fromkeys(layers))
        case _:
            return (layers,)


def with_each(layers: LayerPositions, change: Callable[[PositionConfig], Any]) -> Any:
    """The JSON of the layers with what a function makes of each config in its place."""
    match layers:
        case LayerPattern():
            return {"local": change(layers.local_layers), "global": change(layers.global_layers), "every": layers.every}
        case tuple():
            return [change(config) for config in layers]
        case _:
            return change(layers)


def with_each_field(fields: Any, change: Callable[[dict[str, Any]], Any]) -> Any:
    """What `layers_fields` gave, with what a function makes of each object in its place."""
    if isinstance(fields, list):
        return [change(one) for one in fields]
    if "method" in fields:
        return change(fields)
    return {"local": change(fields["local"]), "global": change(fields["global"]), "every": fields["every"]}


def merged(saved: Any, given: LayersLike) -> Any:
    """Saved positions with given keys in place of theirs.

    A list or a pattern stands for itself alone. One method changes the given keys in every layer whose saved method it
    is, and leaves the other layers as they are; a config stands for all its keys. Where no layer has that method it
    stands for all layers.

    Args:
        saved: JSON of the saved layers; None: there are none.
        given: what is to hold now.

    Returns:
        JSON of the layers.

    Raises:
        ValueError: as `parse_layers`.
    """
    fields = layers_fields(given)
    if isinstance(given, PositionConfig):
        fields = {"temperature": None, "window": None, **fields}  # which JSON leaves out where they are None
    if not isinstance(saved, Mapping | list) or isinstance(fields, list) or "method" not in fields:
        return fields
    met = []

    def changed(one: Any) -> Any:
        if not isinstance(one, Mapping) or one.get("method") != fields["method"]:
            return one
        met.append(one)
        return {**one, **fields}

    everywhere = with_each_field(saved, changed)
    return everywhere if met else fields


def _parsed(fields: Any) -> LayerPositions:
    if isinstance(fields, list):
        return tuple(parse_position(one) for one in fields)
    if "method" in fields:
        return parse_position(fields)
    return LayerPattern(
        local_layers=parse_position(fields["local"]),
        global_layers=parse_position(fields["global"]),
        every=fields["every"],
    )


def _from_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"position must be a method's name or JSON, got {text!r}: {error}") from error
