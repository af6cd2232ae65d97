"""Configs that check themselves: every field against its annotation, then ranges; JSON in and out."""

import dataclasses
import difflib
import inspect
import math
import numbers
import types
from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor

from wavepos.names import did_you_mean

LONGEST = 2**31
"""No length or displacement, in tokens, is larger."""
MOST_ENTRIES = 2**24
"""No learned table has more rows."""
WIDEST = 2**16
"""No relative state or sinusoid has more dimensions."""


class TypedConfig(ABC):
    """A frozen dataclass whose values have the types that its annotations say, and the ranges that `check` asks for.

    Fields may be annotated with bool, int, float, str, `Literal`, tuple[X, …], another `TypedConfig`, and unions of
    these with None. A bool is no int; an int serves as a float; floats are finite; lists and arrays serve as tuples;
    the name of another config alone serves as that config with its defaults.

    Raises:
        ValueError: at construction, naming the field, what it got and what it takes.
    """

    __slots__ = ()

    kind: ClassVar[str]
    """What it configures, as errors say it."""
    tag: ClassVar[str]
    """The key that holds its name in JSON, and the class attribute with the name."""

    def __post_init__(self) -> None:
        for name, annotation in field_types(type(self)).items():
            value = getattr(self, name)
            try:
                taken = _taken(value, annotation)
            except _NotTakenError:
                raise ValueError(f"{self.label()}: {_mismatch(name, value, annotation)}") from None
            object.__setattr__(self, name, taken)
        try:
            self.check()
        except ValueError as error:
            raise ValueError(f"{self.label()}: {error}") from None

    def check(self) -> None:  # noqa: B027 - most have no ranges beyond their types
        """Raise ValueError where a value is out of its range; called once all have their types."""

    @classmethod
    def name(cls) -> str:
        """What stands under its tag in JSON."""
        return str(getattr(cls, cls.tag))

    @classmethod
    def label(cls) -> str:
        """How errors speak of it: position 'rotary'."""
        return f"{cls.kind} {cls.name()!r}"

    def to_json(self) -> dict[str, Any]:
        """Its JSON object, the name under its tag."""
        values = {name: getattr(self, name) for name in field_types(type(self))}
        plain = {key: value.to_json() if isinstance(value, TypedConfig) else value for key, value in values.items()}
        return {self.tag: self.name(), **plain}


Config = TypeVar("Config", bound=TypedConfig)


def find_config(name: object, classes: Sequence[type[Config]]) -> type[Config]:
    """The class of that name, however it is written.

    Raises:
        ValueError: no such name; the error gives the nearest one.
    """
    if isinstance(name, str):
        for config in classes:
            if normalised(name) in names_of(config):
                return config
    known = [config.name() for config in classes]
    spoken = {alias: config.name() for config in classes for alias in names_of(config)}
    close = difflib.get_close_matches(normalised(name), spoken, 1) if isinstance(name, str) else []
    hint = f": did you mean {spoken[close[0]]!r}?" if close else ""
    first = classes[0]
    raise ValueError(f"{first.tag} of a {first.kind} must be one of {', '.join(known)}, got {name!r}{hint}")


def normalised(name: str) -> str:
    """Letters and digits alone, in lower case: Transformer-XL, transformer_xl and transformerXL are one name."""
    return "".join(c for c in name.lower() if c.isalnum())


def names_of(config: type[TypedConfig]) -> set[str]:
    """Every name that stands for it, normalised: its own, that of its class, and its aliases."""
    aliases: Iterable[str] = getattr(config, "aliases", ())
    return {normalised(name) for name in (config.name(), config.__name__.removesuffix("Config"), *aliases)}


def given_fields(data: Mapping[Any, Any], classes: Sequence[type[Config]]) -> tuple[type[Config], dict[str, Any]]:
    """The class that a JSON object stands for, and its other keys, all of them known.

    Raises:
        ValueError: no such class, or an unknown key.
    """
    fields = dict(data)
    config = find_config(fields.pop(classes[0].tag, None), classes)
    known = field_types(config)
    for key in fields:
        if key not in known:
            raise ValueError(
                f"{config.label()} takes {', '.join(known) or 'no keys'}, got the unknown key {key!r}"
                f"{did_you_mean(key, known)}"
            )
    return config, fields


def parsed(data: Mapping[Any, Any], classes: Sequence[type[Config]]) -> Config:
    """The config that a JSON object stands for.

    Raises:
        ValueError: no such class, an unknown or missing key, or a value of the wrong type or out of its range.
    """
    config, fields = given_fields(data, classes)
    for field in dataclasses.fields(config):  # type: ignore[arg-type] # all are dataclasses
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if not optional and field.name not in fields:
            raise ValueError(f"{config.label()} needs the key {field.name!r}")
    return config(**fields)


def require_between(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless low ≤ value ≤ high."""
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low} and {high}, got {value!r}")


@cache
def field_types(config: type[TypedConfig]) -> dict[str, Any]:
    """The annotation of every field, those of the class itself before those that it inherits.

    Raises:
        TypeError: not a dataclass, or an annotation that `TypedConfig` does not name.
    """
    if "__dataclass_fields__" not in vars(config):
        raise TypeError(f"{config.__name__} must be a dataclass")
    hints, own = get_type_hints(config), inspect.get_annotations(config)
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type] # it is a dataclass
    names.sort(key=lambda name: name not in own)  # stable
    types_by_name = {name: hints[name] for name in names}
    for name, annotation in types_by_name.items():
        try:
            _takes(annotation)
        except TypeError as error:
            raise TypeError(f"{config.__name__}.{name}: {error}") from None
    return types_by_name


class _NotTakenError(Exception):
    """The value is not of the annotation's type."""


def _taken(value: object, annotation: Any) -> Any:
    """The value in the type of the annotation."""
    if get_origin(annotation) in (Union, types.UnionType):
        return _taken_by_union(value, get_args(annotation))
    if get_origin(annotation) is Literal:
        if isinstance(value, str | int) and any(value == x and type(value) is type(x) for x in get_args(annotation)):
            return value
        raise _NotTakenError
    if get_origin(annotation) is tuple:
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise _NotTakenError
        return tuple(_taken(x, get_args(annotation)[0]) for x in value)
    if annotation is float:
        return _taken_as_float(value)
    if annotation is int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise _NotTakenError
        return int(value)
    if not isinstance(value, type(None) if annotation is None else annotation):
        raise _NotTakenError
    return value


def _taken_by_union(value: object, arms: tuple[Any, ...]) -> Any:
    configs = [arm for arm in arms if _is_config(arm)]
    if configs and isinstance(value, Mapping):
        return parsed(value, configs)
    if isinstance(value, str) and any(normalised(value) in names_of(config) for config in configs):
        return parsed({configs[0].tag: value}, configs)
    for arm in arms:
        try:
            return _taken(value, arm)
        except _NotTakenError:
            continue
    raise _NotTakenError


def _taken_as_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _NotTakenError
    try:
        number = float(value)
    except OverflowError:
        raise _NotTakenError from None
    if not math.isfinite(number):
        raise _NotTakenError
    return number


def _takes(annotation: Any) -> str:
    """What an annotation takes, in words; TypeError for one that configs do not serve."""
    if get_origin(annotation) in (Union, types.UnionType):
        arms = get_args(annotation)
        configs = [arm for arm in arms if _is_config(arm)]
        words = [_takes(arm) for arm in arms if arm not in configs]
        if configs:
            names = ", ".join(config.name() for config in configs)
            words.insert(0, f"a {configs[0].kind} (an object with {configs[0].tag} one of {names})")
        return " or ".join(words)
    if get_origin(annotation) is Literal and all(isinstance(x, str) for x in get_args(annotation)):
        choices = get_args(annotation)
        return ("one of " if len(choices) > 1 else "") + ", ".join(map(repr, choices))
    if get_origin(annotation) is tuple and len(get_args(annotation)) == 2 and get_args(annotation)[1] is Ellipsis:
        item = get_args(annotation)[0]
        if get_origin(item) is Literal:
            return f"a sequence of {_takes(item).removeprefix('one of ')}"
        return f"a sequence of {_takes(item).removeprefix('a ')}s"
    if _is_config(annotation):
        return f"a {annotation.label()}"
    words_of: dict[object, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a finite number",
        str: "a text",
        type(None): "None",
        None: "None",
    }
    if annotation not in words_of:
        raise TypeError(f"a config's field cannot be annotated with {annotation!r}")
    return words_of[annotation]


def _is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, TypedConfig)


def _mismatch(name: str, value: object, annotation: Any) -> str:
    if isinstance(value, Tensor):
        return (
            f"{name} must be {_takes(annotation)}, got a tensor of shape {tuple(value.shape)}: configs hold numbers, "
            f"which are not trained; give {name}.tolist()"
        )
    choices = [x for arm in (annotation, *get_args(annotation)) if get_origin(arm) is Literal for x in get_args(arm)]
    shown = repr(value) if len(repr(value)) <= 200 else repr(value)[:200] + " …"
    return f"{name} must be {_takes(annotation)}, got {shown}{did_you_mean(value, choices)}"
