"""T5's relative position bias: one learned scalar per head and bucket of displacements (Raffel et al., 2020)."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from wavepos.positions.config import PositionConfig
from wavepos.positions.tables import clipped
from wavepos.positions.terms import (
    Position,
    ScoreTerms,
    at_least_float32,
    farthest,
    require_both_ways,
    require_fit,
    require_positive_int,
)
from wavepos.positions.typed import LONGEST, MOST_ENTRIES, require_between


@dataclass(frozen=True, slots=True, kw_only=True)
class T5BiasConfig(PositionConfig):
    """Buckets of T5's bias.

    Attributes:
        num_buckets: learned values per head; the first half are single displacements, the rest widen as a logarithm.
        max_distance: the displacement from which on the last bucket holds, in tokens.
        bidirectional: whether the upper half of the buckets is for keys ahead, as in T5's encoder and for causal=False;
            each half is then divided as all of them are without it.
    """

    method: ClassVar[str] = "t5"
    num_buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = False

    def check(self) -> None:
        require_between("num_buckets", self.num_buckets, 1, MOST_ENTRIES)
        require_between("max_distance", self.max_distance, 1, LONGEST)
        if self.bidirectional:
            if self.num_buckets % 2 or self.num_buckets < 4 or self.max_distance <= self.num_buckets // 4:
                raise ValueError(
                    f"num_buckets must be even and at least 4 and max_distance more than num_buckets // 4 with "
                    f"bidirectional=True, got num_buckets={self.num_buckets}, max_distance={self.max_distance}"
                )
        elif self.num_buckets < 2 or self.max_distance <= self.num_buckets // 2:
            raise ValueError(
                f"num_buckets must be at least 2 and max_distance more than num_buckets // 2, "
                f"got num_buckets={self.num_buckets}, max_distance={self.max_distance}"
            )

    def build(self, *, head_dim: int, num_heads: int) -> "T5Bias":
        return T5Bias(
            num_heads,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
            bidirectional=self.bidirectional,
        )


def t5_buckets(length: int, num_buckets: int, max_distance: int) -> Tensor:
    """The bucket of each displacement δ = 0 … length − 1, int64 [length], as T5 assigns it in a causal decoder."""
    exact = num_buckets // 2
    displacement = torch.arange(length)
    growth = torch.log(displacement.clamp_min(1).float() / exact) / math.log(max_distance / exact)
    widened = exact + (growth * (num_buckets - exact)).to(torch.int64)
    return torch.where(displacement < exact, displacement, widened.clamp_max(num_buckets - 1))


@final
class T5Bias(Position):
    """b[h,δ] = a learned value of δ's bucket; from max_distance on the last value holds.

    T5 itself sets softmax_scale to 1 (pass `softmax_scale=1.0` to `attention`) and shares the bias between layers.

    Args:
        num_heads: query heads H.
        num_buckets: learned values per head.
        max_distance: the displacement from which on the last bucket holds, in tokens.
        bidirectional: whether the upper half of the buckets is for keys ahead of their query, as in T5's encoder; then
            causal=False is served.
    """

    per_head = True

    def __init__(
        self, num_heads: int, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = False
    ) -> None:
        super().__init__()
        require_positive_int("num_heads", num_heads)
        self.config = T5BiasConfig(num_buckets=num_buckets, max_distance=max_distance, bidirectional=bidirectional)
        self.weight = nn.Parameter(torch.empty(num_heads, num_buckets))
        self.reset_parameters()

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        return self._terms(q_BHTD, k_BGSD, 0, q_offset + q_BHTD.shape[2] - 1)

    def terms_both_ways(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        require_both_ways(self, self.config.bidirectional)
        return self._terms(q_BHTD, k_BGSD, *farthest(q_BHTD, k_BGSD, q_offset))

    def _terms(self, q_BHTD: Tensor, k_BGSD: Tensor, ahead: int, behind: int) -> ScoreTerms:
        require_fit(self, q_BHTD, num_heads=self.weight.shape[0])
        config = self.config
        ahead, length = clipped(ahead, config.max_distance), clipped(behind + 1, config.max_distance + 1)
        num_buckets = config.num_buckets // 2 if config.bidirectional else config.num_buckets
        buckets = t5_buckets(length, num_buckets, config.max_distance)
        if ahead:
            buckets_ahead = t5_buckets(ahead + 1, num_buckets, config.max_distance) + num_buckets
            buckets = torch.cat([buckets_ahead[1:].flip(0), buckets])
        bias_HR = at_least_float32(self.weight)[:, buckets.to(self.weight.device)]
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, bias_HR=bias_HR, tail="clamp", first_displacement=-ahead)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)
