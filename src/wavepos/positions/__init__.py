"""Positional methods: each fills in the score formula of `terms.py`; here their configs become positions."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from wavepos.positions.alibi import ALiBi, ALiBiConfig
from wavepos.positions.learned_relative import LearnedRelative, LearnedRelativeConfig
from wavepos.positions.nope import NoPE, NoPEConfig
from wavepos.positions.rotary import Rotary, RotaryConfig
from wavepos.positions.rotary_scaling import ROTARY_SCALINGS, RotaryScaling
from wavepos.positions.shaw import ShawRelative, ShawRelativeConfig
from wavepos.positions.t5_bias import T5Bias, T5BiasConfig
from wavepos.positions.terms import Position, ScoreTerms
from wavepos.positions.transformer_xl import TransformerXLRelative, TransformerXLRelativeConfig
from wavepos.positions.wavelet import Wavelet, WaveletConfig

PositionConfig = (
    NoPEConfig
    | RotaryConfig
    | ALiBiConfig
    | T5BiasConfig
    | ShawRelativeConfig
    | TransformerXLRelativeConfig
    | WaveletConfig
    | LearnedRelativeConfig
)
CONFIGS: tuple[type[PositionConfig], ...] = (
    NoPEConfig,
    RotaryConfig,
    ALiBiConfig,
    T5BiasConfig,
    ShawRelativeConfig,
    TransformerXLRelativeConfig,
    WaveletConfig,
    LearnedRelativeConfig,
)
Config = TypeVar("Config")
METHODS = tuple(config.method for config in CONFIGS)


def parse_position(data: str | Mapping[str, Any] | PositionConfig) -> PositionConfig:
    """The config that a method's name or a JSON object stands for; a config stands for itself.

    Args:
        data: "wavelet", or {"method": "rotary", "theta": 500000.0, "scaling": {"rope_type": "linear", "factor": 2.0}}.

    Raises:
        ValueError: an unknown method, an unknown key, or a value out of its range.
    """
    if not isinstance(data, str | Mapping):
        if not isinstance(data, CONFIGS):
            raise ValueError(f"position must be a method's name, its config or a JSON object, got {data!r}")
        return data
    fields: dict[str, Any] = {"method": data} if isinstance(data, str) else dict(data)
    method = fields.pop("method", None)
    for config in CONFIGS:
        if config.method == method:
            scaling = fields.get("scaling")
            if config is RotaryConfig and isinstance(scaling, Mapping):
                fields["scaling"] = _parse_scaling(scaling)
            return _construct(config, f"position {method!r}", fields)
    raise ValueError(f"method of a position must be one of {', '.join(METHODS)}, got {method!r}")


def position_dict(config: PositionConfig) -> dict[str, Any]:
    """The JSON object of a config: `parse_position(position_dict(config)) == config`, also by way of JSON."""
    fields: dict[str, Any] = {"method": config.method, **dataclasses.asdict(config)}
    if isinstance(config, RotaryConfig) and config.scaling is not None:
        fields["scaling"] = {"rope_type": config.scaling.rope_type, **dataclasses.asdict(config.scaling)}
    return fields


def build_position(config: PositionConfig, *, head_dim: int, num_heads: int) -> Position:
    """The position of a config, for query heads of that size and number."""
    match config:
        case NoPEConfig():
            return NoPE()
        case RotaryConfig():
            return Rotary(head_dim, theta=config.theta, scaling=config.scaling)
        case ALiBiConfig():
            return ALiBi(num_heads)
        case T5BiasConfig():
            return T5Bias(num_heads, num_buckets=config.num_buckets, max_distance=config.max_distance)
        case ShawRelativeConfig():
            return ShawRelative(head_dim, max_distance=config.max_distance)
        case TransformerXLRelativeConfig():
            return TransformerXLRelative(head_dim, num_heads, sinusoid_dim=config.sinusoid_dim)
        case WaveletConfig():
            return Wavelet(head_dim, **dataclasses.asdict(config), num_heads=num_heads)
        case LearnedRelativeConfig():
            return LearnedRelative(relative_dim=config.relative_dim, extent=config.extent)


def _parse_scaling(data: Mapping[str, Any]) -> RotaryScaling:
    fields = dict(data)
    rope_type = fields.pop("rope_type", None)
    for scaling in ROTARY_SCALINGS:
        if scaling.rope_type == rope_type:
            return _construct(scaling, f"rotary scaling {rope_type!r}", fields)
    known = ", ".join(scaling.rope_type for scaling in ROTARY_SCALINGS)
    raise ValueError(f"rope_type of a rotary scaling must be one of {known}, got {rope_type!r}")


def _construct(config: type[Config], what: str, fields: dict[str, Any]) -> Config:
    known = {field.name: field for field in dataclasses.fields(config)}  # type: ignore[arg-type] # all are dataclasses
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ValueError(f"{what} takes {', '.join(known) or 'no keys'}, got the unknown key {unknown[0]!r}")
    missing = [name for name, field in known.items() if field.default is dataclasses.MISSING and name not in fields]
    if missing:
        raise ValueError(f"{what} needs the key {missing[0]!r}")
    return config(**fields)


__all__ = [
    "METHODS",
    "ALiBi",
    "LearnedRelative",
    "LearnedRelativeConfig",
    "NoPE",
    "Position",
    "PositionConfig",
    "Rotary",
    "RotaryConfig",
    "ScoreTerms",
    "ShawRelative",
    "T5Bias",
    "TransformerXLRelative",
    "Wavelet",
    "build_position",
    "parse_position",
    "position_dict",
]
