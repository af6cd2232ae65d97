"""Sections 3 and A.1–A.5 as one command's output: numbers with what they mean, figures, timings."""

from pathlib import Path
from typing import Any

from wavepos.console import Update
from wavepos.experiments.exhibits import Shown
from wavepos.experiments.rope_wavelet import dense_timing, facts, haar_figure, matrices_figure, wavelets_figure
from wavepos.experiments.study import StudyOptions


def rope_wavelet(options: StudyOptions, root: Path, update: Update) -> Shown:
    """Sections 3, A.1–A.5: is RoPE a wavelet transform, and what is the RoPE-based wavelet?"""
    return shown_rope_wavelet()


def shown_rope_wavelet(d: int = 128, theta: float = 1e4) -> Shown:
    """Everything, computed now.

    Args:
        d: the head dimension, even.
        theta: base of RoPE's frequencies.
    """
    found, timing = facts(d, theta), dense_timing(d)
    figures = {
        "rope-wavelets": (wavelets_figure(d=d, theta=theta), "The wavelets of section 3.2; dots: the entries of RoPE."),
        "rope-haar": (haar_figure(d, theta), "How far some block of RoPE is from Haar's rotation, at every position."),
        "rope-matrices": (matrices_figure(theta=theta), "Four matrices of one small size."),
    }
    title = "RoPE and wavelets (sections 3, A.1–A.5)"
    return Shown(title=title, lines=lines(found, timing), figures=figures, data={"facts": found, "timing": timing})


def lines(found: dict[str, Any], timing: dict[str, Any]) -> list[str]:
    """The numbers in sentences, Markdown.

    Args:
        found: of `facts`.
        timing: of `dense_timing`.
    """
    return [*_as_wavelet(found), "", *_as_haar_and_fourier(found), "", *_as_dense(found, timing)]


def _as_wavelet(found: dict[str, Any]) -> list[str]:
    wavelet = found["wavelet"]
    equal = all(one["largest_difference"] <= 1e-13 * max(1, one["m"]) for one in found["matrices"])
    return [
        f"## RoPE as a wavelet transform (section 3.2, A.2), d = {found['d']}, θ = {found['theta']:g}",
        "",
        "| m | k | largest difference of the two matrices |",
        "|---:|---:|---:|",
        *(f"| {one['m']:,} | {one['k']:,} | {one['largest_difference']:.1e} |" for one in found["matrices"]),
        "",
        f"- The equality {'holds, to rounding' if equal else 'does not hold'}. ∫ψ = {wavelet['mean']:.0e}, "
        f"∫ψ² = {wavelet['energy']:.12g}.",
        f"- The zero mean belongs to whole turns: f = t gives {wavelet['mean_of_t']:.4f}, f = 3t "
        f"{wavelet['mean_of_3t']:.4f}.",
        f"- A phase that rises without the restart gives the same matrix, to {found['monotone_phase_difference']:.0e}.",
        "- ψ and the shifts depend on m: every position has a transform of its own, and any rotation fits the same "
        "construction. It says nothing that is special to RoPE.",
    ]


def _as_haar_and_fourier(found: dict[str, Any]) -> list[str]:
    haar, fourier = found["haar"], found["fourier"]
    return [
        "## Haar and Fourier (A.3, A.4)",
        "",
        f"- Haar's transform is the rotation by π/4 in every block, to {haar['difference_to_rotation']:.0e}, with "
        f"{haar['shifts']} shifts; the printed list gives {haar['shifts_printed']}.",
        f"- RoPE is never there: the best position below 20,000 leaves some block {haar['best_error_of_rope']:.3f} rad "
        "from π/4.",
        f"- RoPE's matrix has {fourier['entries_rope']:,} entries that are not zero, Fourier's "
        f"{fourier['entries_fourier']:,}; ‖R_37 − F/√d‖ = {fourier['distance']:.3f}.",
        f"- But the score is a trigonometric sum in n − m, to {fourier['score_difference']:.0e}: frequencies are what "
        "attention sees of RoPE.",
    ]


def _as_dense(found: dict[str, Any], timing: dict[str, Any]) -> list[str]:
    based = found["rope_based"]
    rope, fast, dense = timing["rope"], timing["fast"], timing["dense"]
    return [
        "## The RoPE-based wavelet (A.5)",
        "",
        f"- Dense and fast form differ by {based['dense_minus_fast']:.0e}. The score depends on m − n alone, to "
        f"{based['shift_error']:.0e}; as printed it does not ({based['shift_error_as_printed']:.0f}).",
        f"- {based['entries']:,} entries against RoPE's {based['entries_rope']:,}; "
        f"{based['mebibytes_of_512_positions']:g} MiB for 512 positions. Condition number of the triangle: "
        f"{based['condition']:.0f}.",
        f"- Scores of random q, k grow {based['score_growth_measured']:.0f} times (by the formula "
        f"{based['score_growth']:.0f}), by which the position divides them.",
        f"- For {timing['num_positions']} positions of {timing['heads']} heads, {timing['threads']} threads: RoPE "
        f"{1e3 * rope:.2f} ms, the fast form {1e3 * fast:.2f} ms ({fast / rope:.1f} times), dense {1e3 * dense:.2f} ms "
        f"({dense / rope:.0f} times) and {1e3 * timing['dense_building']:.0f} ms once to build its matrices.",
    ]
