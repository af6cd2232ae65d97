"""The RoPE-based wavelet of A.5 (Eq. 28): its dense matrix, and the fast form that makes it a method like any other.

Block row i of W_m holds R(m·θ_i) in every block column j ≤ i. So W_m·q = RoPE_m(s), where s_i = q_1 + … + q_i runs over
the pairs of q: RoPE behind a fixed triangle of ones, which a learned W_q and W_k could hold themselves. From this:

- The score is a function of m − n, as RoPE's; absolute positions are as (un)necessary as there.
- It costs one cumulative sum more than RoPE, O(d) for each token. The paper stopped its training for cost ("over five
  times"); that is the cost of the dense matrices, one for each position: 8,320 entries against RoPE's 256, and 32 MiB
  in float32 for 512 positions, at d = 128.
- What it changes is the conditioning: the triangle's condition number is 82 at d = 128, and the last pairs' sums are
  large, so that scores of random q, k grow some 200 times.

Printed, every odd row from the second block row on has (sin, sin) in block column 2. With that the score depends on m
and n apart (by some 100 at d = 128); it is read as the slip for (sin, cos) that the other columns show it to be.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from wavepos.analysis.rope_as_wavelet import angles
from wavepos.positions import Position, PositionConfig, Rotary, ScoreTerms, register_position


def dense_matrix(m: float, d: int, theta: float = 1e4, *, as_printed: bool = False) -> Tensor:
    """W_m of Eq. 28, pairs side by side, float64 [d, d].

    Args:
        m: the position.
        d: the head dimension, even.
        theta: base of the frequencies.
        as_printed: keep (sin, sin) in block column 2.

    Raises:
        ValueError: an argument out of its range.
    """
    angle = angles(m, d, theta)
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([torch.stack([cos, -sin], dim=-1), torch.stack([sin, cos], dim=-1)], dim=-2)
    triangle = torch.tril(torch.ones(d // 2, d // 2, dtype=torch.float64))
    blocks = rotation[:, :, None, :] * triangle[:, None, :, None]  # block row, row, block column, column
    if as_printed and d > 2:
        blocks[1:, 1, 1, 1] = sin[1:]
    return blocks.reshape(d, d)


def dense_transform(x: Tensor, positions: Tensor, theta: float = 1e4) -> Tensor:
    """W_m·x as the paper computes it, one dense matrix for each position; pairs side by side, as in Eq. 28.

    Args:
        x: queries or keys, [..., T, D].
        positions: m of each, [T].
        theta: base of the frequencies.

    Returns:
        [..., T, D] in x's dtype; memory for T matrices of D × D.
    """
    matrices = torch.stack([dense_matrix(float(m), x.shape[-1], theta) for m in positions.tolist()])
    return (matrices.to(x.dtype) @ x[..., None])[..., 0]


def fast_transform(x: Tensor, positions: Tensor, theta: float = 1e4) -> Tensor:
    """W_m·x as RoPE_m of the cumulative sum of x's pairs; arguments and result as of `dense_transform`."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous()).cumsum(-1)
    angle = positions.to(torch.float64)[:, None] * angles(1.0, x.shape[-1], theta)
    turned = pairs * torch.polar(torch.ones_like(angle), angle).to(pairs.dtype)
    return torch.view_as_real(turned).flatten(-2)


def triangle_condition(d: int) -> float:
    """The condition number of the d/2 × d/2 triangle of ones that stands before the rotation."""
    return float(torch.linalg.cond(torch.tril(torch.ones(d // 2, d // 2, dtype=torch.float64))))


def score_growth(d: int) -> float:
    """By how much the sums raise the standard deviation of the score of random q, k at displacement 0: 212 at d = 128.

    For independent entries of variance 1 the score of sums has variance 2·Σ_{i,i′} min(i, i′)² over the n = d/2 pairs,
    that of q·k has 2n; their quotient is (n + 1)(n² + n + 1)/6.
    """
    n = d // 2
    return math.sqrt((n + 1) * (n * n + n + 1) / 6.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseCost:
    """What the dense form holds, beside RoPE.

    Attributes:
        entries: of one W_m that are not zero.
        rope_entries: of one rotation matrix.
        bytes: of the matrices of all positions, float32.
    """

    entries: int
    rope_entries: int
    bytes: int


def dense_cost(d: int, num_positions: int) -> DenseCost:
    """The entries and bytes of the dense form: n(n + 1)/2 blocks of 4 entries; every position its own d × d matrix."""
    n = d // 2
    return DenseCost(entries=2 * n * (n + 1), rope_entries=4 * n, bytes=4 * d * d * num_positions)


@register_position
@dataclass(frozen=True, slots=True, kw_only=True)
class RopeBasedWaveletConfig(PositionConfig):
    """The RoPE-based wavelet as a position (Eq. 28).

    Attributes:
        theta: base of the frequencies θ^(−2i/D).
        scaled: divide q and k so that scores of random q, k are as large as without a position (`RopeBasedWavelet`).
    """

    method: ClassVar[str] = "rope_wavelet"
    theta: float = 10000.0
    scaled: bool = True

    def check(self) -> None:
        if not self.theta > 1.0:
            raise ValueError(f"theta must be more than 1, got {self.theta!r}")

    def build(self, *, head_dim: int, num_heads: int) -> "RopeBasedWavelet":
        """The position for query heads of that size; their number does not matter."""
        return RopeBasedWavelet(head_dim, theta=self.theta, scaled=self.scaled)


@final
class RopeBasedWavelet(Position):
    """q and k summed over their pairs, then rotated: W_m·q and W_n·k of Eq. 28 in O(D) for each token.

    Pairs are entries i and i + D/2, as in `Rotary`; the paper's order (2i, 2i + 1) is the same up to the order of
    dimensions. Sums and rotation are float32 or better, rounded to the input's dtype once.

    With `scaled`, q and k are each divided by √g, g = `score_growth(D)` (212 at D = 128): the score of random q, k at
    displacement 0 then has the standard deviation of q·k. Without, a model starts with a saturated softmax.

    Args:
        head_dim: D, even.
        theta: base of the frequencies.
        scaled: divide the scores by g; False: Eq. 28 as it stands.

    Raises:
        ValueError: head_dim is odd or not positive, or theta not above 1.

    Deviates from the paper: `scaled`; and (sin, cos) where Eq. 28 prints (sin, sin).
    """

    needs_table = False
    rotates = True

    def __init__(self, head_dim: int, theta: float = 10000.0, *, scaled: bool = True) -> None:
        super().__init__()
        self.config = RopeBasedWaveletConfig(theta=theta, scaled=scaled)
        self._rotary = Rotary(head_dim, theta=theta)
        self._factor = score_growth(head_dim) ** -0.5 if scaled else 1.0

    def rotated(self, x: Tensor, offset: int | Tensor, limit: int) -> Tensor:
        """x summed and rotated as at positions offset … offset + T − 1, for caches that keep such keys.

        Args:
            x: queries or keys, [B,H,T,D].
            offset: position of the first; an int, or an int64 tensor without dimensions.
            limit: positions that a tensor offset never exceeds.
        """
        wide = x if x.dtype == torch.float64 else x.float()
        first, second = wide.chunk(2, dim=-1)
        sums = torch.cat([first.cumsum(-1), second.cumsum(-1)], dim=-1) * self._factor
        return self._rotary.rotated(sums, offset, limit).to(x.dtype)

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        limit = max(q_offset + q_BHTD.shape[2], k_BGSD.shape[2])
        return ScoreTerms(q_BHTD=self.rotated(q_BHTD, q_offset, limit), k_BGSD=self.rotated(k_BGSD, 0, limit))

    def reset_parameters(self) -> None:
        return None
