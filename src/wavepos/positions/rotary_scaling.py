"""Frequencies of rotary position embeddings and the scalings that stretch them.

Each scaling has the fields that it has in transformers' `rope_parameters` and gives the frequencies that
transformers' `ROPE_INIT_FUNCTIONS` gives.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Frequencies = tuple[Tensor, float]
"""Inverse frequencies, float32 [D/2], and the factor on cos and sin."""


def inverse_frequencies(head_dim: int, theta: float) -> Tensor:
    """θ^(−2i/D), i = 0 … D/2 − 1 (Eq. 6), in radians a token; float32 [D/2]."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).to(torch.float32) / head_dim
    return 1.0 / (theta**exponent)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """Position interpolation (Chen et al., 2023): every frequency divided by `factor`."""

    rope_type: ClassVar[str] = "linear"
    factor: float

    def __post_init__(self) -> None:
        _require_factor(self.factor)

    def frequencies(self, head_dim: int, theta: float, seq_len: int) -> Frequencies:
        return inverse_frequencies(head_dim, theta) / self.factor, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicNTKScaling:
    """Dynamic NTK (bloc97, 2023): θ grows with the sequence once it is longer than `max_position_embeddings`."""

    rope_type: ClassVar[str] = "dynamic"
    factor: float
    max_position_embeddings: int

    def __post_init__(self) -> None:
        _require_factor(self.factor)

    def frequencies(self, head_dim: int, theta: float, seq_len: int) -> Frequencies:
        stretched = max(seq_len, self.max_position_embeddings) / self.max_position_embeddings
        growth = (self.factor * stretched - (self.factor - 1.0)) ** (head_dim / (head_dim - 2))
        return inverse_frequencies(head_dim, theta * growth), 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """YaRN (Peng et al., 2024): high frequencies kept, low ones interpolated, a ramp between, and a temperature."""

    rope_type: ClassVar[str] = "yarn"
    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        _require_factor(self.factor)

    def frequencies(self, head_dim: int, theta: float, seq_len: int) -> Frequencies:
        base = inverse_frequencies(head_dim, theta)
        low, high = self._correction_range(head_dim, theta)
        ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0.0, 1.0)
        return (base / self.factor) * ramp + base * (1.0 - ramp), self._temperature()

    def _correction_range(self, head_dim: int, theta: float) -> tuple[float, float]:
        def dimension(rotations: float) -> float:
            ratio = self.original_max_position_embeddings / (rotations * 2.0 * math.pi)
            return head_dim * math.log(ratio) / (2.0 * math.log(theta))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        return low, high + 0.001 if low == high else high

    def _temperature(self) -> float:
        def mscale_of(mscale: float) -> float:
            return 1.0 if self.factor <= 1.0 else 0.1 * mscale * math.log(self.factor) + 1.0

        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return mscale_of(self.mscale) / mscale_of(self.mscale_all_dim)
        return mscale_of(1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRopeScaling:
    """LongRoPE (Ding et al., 2024): a searched factor a frequency, one set for short and one for long sequences."""

    rope_type: ClassVar[str] = "longrope"
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        _require_factor(self.factor)
        object.__setattr__(self, "short_factor", tuple(self.short_factor))
        object.__setattr__(self, "long_factor", tuple(self.long_factor))

    def frequencies(self, head_dim: int, theta: float, seq_len: int) -> Frequencies:
        for name, factors in (("short_factor", self.short_factor), ("long_factor", self.long_factor)):
            if len(factors) != head_dim // 2:
                raise ValueError(f"{name} must hold head_dim / 2 = {head_dim // 2} factors, got {len(factors)}")
        is_long = seq_len > self.original_max_position_embeddings
        factors_C = torch.tensor(self.long_factor if is_long else self.short_factor, dtype=torch.float32)
        return inverse_frequencies(head_dim, theta) / factors_C, self._temperature()

    def _temperature(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1.0:
            return 1.0
        return math.sqrt(1.0 + math.log(self.factor) / math.log(self.original_max_position_embeddings))


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between."""

    rope_type: ClassVar[str] = "llama3"
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self) -> None:
        _require_factor(self.factor)

    def frequencies(self, head_dim: int, theta: float, seq_len: int) -> Frequencies:
        base = inverse_frequencies(head_dim, theta)
        turns = self.original_max_position_embeddings / (2.0 * math.pi / base)
        ramp = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0.0, 1.0)
        return (1.0 - ramp) * base / self.factor + ramp * base, 1.0


RotaryScaling = LinearScaling | DynamicNTKScaling | YarnScaling | LongRopeScaling | Llama3Scaling
ROTARY_SCALINGS: tuple[type[RotaryScaling], ...] = (
    LinearScaling,
    DynamicNTKScaling,
    YarnScaling,
    LongRopeScaling,
    Llama3Scaling,
)


def _require_factor(factor: float) -> None:
    if not factor >= 1.0:
        raise ValueError(f"factor of a rotary scaling must be at least 1, got {factor}")
