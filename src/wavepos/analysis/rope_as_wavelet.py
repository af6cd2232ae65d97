"""RoPE as a wavelet transform (section 3.2, A.1–A.4): the construction carried out, and what it leaves unsaid.

The paper takes the d entries of one query as a signal over t = 0 … d − 1 and two wavelets of support [0, 2), cosine
then minus sine, and sine then cosine, of a phase f (Eq. 7). Shifted to just below each even entry, by an amount that
puts the phase at m·θ_i, they give RoPE's even rows (Eq. 6, 16) and odd rows (Eq. 17). `wavelet_matrix` builds them so,
`rope_matrix` builds RoPE by itself, and the two agree to the rounding of t − b_j times m.

What the construction does not say:

- ψ and the shifts b both depend on m through k and δ, so every position has a transform of its own; the score q·k is
  between coefficients of two different transforms. By the same steps any matrix of 2 × 2 rotations is a "wavelet
  transform": the free choice of δ absorbs whatever angles are wanted. Nothing of RoPE's own (its geometric frequencies,
  its dependence on n − m) enters.
- The signal's axis is the head dimension, whose order is arbitrary in a trained model, not the sequence.
- Printed: 0 < f ≤ 2kπ; but its example has f(0) = 0. Printed: f is monotone; but the example starts again at t = 1.
  `rising_phase`, 2kπt without the restart, is monotone and gives the same matrix, for it differs by whole turns.
- The zero mean belongs to an f that makes whole turns: f(t) = c·t restarted at 1 has ∫ψ = (sin c + cos c − 1)/c,
  0.3818 for c = 1. ∫ψ² is 1 for any f that restarts, cos² + sin² being 1.
- An odd entry j needs the phase f(1 + δ(j − 1)) of its pair, not f(1 + δ(j)).
- "A fixed scale of 2" is a = 1 with a support of 2.
- Eq. 5's last printed entry, for b = 3, is ψ(T − 4): the sum runs to t = T − 1. So does that of Eq. 25.
- A.3 is an equality for one angle in all blocks. Its shifts are 0, 2, …, T − 2; the printed [0, 2, …, T/2] stops half
  way. RoPE's blocks turn at rates that differ by a factor of nearly θ, so no position brings all of them to π/4.
- A.4 is right that RoPE's matrix is not the discrete Fourier transform's, but the *score* is a trigonometric sum in
  n − m (`score_coefficients`): seen from the score, frequencies are all there is.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Phase = Callable[[Tensor], Tensor]


def turns(m: float) -> int:
    """k, the smallest whole number from 1 on with m < 2kπ (A.2).

    Raises:
        ValueError: m is negative or not finite.
    """
    if not 0.0 <= m < math.inf:
        raise ValueError(f"m must be a position, 0 or more, got {m!r}")
    k = max(1, math.floor(m / (2.0 * math.pi)))
    while m >= 2.0 * k * math.pi:
        k += 1
    return k


def angles(m: float, d: int, theta: float = 1e4) -> Tensor:
    """m·θ_i with θ_i = θ^(−2(i−1)/d), i = 1 … d/2, float64 [d/2] (Eq. 6).

    Raises:
        ValueError: d is not even and positive, theta not above 1, or m no position.
    """
    if not isinstance(d, int) or d <= 0 or d % 2:
        raise ValueError(f"d must be an even positive whole number, got {d!r}")
    if not theta > 1.0:
        raise ValueError(f"theta must be more than 1, got {theta!r}")
    turns(m)
    exponent = -2.0 * torch.arange(d // 2, dtype=torch.float64) / d
    return m * theta**exponent


def offsets(m: float, d: int, theta: float = 1e4) -> Tensor:
    """δ(j) = m·θ_{j/2+1} / (2kπ) for j = 0, 2, …, d − 2, float64 [d/2], each in [0, 1) (A.2)."""
    return angles(m, d, theta) / (2.0 * turns(m) * math.pi)


def shifts(m: float, d: int, theta: float = 1e4) -> Tensor:
    """b_j = j − δ(j) for j = 0, 2, …, d − 2, float64 [d/2] (section 3.2)."""
    return torch.arange(0, d, 2, dtype=torch.float64) - offsets(m, d, theta)


def phase(t: Tensor, k: int) -> Tensor:
    """f(t) = 2kπ·(t mod 1), A.2's example: k turns on [0, 1), and again on [1, 2)."""
    return 2.0 * k * math.pi * (t - t.floor())


def rising_phase(t: Tensor, k: int) -> Tensor:
    """f(t) = 2kπ·t: monotone, as A.2 asks, and equal to `phase` up to whole turns."""
    return 2.0 * k * math.pi * t


def psi(t: Tensor, f: Phase) -> Tensor:
    """ψ(t) = cos f(t) on [0, 1), −sin f(t) on [1, 2), 0 elsewhere (Eq. 7, 18); t and the values float64."""
    return _on_two_halves(t, f(t).cos(), -f(t).sin())


def psi_prime(t: Tensor, f: Phase) -> Tensor:
    """ψ′(t) = sin f(t) on [0, 1), cos f(t) on [1, 2), 0 elsewhere (Eq. 7); t and the values float64."""
    return _on_two_halves(t, f(t).sin(), f(t).cos())


def wavelet_matrix(m: float, d: int, theta: float = 1e4, *, monotone: bool = False) -> Tensor:
    """The rows ψ(t − b_j), ψ′(t − b_j) in turn, j = 0, 2, …, d − 2, over t = 0 … d − 1 (Eq. 8, 19).

    Equal to `rope_matrix(m, d, theta)` within 1e-13·max(1, m), with the same zeros: Eq. 6 in the even rows, Eq. 17 in
    the odd ones.

    Args:
        m: the position, 0 or more.
        d: the head dimension, even.
        theta: base of RoPE's frequencies.
        monotone: take `rising_phase` in place of `phase`.

    Returns:
        float64 [d, d].

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> float((wavelet_matrix(7, 128) - rope_matrix(7, 128)).abs().max()) < 1e-12
        True
    """
    k = turns(m)

    def f(t: Tensor) -> Tensor:
        return rising_phase(t, k) if monotone else phase(t, k)

    t = torch.arange(d, dtype=torch.float64) - shifts(m, d, theta)[:, None]
    return torch.stack([psi(t, f), psi_prime(t, f)], dim=1).reshape(d, d)


def rope_matrix(m: float, d: int, theta: float = 1e4) -> Tensor:
    """RoPE's rotation of one position, pairs side by side as the paper writes them, float64 [d, d] (Eq. 6, 17)."""
    angle = angles(m, d, theta)
    cos, sin = angle.cos(), angle.sin()
    blocks = torch.stack([torch.stack([cos, -sin], dim=-1), torch.stack([sin, cos], dim=-1)], dim=-2)
    matrix: Tensor = torch.block_diag(*blocks.unbind(0))  # type: ignore[no-untyped-call] # torch's own has no types
    return matrix


def integral(f: Phase, power: int = 1, pieces: int = 4096) -> float:
    """∫ψ^power over [0, 2) for the phase f, by Gauss's rule of 16 points on so many pieces of each half (Eq. 20)."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    inner = (np.arange(pieces)[:, None] + (nodes + 1.0) / 2.0) / pieces
    total = 0.0
    for half in (0.0, 1.0):
        values = psi(torch.from_numpy(half + inner), f).numpy() ** power
        total += float((values * weights).sum()) / (2.0 * pieces)
    return total


def restarted(rate: float) -> Phase:
    """f(t) = rate·t on [0, 1), and the same again on [1, 2): a phase that turns by any amount."""
    return lambda t: rate * (t - t.floor())


def haar_matrix(length: int, b: Tensor | None = None) -> Tensor:
    """Rows ψ_{2,b}(t), φ_{2,b}(t) of Haar's wavelet and scaling function, over t = 0 … length − 1 (Eq. 22–24).

    With the shifts 0, 2, …, length − 2 it is the rotation by π/4 in each block, and one level of Haar's transform.

    Args:
        length: T, even.
        b: the shifts, float64; None: 0, 2, …, length − 2.

    Returns:
        float64 [2 · len(b), length].
    """
    if not isinstance(length, int) or length <= 0 or length % 2:
        raise ValueError(f"length must be an even positive whole number, got {length!r}")
    b = torch.arange(0, length, 2, dtype=torch.float64) if b is None else b
    u = (torch.arange(length, dtype=torch.float64) - b[:, None]) / 2.0
    inside = ((u >= 0.0) & (u < 1.0)).to(torch.float64)
    sign = torch.where(u < 0.5, 1.0, -1.0).to(torch.float64)
    return torch.stack([sign * inside, inside], dim=1).reshape(-1, length) / math.sqrt(2.0)


def printed_haar_shifts(length: int) -> Tensor:
    """[0, 2, …, T/2] as A.3 prints them: 33 of the 64 that T = 128 needs."""
    return torch.arange(0, length // 2 + 1, 2, dtype=torch.float64)


def haar_error(m: Tensor, d: int, theta: float = 1e4) -> Tensor:
    """How far RoPE's block that is farthest from π/4 is from it at each position, radians on the circle, float64.

    Args:
        m: positions, any shape.
        d, theta: RoPE's.
    """
    away = m.to(torch.float64)[..., None] * angles(1.0, d, theta) - math.pi / 4.0
    return torch.remainder(away + math.pi, 2.0 * math.pi).sub(math.pi).abs().amax(-1)


def fourier_matrix(length: int) -> Tensor:
    """w^{ft}, w = exp(−2πi/T): the discrete Fourier transform, complex128 [T, T] (Eq. 26)."""
    product = torch.outer(torch.arange(length), torch.arange(length)) % length
    angle = -2.0 * math.pi * product.to(torch.float64) / length
    return torch.polar(torch.ones_like(angle), angle)


def score_coefficients(q: Tensor, k: Tensor) -> Tensor:
    """c_i with RoPE's score of q at m and k at n equal to Re Σ c_i·exp(i·(n − m)·θ_i) (Eq. 27), complex128 [d/2].

    Args:
        q, k: one query and one key before rotation, float64 [d], pairs side by side.
    """
    of_q, of_k = (torch.view_as_complex(x.to(torch.float64).reshape(-1, 2).contiguous()) for x in (q, k))
    return of_q.conj() * of_k


def trigonometric_score(q: Tensor, k: Tensor, displacement: float, theta: float = 1e4) -> float:
    """Re Σ c_i·exp(i·displacement·θ_i), displacement = n − m: RoPE's score as a trigonometric sum (Eq. 27)."""
    coefficients = score_coefficients(q, k)
    angle = displacement * angles(1.0, q.shape[-1], theta)
    return float((coefficients * torch.polar(torch.ones_like(angle), angle)).real.sum())


def _on_two_halves(t: Tensor, first: Tensor, second: Tensor) -> Tensor:
    zero = torch.zeros_like(first)
    return torch.where((t >= 0.0) & (t < 1.0), first, torch.where((t >= 1.0) & (t < 2.0), second, zero))
