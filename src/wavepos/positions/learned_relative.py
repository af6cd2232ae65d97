"""Relative logits from a projection of their own: the form of the Inkling models."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from wavepos.positions.config import PositionConfig
from wavepos.positions.tables import clipped
from wavepos.positions.terms import ReadsRelativeStates, ScoreTerms, at_least_float32, require_fit
from wavepos.positions.typed import MOST_ENTRIES, WIDEST, require_between


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedRelativeConfig(PositionConfig):
    """A learned bank of profiles over the displacement.

    Attributes:
        relative_dim: E, width of the relative states.
        extent: R, displacements with an entry; beyond them the term is zero.
    """

    method: ClassVar[str] = "learned_relative"
    relative_dim: int = 16
    extent: int = 1024

    def check(self) -> None:
        require_between("relative_dim", self.relative_dim, 1, WIDEST)
        require_between("extent", self.extent, 1, MOST_ENTRIES)

    def build(self, *, head_dim: int, num_heads: int) -> "LearnedRelative":
        return LearnedRelative(relative_dim=self.relative_dim, extent=self.extent)

    @property
    def relative_states_dim(self) -> int | None:
        return self.relative_dim


@final
class LearnedRelative(ReadsRelativeStates):
    """s = softmax_scale · q·k + r·p(δ), p learned and zero from `extent` on, r projected from the hidden state.

    As in the Inkling models, softmax_scale does not touch the relative term. Each head has relative states of its own
    and all share the table: `attention(q, k, v, position=..., relative_states=r)` with r [B,H,T,relative_dim].

    Deviates from the paper: it is not in it.

    Args:
        relative_dim: E, width of the relative states.
        extent: R, displacements with an entry, in tokens.
    """

    per_head = True

    def __init__(self, relative_dim: int = 16, extent: int = 1024) -> None:
        super().__init__()
        self.config = LearnedRelativeConfig(relative_dim=relative_dim, extent=extent)
        self.weight = nn.Parameter(torch.empty(extent, relative_dim))
        self.reset_parameters()

    def terms(
        self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0, relative_states_BHTE: Tensor | None = None
    ) -> ScoreTerms:
        require_fit(self, q_BHTD)
        expected = (*q_BHTD.shape[:3], self.config.relative_dim)
        if relative_states_BHTE is None or tuple(relative_states_BHTE.shape) != expected:
            got = None if relative_states_BHTE is None else tuple(relative_states_BHTE.shape)
            raise ValueError(
                f"LearnedRelative needs relative_states of shape [batch, heads, queries, relative_dim] = {expected}, "
                f"got {got}"
            )
        length = clipped(q_offset + q_BHTD.shape[2], self.config.extent)
        return ScoreTerms(
            q_BHTD=q_BHTD,
            k_BGSD=k_BGSD,
            r_BHTE=relative_states_BHTE,
            table=at_least_float32(self.weight[:length]),
            tail="zero",
            relative_scale=1.0,
        )

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)
