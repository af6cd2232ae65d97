"""Transformer-XL's relative positions: projected sinusoids of the displacement (Dai et al., 2019)."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from wavepos.positions.config import PositionConfig
from wavepos.positions.tables import TableCache
from wavepos.positions.terms import (
    Position,
    ScoreTerms,
    at_least_float32,
    farthest,
    require_fit,
    require_positive_int,
)
from wavepos.positions.typed import WIDEST, require_between


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerXLRelativeConfig(PositionConfig):
    """The sinusoids that Transformer-XL's projection reads.

    Attributes:
        sinusoid_dim: width of the sinusoids before W_r; None: num_heads · head_dim, as in Transformer-XL.
    """

    method: ClassVar[str] = "transformer_xl"
    sinusoid_dim: int | None = None

    def check(self) -> None:
        if self.sinusoid_dim is not None:
            require_between("sinusoid_dim", self.sinusoid_dim, 1, WIDEST)
            if self.sinusoid_dim % 2:
                raise ValueError(f"sinusoid_dim must be even, got {self.sinusoid_dim}")

    def build(self, *, head_dim: int, num_heads: int) -> "TransformerXLRelative":
        return TransformerXLRelative(head_dim, num_heads, sinusoid_dim=self.sinusoid_dim)


def sinusoids(length: int, dim: int) -> Tensor:
    """sin and cos of δ·10000^(−2i/dim), the sines first, for δ = 0 … length − 1; float32 [length, dim]."""
    inverse_frequency = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * inverse_frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(torch.float32)


@final
class TransformerXLRelative(Position):
    """s = softmax_scale · ((q + u)·k + (q + v)·W_r sinusoid(δ)), u, v and W_r learned, each head its own.

    With causal=False δ is negative for keys ahead: their sines have the other sign.

    Deviates from Transformer-XL: its layers share u and v, which start normal (std 0.02) there and at zero here, each
    layer its own; it has dropout on the sinusoids, and clamps δ at `clamp_len` where it evaluates (400). None of these
    is here.

    Args:
        head_dim: D.
        num_heads: query heads H.
        sinusoid_dim: width of the sinusoids before W_r; None: num_heads · head_dim.
    """

    per_head = True

    def __init__(self, head_dim: int, num_heads: int, sinusoid_dim: int | None = None) -> None:
        super().__init__()
        require_positive_int("head_dim", head_dim)
        require_positive_int("num_heads", num_heads)
        self.config = TransformerXLRelativeConfig(sinusoid_dim=sinusoid_dim)
        self._sinusoid_dim = sinusoid_dim or num_heads * head_dim
        self.u_HD = nn.Parameter(torch.empty(num_heads, head_dim))
        self.v_HD = nn.Parameter(torch.empty(num_heads, head_dim))
        self.weight_HDC = nn.Parameter(torch.empty(num_heads, head_dim, self._sinusoid_dim))
        self._cache = TableCache(partial(sinusoids, dim=self._sinusoid_dim))
        self.reset_parameters()

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        return self._terms(q_BHTD, k_BGSD, 0, q_offset + q_BHTD.shape[2] - 1)

    def terms_both_ways(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        return self._terms(q_BHTD, k_BGSD, *farthest(q_BHTD, k_BGSD, q_offset))

    def _terms(self, q_BHTD: Tensor, k_BGSD: Tensor, ahead: int, behind: int) -> ScoreTerms:
        num_heads, head_dim = self.u_HD.shape
        require_fit(self, q_BHTD, head_dim=head_dim, num_heads=num_heads)
        sinusoid_RC = self._cache.get(max(ahead, behind) + 1, q_BHTD.device)
        if ahead:
            signs_C = torch.ones(self._sinusoid_dim, device=q_BHTD.device)
            signs_C[: self._sinusoid_dim // 2] = -1.0  # sines are odd
            sinusoid_RC = torch.cat([signs_C * sinusoid_RC[1 : ahead + 1].flip(0), sinusoid_RC[: behind + 1]])
        weight_HDC = at_least_float32(self.weight_HDC)
        return ScoreTerms(
            q_BHTD=q_BHTD + self.u_HD[:, None].to(q_BHTD.dtype),
            k_BGSD=k_BGSD,
            r_BHTE=q_BHTD + self.v_HD[:, None].to(q_BHTD.dtype),
            table=torch.matmul(sinusoid_RC.to(weight_HDC.dtype), weight_HDC.mT),
            tail="none",
            first_displacement=-ahead,
        )

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.u_HD)
        nn.init.zeros_(self.v_HD)
        bound = (6.0 / (self._sinusoid_dim + self.weight_HDC.shape[0] * self.weight_HDC.shape[1])) ** 0.5
        nn.init.uniform_(self.weight_HDC, -bound, bound)  # Xavier, as one [H·D, C] projection
