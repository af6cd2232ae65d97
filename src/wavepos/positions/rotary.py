"""RoPE: rotary position embedding (Su et al., 2021; Eq. 6)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from wavepos.positions.config import PositionConfig, require_between
from wavepos.positions.rotary_scaling import (
    LARGEST_THETA,
    DynamicNTKScaling,
    LongRopeScaling,
    RotaryScaling,
    inverse_frequencies,
)
from wavepos.positions.tables import TableCache
from wavepos.positions.terms import Position, ScoreTerms, at_least_float32, require_fit, require_positive_int


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryConfig(PositionConfig):
    """Base and scaling of the frequencies.

    Attributes:
        theta: base of the frequencies θ^(−2i/D).
        scaling: how the frequencies are stretched for sequences longer than in training; None: not at all.
    """

    method: ClassVar[str] = "rotary"
    aliases: ClassVar[tuple[str, ...]] = ("rope",)
    theta: float = 10000.0
    scaling: RotaryScaling | None = None

    def check(self) -> None:
        if not self.theta > 1.0:
            raise ValueError(f"theta must be more than 1, got {self.theta}")
        require_between("theta", self.theta, 1.0, LARGEST_THETA)

    @property
    def follows_length(self) -> bool:
        """Whether the frequencies depend on the number of keys."""
        return isinstance(self.scaling, DynamicNTKScaling | LongRopeScaling)

    def build(self, *, head_dim: int, num_heads: int) -> "Rotary":
        return Rotary(head_dim, theta=self.theta, scaling=self.scaling)


@final
class Rotary(Position):
    """q and k rotated by the angles m·θ_i and n·θ_i, in transformers' Llama layout (first and second half paired).

    Frequencies and angles are float64, cos and sin are rounded to float32: an entry is off by at most 6e-8, at position
    one million too. With dynamic-NTK and LongRoPE the frequencies follow the number of keys S; keys are rotated anew at
    each call, never kept rotated.

    Deviates from transformers' Llama, whose frequencies and angles are float32: its angles are off by 1.4e-4 rad at
    position 4,096, 2e-3 at 65,536 and 0.05 at a million (D = 128, θ = 10,000), and so far its rotation is from this.

    Args:
        head_dim: D, even.
        theta: base of the frequencies.
        scaling: a `LinearScaling`, `DynamicNTKScaling`, `YarnScaling`, `LongRopeScaling` or `Llama3Scaling`.
    """

    needs_table = False
    rotates = True

    def __init__(self, head_dim: int, theta: float = 10000.0, scaling: RotaryScaling | None = None) -> None:
        super().__init__()
        require_positive_int("head_dim", head_dim)
        if head_dim % 2:
            raise ValueError(f"head_dim must be even for Rotary, got {head_dim}")
        self.config = RotaryConfig(theta=theta, scaling=scaling)
        self._head_dim = head_dim
        self._cache = TableCache(self._angles)
        self.frequencies(1)  # a scaling that does not fit head_dim is refused here

    def frequencies(self, seq_len: int) -> tuple[Tensor, float]:
        """Inverse frequencies, float64 [D/2] on the CPU, and the factor on cos and sin, for that many keys."""
        with torch.device("cpu"):
            if self.config.scaling is None:
                return inverse_frequencies(self._head_dim, self.config.theta), 1.0
            return self.config.scaling.frequencies(self._head_dim, self.config.theta, seq_len)

    @property
    def follows_length(self) -> bool:
        """Whether the frequencies depend on the number of keys, so that a rotated key cannot be kept."""
        return self.config.follows_length

    def rotates_alike(self, num_keys: int, other: int) -> bool:
        return torch.equal(self.frequencies(num_keys)[0], self.frequencies(other)[0])

    def rotated(self, x: Tensor, offset: int | Tensor, limit: int) -> Tensor:
        """x rotated as at positions offset … offset + T − 1, for caches that keep rotated keys.

        Args:
            x: queries or keys, [B,H,T,D].
            offset: position of the first; an int, or an int64 tensor without dimensions.
            limit: positions that a tensor offset never exceeds: tables are made for that many.

        Raises:
            ValueError: the frequencies follow the number of keys.
        """
        if self.follows_length:
            raise ValueError(
                f"keys rotated by {type(self.config.scaling).__name__} cannot be kept: it follows the length"
            )
        length = x.shape[2]
        if isinstance(offset, int):
            return _rotate(x, self._cos_sin(offset + length, 0, x.device)[:, offset:])
        slots = torch.arange(length, device=x.device) + offset
        return _rotate(x, self._cos_sin(limit, 0, x.device).index_select(1, slots))

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        require_fit(self, q_BHTD, head_dim=self._head_dim)
        num_queries, num_keys = q_BHTD.shape[2], k_BGSD.shape[2]
        cos_sin = self._cos_sin(max(q_offset + num_queries, num_keys), num_keys, q_BHTD.device)
        return ScoreTerms(
            q_BHTD=_rotate(q_BHTD, cos_sin[:, q_offset : q_offset + num_queries]),
            k_BGSD=_rotate(k_BGSD, cos_sin[:, :num_keys]),
        )

    def reset_parameters(self) -> None:
        return None

    def _cos_sin(self, length: int, seq_len: int, device: torch.device) -> Tensor:
        """cos and sin of the angles of positions 0 … length − 1, float32 [2, length, D/2]."""
        scaling = self.config.scaling
        return self._cache.get(length, device, key=0 if scaling is None else scaling.effective_length(seq_len))

    def _angles(self, length: int, seq_len: int) -> Tensor:
        """cos and sin with the frequencies for that many keys (only some scalings look at it)."""
        frequencies, factor = self.frequencies(seq_len)
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
        return (torch.stack([angle.cos(), angle.sin()]) * factor).to(torch.float32)


def _rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """x rotated, in float32 or better, returned in x's dtype; x [..., length, D], cos_sin [2, length, D/2]."""
    wide = at_least_float32(x)
    cos, sin = cos_sin.to(wide.dtype).unbind(0)
    first, second = wide.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
