"""ALiBi: attention with linear biases (Press et al., 2022; Eq. 9)."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from wavepos.positions.config import PositionConfig
from wavepos.positions.tables import TableCache
from wavepos.positions.terms import Position, ScoreTerms, farthest, require_fit, require_positive_int


@dataclass(frozen=True, slots=True, kw_only=True)
class ALiBiConfig(PositionConfig):
    """ALiBi has nothing to set: the slopes follow from the number of heads."""

    method: ClassVar[str] = "alibi"

    def build(self, *, head_dim: int, num_heads: int) -> "ALiBi":
        return ALiBi(num_heads)


def alibi_slopes(num_heads: int) -> list[float]:
    """The slope of every head.

    For a power of two H: 2^(−8/H), 2^(−16/H), …, 2^(−8). Otherwise the slopes of the largest power of two below H, then
    every second slope of the next power of two, as in the ALiBi authors' code.
    """
    require_positive_int("num_heads", num_heads)
    power = 1 << int(math.log2(num_heads))
    slopes = _geometric(power)
    if power < num_heads:
        slopes += _geometric(2 * power)[0::2][: num_heads - power]
    return slopes


def _geometric(num_heads: int) -> list[float]:
    return [2.0 ** (-8.0 * (head + 1) / num_heads) for head in range(num_heads)]


@final
class ALiBi(Position):
    """b[h,δ] = −slope_h·δ: each head prefers the near with a fixed slope of its own (Eq. 9).

    With causal=False −slope_h·|δ|, alike on both sides.

    Args:
        num_heads: query heads H; any number.
    """

    per_head = True

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self._slopes_H = alibi_slopes(num_heads)
        self._cache = TableCache(self._bias_R_H)

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        require_fit(self, q_BHTD, num_heads=len(self._slopes_H))
        columns = self._cache.get(q_offset + q_BHTD.shape[2], q_BHTD.device)
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, bias_HR=columns.mT, tail="none")

    def terms_both_ways(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        require_fit(self, q_BHTD, num_heads=len(self._slopes_H))
        ahead, behind = farthest(q_BHTD, k_BGSD, q_offset)
        columns = self._cache.get(max(ahead, behind) + 1, q_BHTD.device).mT
        bias_HR = torch.cat([columns[:, 1 : ahead + 1].flip(1), columns[:, : behind + 1]], dim=1)
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, bias_HR=bias_HR, tail="none", first_displacement=-ahead)

    def reset_parameters(self) -> None:
        return None

    def _bias_R_H(self, length: int) -> Tensor:
        displacement = torch.arange(length, dtype=torch.float64)
        slopes = torch.tensor(self._slopes_H, dtype=torch.float64)
        return (-displacement[:, None] * slopes).to(torch.float32)
