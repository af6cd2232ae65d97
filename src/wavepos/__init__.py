"""wavepos: wavelet positional representations for Transformers, and every rival behind the same attention call."""

from typing import TYPE_CHECKING

from wavepos._lazy import lazy_names

if TYPE_CHECKING:
    from wavepos.ops.attention import attention, attention_map
    from wavepos.positions import (
        ALiBi,
        Cable,
        ForgetGate,
        Kerple,
        LearnedRelative,
        NoPE,
        Position,
        Rotary,
        ScoreTerms,
        ShawRelative,
        T5Bias,
        TransformerXLRelative,
        Wavelet,
        register_position,
    )
    from wavepos.wavelets import register_wavelet

__version__ = "0.1.0"

__all__ = [
    "ALiBi",
    "Cable",
    "ForgetGate",
    "Kerple",
    "LearnedRelative",
    "NoPE",
    "Position",
    "Rotary",
    "ScoreTerms",
    "ShawRelative",
    "T5Bias",
    "TransformerXLRelative",
    "Wavelet",
    "__version__",
    "attention",
    "attention_map",
    "register_position",
    "register_wavelet",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            **{name: "wavepos.positions" for name in __all__ if name != "__version__"},
            **dict.fromkeys(("attention", "attention_map"), "wavepos.ops.attention"),
            "register_wavelet": "wavepos.wavelets",
            **{name: f"wavepos.{name}" for name in ("ops", "positions", "wavelets")},
        },
    )
