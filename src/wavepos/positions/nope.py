"""NoPE: no positional term at all; order enters through the causal mask alone."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from wavepos.positions.config import PositionConfig
from wavepos.positions.terms import Position, ScoreTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPEConfig(PositionConfig):
    """NoPE has nothing to set."""

    method: ClassVar[str] = "nope"

    def build(self, *, head_dim: int, num_heads: int) -> "NoPE":
        return NoPE()


@final
class NoPE(Position):
    """Attention without positions (Kazemnejad et al., 2023): s = softmax_scale · q·k."""

    needs_table = False

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD)

    def reset_parameters(self) -> None:
        return None
