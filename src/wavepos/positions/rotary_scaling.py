"""Frequencies of rotary position embeddings and the scalings that stretch them.

Each scaling has the fields that it has in transformers' `rope_parameters` and gives the frequencies that
transformers' `ROPE_INIT_FUNCTIONS` gives.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wavepos.positions.typed import LONGEST, TypedConfig, require_between

LARGEST_THETA = 1e30
LARGEST_FACTOR = 1e6

Frequencies = tuple[Tensor, float]
"""Inverse frequencies, float64 [D/2], and the factor on cos and sin."""


def inverse_frequencies(head_dim: int, theta: float) -> Tensor:
    """θ^(−2i/D), i = 0 … D/2 − 1 (Eq. 6), in radians per token; float64 [D/2]."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    return 1.0 / (theta**exponent)


class Scaling(TypedConfig):
    """How the frequencies are stretched for sequences longer than in training."""

    __slots__ = ()
    kind = "rotary scaling"
    tag = "rope_type"

    rope_type: ClassVar[str]

    @abstractmethod
    def frequencies(self, head_dim: int, theta: float, seq_len: int) -> Frequencies:
        """The frequencies for that many keys, made on the default device."""

    def effective_length(self, seq_len: int) -> int:
        """A number of keys with the frequencies of seq_len keys, the same for all that share them."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling(Scaling):
    """Position interpolation (Chen et al., 2023): every frequency divided by `factor`."""

    rope_type: ClassVar[str] = "linear"
    factor: float

    def check(self) -> None:
        _check_factor(self.factor)

    def frequencies(self, head_dim: int, theta: float, seq_len: int) -> Frequencies:
        return inverse_frequencies(head_dim, theta) / self.factor, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicNTKScaling(Scaling):
    """Dynamic NTK (bloc97, 2023): θ grows with the sequence once it is longer than `max_position_embeddings`."""

    rope_type: ClassVar[str] = "dynamic"
    factor: float
    max_position_embeddings: int

    def check(self) -> None:
        _check_factor(self.factor)
        require_between("max_position_embeddings", self.max_position_embeddings, 1, LONGEST)

    def frequencies(self, head_dim: int, theta: float, seq_len: int) -> Frequencies:
        if head_dim < 4:
            raise ValueError(f"dynamic NTK needs head_dim of at least 4, got {head_dim}")
        stretched = self.effective_length(seq_len) / self.max_position_embeddings
        growth = (self.factor * stretched - (self.factor - 1.0)) ** (head_dim / (head_dim - 2))
        return inverse_frequencies(head_dim, theta * growth), 1.0

    def effective_length(self, seq_len: int) -> int:
        return max(seq_len, self.max_position_embeddings)


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling(Scaling):
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

    def check(self) -> None:
        _check_factor(self.factor)
        _check_original(self.original_max_position_embeddings, fewest=1)
        for name in ("beta_fast", "beta_slow"):
            require_between(name, getattr(self, name), 1.0 / LARGEST_FACTOR, LARGEST_FACTOR)
        if self.beta_fast < self.beta_slow:
            raise ValueError(f"beta_fast must be at least beta_slow={self.beta_slow}, got {self.beta_fast}")
        for name in ("attention_factor", "mscale", "mscale_all_dim"):
            _check_temperature(name, getattr(self, name))

    def frequencies(self, head_dim: int, theta: float, seq_len: int) -> Frequencies:
        base = inverse_frequencies(head_dim, theta)
        low, high = self._correction_range(head_dim, theta)
        ramp = ((torch.arange(head_dim // 2, dtype=torch.float64) - low) / (high - low)).clamp(0.0, 1.0)
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
class LongRopeScaling(Scaling):
    """LongRoPE (Ding et al., 2024): a searched factor per frequency, one set for short and one for long sequences."""

    rope_type: ClassVar[str] = "longrope"
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None

    def check(self) -> None:
        _check_factor(self.factor)
        _check_original(self.original_max_position_embeddings, fewest=2)
        for name, factors in (("short_factor", self.short_factor), ("long_factor", self.long_factor)):
            for value in factors:
                require_between(name, value, 1.0 / LARGEST_FACTOR, LARGEST_FACTOR)
        _check_temperature("attention_factor", self.attention_factor)

    def frequencies(self, head_dim: int, theta: float, seq_len: int) -> Frequencies:
        for name, factors in (("short_factor", self.short_factor), ("long_factor", self.long_factor)):
            if len(factors) != head_dim // 2:
                raise ValueError(f"{name} must hold head_dim / 2 = {head_dim // 2} factors, got {len(factors)}")
        is_long = seq_len > self.original_max_position_embeddings
        factors_C = torch.tensor(self.long_factor if is_long else self.short_factor, dtype=torch.float64)
        return inverse_frequencies(head_dim, theta) / factors_C, self._temperature()

    def effective_length(self, seq_len: int) -> int:
        return self.original_max_position_embeddings + int(seq_len > self.original_max_position_embeddings)

    def _temperature(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1.0:
            return 1.0
        return math.sqrt(1.0 + math.log(self.factor) / math.log(self.original_max_position_embeddings))


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling(Scaling):
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between."""

    rope_type: ClassVar[str] = "llama3"
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def check(self) -> None:
        _check_factor(self.factor)
        _check_original(self.original_max_position_embeddings, fewest=1)
        require_between("low_freq_factor", self.low_freq_factor, 1.0 / LARGEST_FACTOR, LARGEST_FACTOR)
        require_between("high_freq_factor", self.high_freq_factor, 1.0 / LARGEST_FACTOR, LARGEST_FACTOR)
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor must be more than low_freq_factor={self.low_freq_factor}, "
                f"got {self.high_freq_factor}"
            )

    def frequencies(self, head_dim: int, theta: float, seq_len: int) -> Frequencies:
        base = inverse_frequencies(head_dim, theta)
        turns = self.original_max_position_embeddings / (2.0 * math.pi / base)
        ramp = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0.0, 1.0)
        return (1.0 - ramp) * base / self.factor + ramp * base, 1.0


RotaryScaling = LinearScaling | DynamicNTKScaling | YarnScaling | LongRopeScaling | Llama3Scaling


def _check_factor(factor: float) -> None:
    require_between("factor", factor, 1.0, LARGEST_FACTOR)


def _check_original(length: int, fewest: int) -> None:
    require_between("original_max_position_embeddings", length, fewest, LONGEST)


def _check_temperature(name: str, value: float | None) -> None:
    if value is not None:
        require_between(name, value, 0.0 if name.startswith("mscale") else 1.0 / LARGEST_FACTOR, LARGEST_FACTOR)
