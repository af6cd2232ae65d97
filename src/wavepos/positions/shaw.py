"""Relative positions with learned, clipped embeddings (Shaw et al., 2018; the paper's RPE, section 2.1)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from wavepos.positions.config import MOST_ENTRIES, PositionConfig, require_between
from wavepos.positions.terms import Position, ScoreTerms, at_least_float32, require_fit, require_positive_int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShawRelativeConfig(PositionConfig):
    """How far Shaw's embeddings reach.

    Attributes:
        max_distance: the largest displacement with an embedding of its own; beyond it the last one holds.
    """

    method: ClassVar[str] = "shaw"
    max_distance: int = 32

    def check(self) -> None:
        require_between("max_distance", self.max_distance, 1, MOST_ENTRIES)

    def build(self, *, head_dim: int, num_heads: int) -> "ShawRelative":
        return ShawRelative(head_dim, max_distance=self.max_distance)


@final
class ShawRelative(Position):
    """r = q, p(δ) = a learned embedding of min(δ, max_distance), the same for all heads.

    Deviates from Shaw et al.: only the key term; the value term is left out, as the paper and most models do.

    Args:
        head_dim: D.
        max_distance: the largest displacement with an embedding of its own, in tokens.
    """

    def __init__(self, head_dim: int, max_distance: int = 32) -> None:
        super().__init__()
        require_positive_int("head_dim", head_dim)
        self.config = ShawRelativeConfig(max_distance=max_distance)
        self.weight = nn.Parameter(torch.empty(max_distance + 1, head_dim))
        self.reset_parameters()

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        require_fit(self, q_BHTD, head_dim=self.weight.shape[1])
        length = min(q_offset + q_BHTD.shape[2], self.weight.shape[0])
        table = at_least_float32(self.weight[:length])
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, r_BHTE=q_BHTD, table=table, tail="clamp")

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)
