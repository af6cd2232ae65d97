"""Positional methods: each fills in the score formula of `terms.py`; `registry.py` turns names and JSON into them."""

from wavepos.names import METHODS
from wavepos.positions.alibi import ALiBi
from wavepos.positions.cable import Cable
from wavepos.positions.config import PositionConfig
from wavepos.positions.forget_gate import ForgetGate
from wavepos.positions.kerple import Kerple
from wavepos.positions.layers import LayersLike, layer_configs, layers_fields, layers_json, parse_layers
from wavepos.positions.learned_relative import LearnedRelative, LearnedRelativeConfig
from wavepos.positions.nope import NoPE
from wavepos.positions.registry import (
    PositionLike,
    build_position,
    known_positions,
    parse_position,
    position_dict,
    position_fields,
    register_position,
)
from wavepos.positions.rotary import Rotary, RotaryConfig
from wavepos.positions.shaw import ShawRelative
from wavepos.positions.t5_bias import T5Bias
from wavepos.positions.temperature import Temperature
from wavepos.positions.terms import Position, ScoreTerms
from wavepos.positions.transformer_xl import TransformerXLRelative
from wavepos.positions.wavelet import Wavelet

__all__ = [
    "METHODS",
    "ALiBi",
    "Cable",
    "ForgetGate",
    "Kerple",
    "LayersLike",
    "LearnedRelative",
    "LearnedRelativeConfig",
    "NoPE",
    "Position",
    "PositionConfig",
    "PositionLike",
    "Rotary",
    "RotaryConfig",
    "ScoreTerms",
    "ShawRelative",
    "T5Bias",
    "Temperature",
    "TransformerXLRelative",
    "Wavelet",
    "build_position",
    "known_positions",
    "layer_configs",
    "layers_fields",
    "layers_json",
    "parse_layers",
    "parse_position",
    "position_dict",
    "position_fields",
    "register_position",
]
