"""KERPLE's logarithmic bias (Chi et al., 2022)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from wavepos.positions.config import PositionConfig
from wavepos.positions.terms import (
    Position,
    ScoreTerms,
    at_least_float32,
    farthest,
    require_fit,
    require_positive_int,
)

SMALLEST = 0.01
"""The least starting value of r₁ and r₂: where the authors' code clamps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KerpleConfig(PositionConfig):
    """KERPLE has nothing to set: r₁ and r₂ are learned."""

    method: ClassVar[str] = "kerple"

    def build(self, *, head_dim: int, num_heads: int) -> "Kerple":
        return Kerple(num_heads)


@final
class Kerple(Position):
    """b[h,δ] = −r₁·log(1 + r₂·δ), r₁, r₂ > 0 learned per head: the logarithmic variant.

    What is learned is ρ with r = softplus(ρ), so that r stays positive and ρ keeps a gradient. r₁ starts uniform in
    [0.01, 2], r₂ in [0.01, 1]. The bias covers every displacement of the call; with causal=False it is of |δ|.

    Deviates from KERPLE: the authors' code clamps r at 0.01 in place before each use; where a value starts is theirs.

    Args:
        num_heads: query heads H.
    """

    per_head = True

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        require_positive_int("num_heads", num_heads)
        self.rho_1_H = nn.Parameter(torch.empty(num_heads))
        self.rho_2_H = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        return self._terms(q_BHTD, k_BGSD, 0, q_offset + q_BHTD.shape[2] - 1)

    def terms_both_ways(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        ahead, behind = farthest(q_BHTD, k_BGSD, q_offset)
        return self._terms(q_BHTD, k_BGSD, -ahead, behind)

    def _terms(self, q_BHTD: Tensor, k_BGSD: Tensor, first: int, last: int) -> ScoreTerms:
        require_fit(self, q_BHTD, num_heads=self.rho_1_H.shape[0])
        r_1_H, r_2_H = softplus(at_least_float32(self.rho_1_H)), softplus(at_least_float32(self.rho_2_H))
        delta_R = torch.arange(first, last + 1, dtype=r_2_H.dtype, device=q_BHTD.device).abs()
        bias_HR = -r_1_H[:, None] * torch.log1p(r_2_H[:, None] * delta_R)
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, bias_HR=bias_HR, tail="none", first_displacement=first)

    def reset_parameters(self) -> None:
        with torch.no_grad():
            for rho_H, highest in ((self.rho_1_H, 2.0), (self.rho_2_H, 1.0)):
                nn.init.uniform_(rho_H, SMALLEST, highest)
                rho_H.copy_(rho_H.expm1().log())  # the inverse of softplus
