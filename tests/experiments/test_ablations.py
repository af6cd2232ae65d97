"""The rows of Tables 3 and 4: their names, grids, and tables that are the formulas' own numbers."""

import json
import math

import numpy as np
import pytest
import pywt

from wavepos.experiments.ablations import Ablation, ablation, ablations
from wavepos.experiments.published import TABLE3, TABLE4
from wavepos.positions import build_position, parse_position

ROWS = [*ablations("3"), *ablations("4")]
VARIED = [*ablations("3", variants=True), *ablations("4", variants=True)]


def ids(row: Ablation) -> str:
    return f"{row.table}-{row.name}"


def formula(wavelet: str, scale: float, x: np.ndarray) -> np.ndarray:
    """ψ as the paper writes it, once more and in numpy; of sampled families the array's entry at x."""
    u = x / scale
    match wavelet:
        case "ricker":
            return (1.0 - u**2) * np.exp(-(u**2) / 2.0)
        case "gaussian":
            return np.exp(-(u**2))
        case "morlet":
            return np.exp(-(u**2)) * np.cos(scale * u)
        case "haar":
            return np.where((u >= -0.5) & (u < 0.0), 1.0, np.where((u >= -1.0) & (u < -0.5), -1.0, 0.0))
        case _:
            samples = pywt.Wavelet(wavelet).wavefun(level=int(scale))[1]
            inside = (x >= 0) & (x < len(samples))
            return np.where(inside, samples[np.clip(x.astype(int), 0, len(samples) - 1)], 0.0)


def expected_table(position: dict, length: int) -> np.ndarray:
    delta = np.arange(length, dtype=np.float64)
    columns = []
    for scale in position["scales"]:
        for shift in position["shifts"]:
            past = position["direction"] == "past"
            if position["wavelet"] == "haar":  # Eq. 15 as printed at t = n − m; its mirror image at t = m − n
                x = shift - delta if past else -delta - shift
            elif position["wavelet"] in ("ricker", "gaussian", "morlet"):
                x = delta - shift if past else -delta - shift
            else:  # the array's index is the offset on the causal side
                x = delta - shift if past else delta + shift
            values = formula(position["wavelet"], scale, x)
            if position["amplitude"] == "unit_peak":
                values = values / np.abs(pywt.Wavelet(position["wavelet"]).wavefun(level=int(scale))[1]).max()
            columns.append(values)
    return np.stack(columns, axis=-1)


def test_there_are_23_and_31_rows_by_the_names_of_the_papers_tables() -> None:
    assert [row.name for row in ablations("3")] == list(TABLE3)
    assert [row.name for row in ablations("4")] == list(TABLE4)
    wavelets = [row.position["wavelet"] for row in ablations("3")]
    assert [wavelets.count(name) for name in ("ricker", "gaussian", "haar", "morlet")] == [10, 10, 2, 1]
    assert len({json.dumps(row.position) for row in ablations("3")}) == 23


@pytest.mark.parametrize("row", VARIED, ids=ids)
def test_tables_are_the_formulas_numbers(row: Ablation) -> None:
    position = build_position(parse_position(json.loads(json.dumps(row.position))), head_dim=128, num_heads=8)
    found, expected = position.table(600).double().numpy(), expected_table(row.position, 600)
    assert np.abs(found - expected).max() <= 1e-7 * max(1.0, np.abs(expected).max())
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize(
    ("name", "exponents", "num_shifts"),
    [
        ("ricker-0-7", range(8), 16),
        ("ricker-2-9", range(2, 10), 16),
        ("gaussian-0-1", range(2), 64),
        ("ricker-0-127", range(128), 1),
        ("gaussian-7", [7], 128),
        ("haar-fixed", [0], 128),
        ("morlet-0-7", range(8), 16),
    ],
)
def test_names_say_the_grid(name: str, exponents: list[int], num_shifts: int) -> None:
    position = ablation("3", name).position
    assert [math.log2(scale) for scale in position["scales"]] == list(exponents)
    assert list(position["shifts"]) == [float(b) for b in range(num_shifts)]


def test_sampled_families_take_levels_in_the_scales_place() -> None:
    for row in ablations("4")[4:]:
        assert list(row.position["scales"]) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
        assert len(row.position["shifts"]) == 16


def test_published_numbers_stand_beside_each_row() -> None:
    assert ablation("3", "gaussian-0-15").published[2512] == 17.77
    assert ablation("4", "coif16, future").published[128] == 126.38
    assert all(len(row.published) == 6 for row in ROWS)


def test_one_sided_rows_come_in_both_directions_and_sampled_ones_with_their_peak_at_1() -> None:
    names = {row.name for row in ablations("4", variants=True)}
    assert len(names) == 4 + 1 + 27 * 4
    assert {"haar, future", "db2, future", "db2, unit peak", "db2, future, unit peak"} <= names
    assert not {"ricker, future", "haar, unit peak"} & names
    assert {row.name for row in ablations("3", variants=True)} - set(TABLE3) == {
        "haar-fixed, future",
        "haar-0-7, future",
    }


def test_statistics_of_a_row_are_those_of_its_table() -> None:
    assert ablation("4", "coif16").statistics().dead == 80
    assert ablation("3", "ricker-0-127").statistics(4096).constant == 110
    fixed = {name: ablation("3", name).statistics().dead for name in ("haar-fixed", "haar-fixed, future")}
    assert fixed == {"haar-fixed": 0, "haar-fixed, future": 126}


@pytest.mark.parametrize("row", [*ablations("3", 64), *ablations("4", 64)], ids=ids)
def test_smaller_heads_keep_the_range_of_scales(row: Ablation) -> None:
    full = ablation(row.table, row.name).position
    table = build_position(parse_position(row.position), head_dim=64, num_heads=2).table(50)
    assert table.shape == (50, 64)
    assert row.position["scales"][0] == full["scales"][0]
    assert row.position["scales"][-1] >= full["scales"][-1] / 2


def test_rows_that_are_not_there_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no row 'ricker-0-8'; the nearest is 'ricker-"):
        ablation("3", "ricker-0-8")
    with pytest.raises(ValueError, match="table must be one of 3, 4, got '2'"):
        ablations("2")
    with pytest.raises(ValueError, match="head_dim must be a multiple of the 8 scales of 'ricker-0-7', got 66"):
        ablations("3", head_dim=66)
