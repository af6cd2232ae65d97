"""One look for each method everywhere, and figures as files."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.lines
import pytest

from wavepos.experiments.published import TABLE1
from wavepos.experiments.style import ALIASES, DASHES, FIXED, WIDTH, normalised, panels, save, style_of, svg
from wavepos.positions import METHODS

OF_A_STUDY = [
    "NoPE",
    "RoPE",
    "RoPE, theta = 5e5",
    "RoPE, theta = L_train",
    "RoPE, read with YaRN 8x",
    "Transformer-XL",
    "ALiBi",
    "ALiBi, learned slopes",
    "Kerple",
    "T5",
    "Wavelet",
    "Wavelet, future",
    "Wavelet, fit grid",
    "Wavelet, future, fit grid",
    "Wavelet, recency start",
    "Wavelet, future, recency start",
    "Gaussian wavelet",
    "Haar wavelet",
    "Haar, fixed scale",
    "Morlet wavelet",
    "RoPE-based wavelet",
    "ForgetGate",
    "Cable",
    "Wavelet + forget gate",
    "Wavelet, recency start + forget gate",
    "NoPE, log temperature",
    "Wavelet, log temperature",
    "Wavelet local, NoPE global",
    "Shaw",
    "Shaw, smooth low rank",
    "Random smooth basis",
    "Recency bias alone",
]


def test_methods_of_a_study_can_be_told_apart() -> None:
    styles = [style_of(name) for name in OF_A_STUDY]
    assert len(set(styles)) == len(OF_A_STUDY)
    assert len({(style.colour, style.marker) for style in styles}) == len(OF_A_STUDY)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("rotary", "RoPE"),
        ("RoPE 10k", "RoPE"),
        ("transformer_xl", "Transformer-XL"),
        ("alibi", "ALiBi"),
        ("t5", "T5 bias"),
        ("forget_gate", "FoX"),
        ("wavelet", "Wavelet (Ricker)"),
        ("Wavelet: recency start", "wavelet, recency start"),
        ("haar-fixed", "Haar, fixed scale"),
        ("rope_wavelet", "RoPE-based wavelet"),
        ("RoPE 500k", "RoPE, θ = 500,000"),
    ],
)
def test_a_method_looks_the_same_by_any_of_its_names(name: str, other: str) -> None:
    assert style_of(name) == style_of(other) == FIXED[ALIASES.get(normalised(other), normalised(other))]


def test_the_papers_rows_and_the_best_known_methods_have_a_style_of_their_own() -> None:
    known = [*TABLE1["whole"][512], *(method for method in METHODS if method != "learned_relative")]
    assert all(ALIASES.get(normalised(name), normalised(name)) in FIXED for name in known)
    assert len(set(FIXED.values())) == len(FIXED)
    assert set(ALIASES.values()) <= set(FIXED)


def test_unknown_names_look_the_same_in_every_process() -> None:
    names = ["A method of mine", "Wavelet, my grid", "Ω"]
    code = f"from wavepos.experiments.style import style_of; print([style_of(n) for n in {names!r}])"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.strip() == str([style_of(name) for name in names])
    assert style_of("Wavelet, my grid").colour == style_of("Wavelet").colour
    assert style_of("Wavelet, my grid") != style_of("Wavelet, your grid")


def test_markers_and_dashes_are_matplotlibs() -> None:
    for style in (*FIXED.values(), *map(style_of, OF_A_STUDY)):
        assert style.marker in matplotlib.lines.Line2D.markers
        assert style.dash in DASHES


def test_figures_are_written_as_png_and_as_svg_that_is_the_same_each_time(tmp_path: Path) -> None:
    def drawn() -> object:
        figure, axes = panels(2, 1)
        axes[0, 0].plot([1, 2], [3, 4], **style_of("ALiBi").line(label="ALiBi"))
        return figure

    first, second = drawn(), drawn()
    assert svg(first) == svg(second)  # type: ignore[arg-type]
    png, vector = save(first, tmp_path / "new", "one")  # type: ignore[arg-type]
    assert png.read_bytes().startswith(b"\x89PNG")
    assert vector.read_text().startswith("<svg")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["one.png", "one.svg"]
    assert first.get_figwidth() == WIDTH  # type: ignore[attr-defined]
