"""Which positional methods there are: the union of configs, users' own beside it, and the door for names and JSON."""

import importlib
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from wavepos._entry_points import UNKNOWN, load_entry_points
from wavepos.names import POSITIONS
from wavepos.positions.config import PositionConfig
from wavepos.positions.terms import Position
from wavepos.positions.typed import field_types, find_config, given_fields, names_of, parsed


def _built_in(place: str) -> type[PositionConfig]:
    module, _, name = place.partition(":")
    config: type[PositionConfig] = getattr(importlib.import_module(module), name)
    return config


BUILT_IN = tuple(_built_in(place) for place in POSITIONS.values())

PositionLike = str | Mapping[str, Any] | PositionConfig
"""A method's name, its JSON object, that object as text, or its config."""

_registered: dict[str, type[PositionConfig]] = {}
Registered = TypeVar("Registered", bound=type[PositionConfig])


def register_position(config: Registered) -> Registered:
    """Make a method of your own known by its name: to models, config files and the command line.

    Use it as a decorator. A saved model is loaded again once the module that registers its method is imported. Commands
    import it where it is named, `--import my_module` or `--import my_file.py`, or installed with an entry point in the
    group "wavepos.positions".

    Args:
        config: a frozen dataclass that extends `PositionConfig`, with `method` and `build`. The same class defined
            anew, as a notebook does, takes the former's place.

    Returns:
        The class itself.

    Raises:
        ValueError: its name, that of its class or an alias is taken.
        TypeError: it is not such a class.

    Example:
        >>> from dataclasses import dataclass
        >>> from typing import ClassVar
        >>> from wavepos import ALiBi
        >>> from wavepos.positions import Position, PositionConfig, parse_position, register_position
        >>> @register_position
        ... @dataclass(frozen=True, slots=True, kw_only=True)
        ... class DoubledALiBiConfig(PositionConfig):
        ...     method: ClassVar[str] = "doubled_alibi"
        ...     def build(self, *, head_dim: int, num_heads: int) -> Position:
        ...         return ALiBi(num_heads)
        >>> parse_position("Doubled-ALiBi").method
        'doubled_alibi'
    """
    _check_class(config)
    for other in known_positions():
        if _is_same(other, config):
            continue
        if shared := names_of(other) & names_of(config):
            raise ValueError(f"{config.__name__} has the name {min(shared)!r}, which {other.__name__} has already")
    _registered[config.method] = config
    return config


def known_positions() -> tuple[type[PositionConfig], ...]:
    """The configs of all methods, those of this package first."""
    return (*BUILT_IN, *_registered.values())


def position_fields(data: PositionLike) -> dict[str, Any]:
    """The JSON object as it was given, under the method's own name, without the defaults.

    This is what names and objects are brought to where given keys are joined with others; `parse_position` is the door
    to everything else.

    Args:
        data: "RoPE", "wavelet", {"method": "rotary", "theta": 5e5}, or such an object as JSON text.

    Raises:
        ValueError: an unknown method or key.
    """
    if isinstance(data, PositionConfig):
        return data.to_json()
    if isinstance(data, str) and data.lstrip().startswith("{"):
        data = _from_text(data)
    if isinstance(data, Mapping) and {"local", "global"} & set(data):
        raise ValueError(f"position must be one method here, got a pattern, which models and runs take: {data!r}")
    if not isinstance(data, str | Mapping):
        raise ValueError(f"position must be a method's name, its config or a JSON object, got {data!r}")
    fields = {"method": data} if isinstance(data, str) else dict(data)
    _load_if_unknown(fields.get("method"))
    config, given = given_fields(fields, known_positions())
    return {"method": config.method, **given}


def parse_position(data: PositionLike) -> PositionConfig:
    """The config that a method's name or a JSON object stands for; a config stands for itself.

    Args:
        data: "wavelet", or {"method": "rotary", "theta": 500000.0, "scaling": {"rope_type": "linear", "factor": 2.0}}.
            Names are understood in any case, with or without hyphens: "RoPE", "Transformer-XL".

    Raises:
        ValueError: an unknown method, an unknown key, or a value of the wrong type or out of its range.
    """
    if isinstance(data, PositionConfig):
        return data
    return parsed(position_fields(data), known_positions())


def position_dict(config: PositionConfig) -> dict[str, Any]:
    """The JSON object of a config: `parse_position(position_dict(config)) == config`, also by way of JSON."""
    return config.to_json()


def build_position(config: PositionConfig, *, head_dim: int, num_heads: int) -> Position:
    """The position of a config, for query heads of that size and number."""
    return config.build(head_dim=head_dim, num_heads=num_heads)


def _from_text(text: str) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"position must be a method's name or a JSON object, got {text!r}: {error}") from error
    return data


def _load_if_unknown(method: object) -> None:
    """Import what may register the method, if it is unknown.

    Raises:
        ValueError: it stays unknown.
    """
    try:
        find_config(method, known_positions())
    except ValueError:
        load_entry_points()
        try:
            find_config(method, known_positions())
        except ValueError as error:
            raise ValueError(f"{error}; {UNKNOWN}" if isinstance(method, str) else str(error)) from None


def _check_class(config: object) -> None:
    if not isinstance(config, type) or not issubclass(config, PositionConfig):
        raise TypeError(f"a position's config must be a class that extends PositionConfig, got {config!r}")
    method = getattr(config, "method", None)
    if not isinstance(method, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", method):
        raise TypeError(f"{config.__name__}.method must be lower-case letters, digits and underscores, got {method!r}")
    field_types(config)
    if "method" in field_types(config):
        raise TypeError(f"{config.__name__}.method must be a ClassVar[str], for it is the name of the class")
    if abstract := sorted(config.__abstractmethods__):
        raise TypeError(f"{config.__name__} must define {', '.join(abstract)}")
    if config.__post_init__ is not PositionConfig.__post_init__:
        raise TypeError(f"{config.__name__} must define check() in place of __post_init__, which checks the types")


def _is_same(one: type, other: type) -> bool:
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
