"""wavepos: wavelet positional representations for Transformers, and every rival behind the same attention call."""

from wavepos.ops.attention import attention, attention_map
from wavepos.positions import (
    ALiBi,
    Kerple,
    LearnedRelative,
    NoPE,
    Rotary,
    ShawRelative,
    T5Bias,
    TransformerXLRelative,
    Wavelet,
    register_position,
)

__version__ = "0.1.0"

__all__ = [
    "ALiBi",
    "Kerple",
    "LearnedRelative",
    "NoPE",
    "Rotary",
    "ShawRelative",
    "T5Bias",
    "TransformerXLRelative",
    "Wavelet",
    "__version__",
    "attention",
    "attention_map",
    "register_position",
]
