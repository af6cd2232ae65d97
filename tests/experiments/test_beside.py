"""Our numbers beside the paper's: which lengths correspond, and what seeds can say of its comparisons."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from wavepos.experiments.ablation_studies import table3, table4
from wavepos.experiments.beside import beside_paper, facts_table, judged_comparisons, rank_correlation
from wavepos.experiments.report import markdown, write_report
from wavepos.experiments.study import StudyOptions
from wavepos.experiments.tables import panels

MakeResult = Callable[..., dict[str, Any]]
LENGTHS = (8, 16, 32, 64, 128)
"""Half to eight times the trained length 16; the paper has 0.25, 0.5, 1, 1.98, 2.95 and 4.91 times 512."""


def seeds(mean: float, spread: float = 0.001) -> dict[int, list[float]]:
    return {seed: [mean + spread * seed] * len(LENGTHS) for seed in range(3)}


def test_lengths_correspond_in_units_of_the_trained_one(make_result: MakeResult) -> None:
    result = make_result({"RoPE": seeds(4.0), "ALiBi": seeds(3.9)}, LENGTHS)
    text = "\n".join(beside_paper(panels(result)[0], "1"))
    assert "| 256 (8) | 512 (16) | 1012 (32) | 2512 (64) |" in text
    row = next(line for line in text.splitlines() if line.startswith("| RoPE |"))
    assert row.startswith(f"| RoPE | 20.98 ¦ {math.exp(4.001):.2f}±")


def test_the_order_of_the_rows_is_compared_with_the_papers(make_result: MakeResult) -> None:
    means = {"RoPE": 4.3, "ALiBi": 4.1, "Wavelet": 4.2, "Transformer-XL": 4.0}
    text = "\n".join(beside_paper(panels(make_result({k: seeds(v) for k, v in means.items()}, LENGTHS))[0], "1"))
    row = next(line for line in text.splitlines() if line.startswith("| *Spearman"))
    assert row.split("|")[-2].strip() == "+0.20"  # 1 − 6·(2² + 2²)/(4·15)
    text = "\n".join(beside_paper(panels(make_result({"RoPE": seeds(4.0), "ALiBi": seeds(3.9)}, LENGTHS))[0], "1"))
    assert "Spearman" not in text


def test_ranks_correlate_also_where_values_are_equal() -> None:
    tied = [(1.0, 9.0), (2.0, 8.0), (3.0, 3.0), (3.0, 4.0), (7.0, 4.0)]
    assert rank_correlation(tied) == pytest.approx(-0.763157895)  # scipy's spearmanr
    assert rank_correlation([(1.0, 1.0), (2.0, 5.0), (3.0, 9.0)]) == pytest.approx(1.0)
    assert math.isnan(rank_correlation([(1.0, 2.0), (2.0, 2.0)]))


def test_comparisons_hold_fail_or_cannot_be_told_by_the_interval(make_result: MakeResult) -> None:
    given = {
        "ALiBi": seeds(4.0),
        "Wavelet": seeds(3.9),  # below ALiBi in the paper
        "RoPE": seeds(4.2),  # below ALiBi in the paper up to L_train, above beyond
        "Transformer-XL": {seed: [4.0 + 0.1 * (seed - 1)] * len(LENGTHS) for seed in range(3)},
        "NoPE": {0: [4.0] * len(LENGTHS)},
    }
    panel = panels(make_result(given, LENGTHS))[0]
    found = {
        (c.better, c.worse, ours): how for c, ours, how, _ in judged_comparisons(panel, "1") if c.protocol == "whole"
    }
    assert {how for (better, worse, _), how in found.items() if (better, worse) == ("Wavelet", "ALiBi")} == {"holds"}
    assert found["RoPE", "ALiBi", 16] == "fails"
    assert found["ALiBi", "RoPE", 64] == "holds"
    assert found["ALiBi", "Transformer-XL", 32] == "cannot be told"
    assert all(how == "too few seeds" for names, how in found.items() if "NoPE" in names)
    text = "\n".join(beside_paper(panel, "1"))
    assert "- Fails: RoPE below ALiBi at 512 (ours 16), read whole: +0.200" in text


def test_a_report_has_the_comparison_where_the_study_redoes_a_table(make_result: MakeResult, tmp_path: Any) -> None:
    result = make_result({"RoPE": seeds(4.0), "ALiBi": seeds(3.9)}, LENGTHS)
    assert "Beside the paper" not in markdown(result)
    result["published"] = "1"
    write_report(result, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<h3>Beside the paper</h3>" in page and "20.98 ¦ " in page
    assert "### Beside the paper" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(("study", "rows"), [(table3, 23), (table4, 31)])
def test_the_ablations_are_studies_at_half_the_tokens_with_what_their_tables_hold(study: Any, rows: int) -> None:
    found = study(StudyOptions())
    assert len(found.rows) == len(found.facts) == rows
    assert {run.config.steps * run.config.batch_tokens for run in found.runs} == {1_024_000}
    assert {run.config.seed for run in found.runs} == {0}
    if study is table3:
        assert found.facts["ricker-0-127"]["dead dimensions"].endswith("of 64")
        assert found.facts["ricker-0-7"] != found.facts["ricker-0-1"]
    else:
        dead = int(found.facts["coif16"]["dead dimensions"].split()[0])
        assert dead > int(found.facts["ricker"]["dead dimensions"].split()[0])


def test_facts_of_rows_stand_beside_their_perplexities(make_result: MakeResult) -> None:
    panel = panels(make_result({"ricker-0-7": seeds(4.0), "ricker-0-1": seeds(4.1)}, LENGTHS))[0]
    lines = list(facts_table(panel, {"ricker-0-7": {"rank": 20}, "ricker-0-1": {"rank": 7}}))
    assert lines[2] == "| | rank | perplexity at 16 | perplexity at 128 |"
    assert lines[4] == f"| ricker-0-7 | 20 | {sum(math.exp(4 + s / 1000) for s in range(3)) / 3:.2f} | " + (
        f"{sum(math.exp(4 + s / 1000) for s in range(3)) / 3:.2f} |"
    )
