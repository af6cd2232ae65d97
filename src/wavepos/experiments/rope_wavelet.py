"""Section 3 and A.1–A.5 as numbers, figures and timings: RoPE as a wavelet transform, and the RoPE-based wavelet."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from wavepos import Rotary
from wavepos.analysis.rope_as_wavelet import (
    fourier_matrix,
    haar_error,
    haar_matrix,
    integral,
    offsets,
    phase,
    printed_haar_shifts,
    psi,
    psi_prime,
    restarted,
    rope_matrix,
    trigonometric_score,
    turns,
    wavelet_matrix,
)
from wavepos.analysis.rope_based_wavelet import (
    RopeBasedWavelet,
    dense_cost,
    dense_matrix,
    dense_transform,
    fast_transform,
    score_growth,
    triangle_condition,
)
from wavepos.experiments.style import BLACK, GUIDE, panels, style_of, title

POSITIONS = (7, 511, 32_767)
SHIFTED = (0, 7, 100, 511, 1000)
FARTHEST = 20_000


def facts(d: int = 128, theta: float = 1e4) -> dict[str, Any]:
    """Every number of sections 3, A.3, A.4 and A.5, computed now.

    Args:
        d: the head dimension, even.
        theta: base of RoPE's frequencies.

    Returns:
        JSON: "matrices" (k and the largest difference at some positions), "wavelet" (mean and energy), "haar",
        "fourier", "rope_based" (shift errors, costs, conditioning).
    """
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(d, dtype=torch.float64, generator=generator) for _ in range(2))
    return {
        "d": d,
        "theta": theta,
        "matrices": [
            {
                "m": m,
                "k": turns(m),
                "largest_difference": _largest(wavelet_matrix(m, d, theta) - rope_matrix(m, d, theta)),
            }
            for m in POSITIONS
        ],
        "monotone_phase_difference": _largest(
            wavelet_matrix(511, d, theta, monotone=True) - wavelet_matrix(511, d, theta)
        ),
        "wavelet": {
            "mean": integral(lambda t: phase(t, turns(511))),
            "energy": integral(lambda t: phase(t, turns(511)), power=2),
            "mean_of_t": integral(restarted(1.0)),
            "mean_of_3t": integral(restarted(3.0)),
        },
        "haar": {
            "difference_to_rotation": _largest(haar_matrix(d) - _eighth_turns(d)),
            "shifts": d // 2,
            "shifts_printed": printed_haar_shifts(d).numel(),
            "best_error_of_rope": float(haar_error(torch.arange(FARTHEST), d, theta).min()),
        },
        "fourier": {
            "entries_rope": int((rope_matrix(37, d, theta) != 0).sum()),
            "entries_fourier": d * d,
            "distance": float(torch.linalg.norm(rope_matrix(37, d, theta) - fourier_matrix(d) / math.sqrt(d))),
            "score_difference": abs(
                float((rope_matrix(100, d, theta) @ q) @ (rope_matrix(3, d, theta) @ k))
                - trigonometric_score(q, k, 3 - 100, theta)
            ),
        },
        "rope_based": _rope_based_facts(q, k, theta),
    }


def dense_timing(d: int = 128, num_positions: int = 512, heads: int = 8, repeats: int = 5) -> dict[str, Any]:
    """Seconds to transform queries or keys on this machine: RoPE, the fast form, and dense matrices already built.

    Args:
        d: the head dimension.
        num_positions: T, each with its own dense matrix.
        heads: H, one sequence.
        repeats: the shortest of so many is taken.

    Returns:
        JSON: seconds of "rope", "fast", "dense" (the product alone) and "dense_building" (the matrices).
    """
    x = torch.randn(1, heads, num_positions, d)
    rotary, fast = Rotary(d), RopeBasedWavelet(d)
    begun = time.perf_counter()
    matrices = torch.stack([dense_matrix(m, d) for m in range(num_positions)]).float()
    built = time.perf_counter() - begun
    rotary.rotated(x, 0, num_positions)  # its table is made once

    def dense() -> Tensor:
        return torch.matmul(x.transpose(1, 2), matrices.mT).transpose(1, 2)  # one product for each position

    return {
        "d": d,
        "num_positions": num_positions,
        "heads": heads,
        "threads": torch.get_num_threads(),
        "rope": _shortest(lambda: rotary.rotated(x, 0, num_positions), repeats),
        "fast": _shortest(lambda: fast.rotated(x, 0, num_positions), repeats),
        "dense": _shortest(dense, repeats),
        "dense_building": built,
    }


def wavelets_figure(positions: tuple[int, int] = (7, 44), d: int = 128, theta: float = 1e4) -> Figure:
    """The two wavelets of section 3.2 at two positions: the points are the entries cos mθ_i, −sin mθ_i they give."""
    figure, axes = panels(2, 2, height=1.7, sharex=True, sharey=True)
    t = torch.linspace(-0.25, 2.25, 6001, dtype=torch.float64)
    colour = style_of("RoPE").colour
    for row, m in enumerate(positions):
        k = turns(m)

        def f(x: Tensor, k: int = k) -> Tensor:
            return phase(x, k)

        delta = offsets(m, d, theta)
        for axis, wavelet, name in zip(axes[row], (psi, psi_prime), ("ψ", "ψ′"), strict=True):
            axis.plot(t.numpy(), wavelet(t, f).numpy(), color=GUIDE, linewidth=0.8)
            for half in (0.0, 1.0):
                at = delta + half
                axis.plot(at.numpy(), wavelet(at, f).numpy(), ".", color=colour, markersize=3.5)
            title(axis, f"{name} at m = {m}, k = {k}")
    for axis in axes[-1]:
        axis.set_xlabel("t − b; dots: the entries of RoPE")
    return figure


def haar_figure(d: int = 128, theta: float = 1e4, until: int = FARTHEST) -> Figure:
    """How far RoPE's farthest block is from Haar's rotation by π/4 at each position: never near."""
    figure, axes = panels(1, 1, height=2.4)
    axis = axes[0, 0]
    errors = haar_error(torch.arange(until), d, theta)
    best, step = float(errors.min()), max(1, until // 400)
    parts = errors[: until // step * step].view(-1, step)
    middles = torch.arange(parts.shape[0]) * step + step / 2
    axis.fill_between(
        middles.numpy(), parts.amin(1).numpy(), parts.amax(1).numpy(), color=style_of("RoPE").colour, linewidth=0
    )
    axis.axhline(best, color=BLACK, linestyle="dotted", linewidth=1.0)
    axis.text(
        until,
        best - 0.12,
        f"best {best:.3f}, at m = {int(errors.argmin())}",
        ha="right",
        va="top",
        fontsize=8.5,
        color=BLACK,
    )
    axis.set_ylim(0.0, math.pi * 1.03)
    axis.set_xlim(0, until)
    axis.set_xlabel("position m")
    axis.set_ylabel("largest |mθ − π/4|, rad")
    title(axis, f"range over {step} positions each")
    return figure


def matrices_figure(m: int = 37, d: int = 16, theta: float = 1e4) -> Figure:
    """RoPE, one level of Haar, the RoPE-based wavelet and Fourier (real part) as matrices of one small size."""
    figure, axes = panels(2, 2, height=2.55)
    shown = {
        f"RoPE, m = {m}": rope_matrix(m, d, theta),
        "Haar (A.3)": haar_matrix(d),
        f"RoPE-based wavelet, m = {m}": dense_matrix(m, d, theta),
        "Fourier/√d, real part": fourier_matrix(d).real / math.sqrt(d),
    }
    for axis, (name, matrix) in zip(axes.flat, shown.items(), strict=True):
        drawn = axis.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-1.0, vmax=1.0, interpolation="none")
        axis.grid(False)
        axis.set_xticks([0, d - 1])
        axis.set_yticks([0, d - 1])
        title(axis, name, size=8.5)
    bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.02)
    bar.ax.tick_params(labelsize=8)
    return figure


def _rope_based_facts(q: Tensor, k: Tensor, theta: float) -> dict[str, Any]:
    d = q.shape[0]
    cost = dense_cost(d, 512)
    at = torch.tensor([511])
    scores = torch.randn(2, 4096, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sums = fast_transform(scores, torch.zeros(4096), theta)
    return {
        "dense_minus_fast": _largest(dense_transform(q[None], at, theta) - fast_transform(q[None], at, theta)),
        "shift_error": _shift_error(q, k, theta, as_printed=False),
        "shift_error_as_printed": _shift_error(q, k, theta, as_printed=True),
        "condition": triangle_condition(d),
        "entries": cost.entries,
        "entries_rope": cost.rope_entries,
        "mebibytes_of_512_positions": cost.bytes / 2**20,
        "score_growth": score_growth(d),
        "score_growth_measured": float((sums[0] * sums[1]).sum(-1).std() / (scores[0] * scores[1]).sum(-1).std()),
    }


def _shift_error(q: Tensor, k: Tensor, theta: float, as_printed: bool) -> float:
    """By how much the score at one displacement differs between positions."""
    d = q.shape[0]
    scores = [
        float(
            (dense_matrix(n + 50, d, theta, as_printed=as_printed) @ q)
            @ (dense_matrix(n, d, theta, as_printed=as_printed) @ k)
        )
        for n in SHIFTED
    ]
    return max(scores) - min(scores)


def _eighth_turns(d: int) -> Tensor:
    block = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2.0)
    matrix: Tensor = torch.block_diag(*[block] * (d // 2))  # type: ignore[no-untyped-call] # torch's own has no types
    return matrix


def _largest(x: Tensor) -> float:
    return float(x.abs().max())


def _shortest(call: Callable[[], Tensor], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return min(taken)
