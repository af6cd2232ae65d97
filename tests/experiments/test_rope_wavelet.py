"""The numbers of sections 3 and A.1–A.5, computed at once, and their figures."""

import json
from pathlib import Path

import pytest

from wavepos.experiments.exhibits import write_exhibit
from wavepos.experiments.rope_wavelet import dense_timing, facts, haar_figure, matrices_figure, wavelets_figure
from wavepos.experiments.rope_wavelet_report import shown_rope_wavelet


def test_all_numbers_of_the_sections_come_at_once_as_json() -> None:
    found = json.loads(json.dumps(facts()))
    assert [(one["m"], one["k"]) for one in found["matrices"]] == [(7, 2), (511, 82), (32_767, 5_216)]
    assert all(one["largest_difference"] <= 1e-13 * one["m"] for one in found["matrices"])
    assert found["monotone_phase_difference"] < 4e-12
    assert found["wavelet"]["mean"] == pytest.approx(0.0, abs=1e-12)
    assert found["wavelet"]["mean_of_t"] == pytest.approx(0.3818, abs=5e-5)
    assert found["wavelet"]["mean_of_3t"] == pytest.approx(-0.6163, abs=5e-5)
    assert found["haar"]["difference_to_rotation"] <= 1.2e-16
    assert (found["haar"]["shifts"], found["haar"]["shifts_printed"]) == (64, 33)
    assert found["haar"]["best_error_of_rope"] == pytest.approx(0.785, abs=5e-4)
    assert found["fourier"]["distance"] == pytest.approx(15.944, abs=5e-4)
    assert found["fourier"]["score_difference"] < 5e-13
    based = found["rope_based"]
    assert based["dense_minus_fast"] < 1e-10
    assert based["shift_error"] < 1e-11 < 50.0 < based["shift_error_as_printed"]
    assert (based["entries"], based["entries_rope"], based["mebibytes_of_512_positions"]) == (8_320, 256, 32.0)
    assert based["condition"] == pytest.approx(82.1, abs=0.05)
    assert based["score_growth_measured"] == pytest.approx(based["score_growth"], rel=0.05)


def test_the_numbers_follow_the_size_and_the_base() -> None:
    small = facts(d=16, theta=100.0)
    assert small["haar"]["shifts"] == 8
    assert small["fourier"]["entries_rope"] == 32
    assert small["rope_based"]["entries"] == 144


def test_timings_are_of_all_three_forms() -> None:
    found = dense_timing(d=16, num_positions=32, heads=2, repeats=1)
    assert {"rope", "fast", "dense", "dense_building"} <= set(found)
    assert (found["d"], found["num_positions"], found["heads"]) == (16, 32, 2)


def test_figures_show_ropes_entries_on_the_wavelets() -> None:
    figure = wavelets_figure((7, 44), d=32)
    panel = figure.axes[0]
    assert panel.get_title(loc="left") == "ψ at m = 7, k = 2"
    assert [len(line.get_xdata()) for line in panel.lines[1:]] == [16, 16]
    assert len(haar_figure(until=2000).axes) == 1
    assert matrices_figure(d=8).axes[0].images[0].get_array().shape == (8, 8)


def test_everything_is_written_with_what_it_means(tmp_path: Path) -> None:
    written = write_exhibit("rope-wavelet", shown_rope_wavelet(d=16), tmp_path)
    assert sorted(written) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) == 3 + 2 * 3
    text = (tmp_path / "report.md").read_text()
    data = json.loads((tmp_path / "report.json").read_text())
    assert (tmp_path / "report.html").read_text().count("<svg") == 3
    assert f"Condition number of the triangle: {data['data']['facts']['rope_based']['condition']:.0f}" in text
    assert "8 shifts; the printed list gives 5" in text
    assert data["environment"]["threads"] >= 1
