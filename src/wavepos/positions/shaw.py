"""Relative positions with learned, clipped embeddings (Shaw et al., 2018; the paper's RPE, section 2.1)."""

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
from wavepos.positions.typed import MOST_ENTRIES, require_between


@dataclass(frozen=True, slots=True, kw_only=True)
class ShawRelativeConfig(PositionConfig):
    """How far Shaw's embeddings reach.

    Attributes:
        max_distance: the largest displacement with an embedding of its own; beyond it the last one holds.
        bidirectional: whether keys ahead have embeddings too, of −max_distance … −1, as causal=False needs.
    """

    method: ClassVar[str] = "shaw"
    max_distance: int = 32
    bidirectional: bool = False

    def check(self) -> None:
        require_between("max_distance", self.max_distance, 1, MOST_ENTRIES)

    def build(self, *, head_dim: int, num_heads: int) -> "ShawRelative":
        return ShawRelative(head_dim, max_distance=self.max_distance, bidirectional=self.bidirectional)


@final
class ShawRelative(Position):
    """r = q, p(δ) = a learned embedding of δ clipped to −max_distance … max_distance, the same for all heads.

    Deviates from Shaw et al.: only the key term; the value term is left out, as the paper and most models do. Without
    `bidirectional` there are no embeddings of keys ahead, which causal attention does not see.

    Args:
        head_dim: D.
        max_distance: the largest displacement with an embedding of its own, in tokens.
        bidirectional: whether keys ahead of their query have embeddings too; then causal=False is served, and the
            weight holds those of −max_distance … max_distance in order, 2·max_distance + 1 rows.
    """

    def __init__(self, head_dim: int, max_distance: int = 32, bidirectional: bool = False) -> None:
        super().__init__()
        require_positive_int("head_dim", head_dim)
        self.config = ShawRelativeConfig(max_distance=max_distance, bidirectional=bidirectional)
        self._rows_ahead = max_distance if bidirectional else 0
        self.weight = nn.Parameter(torch.empty(self._rows_ahead + max_distance + 1, head_dim))
        self.reset_parameters()

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        return self._terms(q_BHTD, k_BGSD, 0, q_offset + q_BHTD.shape[2] - 1)

    def terms_both_ways(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        require_both_ways(self, self.config.bidirectional)
        return self._terms(q_BHTD, k_BGSD, *farthest(q_BHTD, k_BGSD, q_offset))

    def _terms(self, q_BHTD: Tensor, k_BGSD: Tensor, ahead: int, behind: int) -> ScoreTerms:
        require_fit(self, q_BHTD, head_dim=self.weight.shape[1])
        first, length = -clipped(ahead, self._rows_ahead), clipped(behind + 1, self.config.max_distance + 1)
        table = at_least_float32(self.weight[self._rows_ahead + first : self._rows_ahead + length])
        return ScoreTerms(
            q_BHTD=q_BHTD, k_BGSD=k_BGSD, r_BHTE=q_BHTD, table=table, tail="clamp", first_displacement=first
        )

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)
