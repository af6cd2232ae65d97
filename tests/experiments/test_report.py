"""The numbers of a report, computed again by hand; what is bold; what a page must hold."""

import csv
import io
import math
import re
import shutil
import statistics
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from wavepos.experiments.machine import plan_tasks, run_tasks
from wavepos.experiments.report import console_tables, csv_text, markdown, read_result, write_report
from wavepos.experiments.results import binned, runs_result, study_result
from wavepos.experiments.study import Method, Study
from wavepos.experiments.tables import columns, difference_text, panels, summary, verdict

MakeResult = Callable[..., dict]

THREE_SEEDS = {
    "RoPE": {0: 4.00, 1: 4.05, 2: 4.10},
    "ALiBi": {0: 3.90, 1: 3.96, 2: 3.99},
    "Wavelet": {0: 3.89, 1: 3.99, 2: 3.95},
    "NoPE": {0: 4.30},
}


def test_means_spreads_and_differences_by_hand(make_result: MakeResult) -> None:
    result = make_result(THREE_SEEDS)
    panel = panels(result)[0]
    column = columns(panel, panel.texts[0], "whole")[0]
    difference = column.difference("ALiBi", "RoPE")
    paired = [3.90 - 4.00, 3.96 - 4.05, 3.99 - 4.10]
    assert difference is not None and difference.half_width is not None
    assert difference.mean == pytest.approx(sum(paired) / 3)
    assert difference.half_width == pytest.approx(4.302652730 * statistics.stdev(paired) / math.sqrt(3))
    assert difference_text(difference) == "−0.100±0.025"
    perplexities = [math.exp(4.00), math.exp(4.05), math.exp(4.10)]
    expected = f"| RoPE | {sum(perplexities) / 3:.2f}±{statistics.stdev(perplexities):.2f} |"
    assert expected in markdown(result).splitlines()
    assert "| ALiBi | **−0.100±0.025** |" in markdown(result).splitlines()
    row = summary(panel)[0]
    assert (row["seeds"], row["train_seconds"]) == (3, 11.0)
    assert row["bits_per_byte"] == pytest.approx(4.05 / 3)


def test_bold_and_rank_only_where_the_interval_leaves_zero_out(make_result: MakeResult) -> None:
    panel = panels(make_result(THREE_SEEDS))[0]
    column = columns(panel, panel.texts[0], "whole")[0]
    assert column.best() is None, "ALiBi and the wavelet cannot be told apart"
    assert verdict(panel, column, "RoPE") == {"better": ["ALiBi"], "worse": [], "cannot be told": ["Wavelet", "NoPE"]}
    told = {**THREE_SEEDS, "Wavelet": {0: 3.70, 1: 3.76, 2: 3.79}}
    panel = panels(make_result(told))[0]
    assert columns(panel, panel.texts[0], "whole")[0].best() == "Wavelet"
    lucky = {**told, "NoPE": {0: 3.60}}
    panel = panels(make_result(lucky))[0]
    assert columns(panel, panel.texts[0], "whole")[0].best() is None, "one seed may not rank, nor be passed over"


def test_one_seed_has_no_bold_and_says_so(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result({"RoPE": {0: 4.0}, "ALiBi": {0: 3.0}})
    write_report(result, tmp_path)
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    for written in (page, text):
        assert (
            "One seed each: no difference can be told from chance, so nothing is bold and nothing is ranked" in written
        )
    assert 'class="told"' not in page
    assert "**" not in text
    assert "| ALiBi | −1.000 |" in text


def test_runs_of_another_precision_are_named(make_result: MakeResult) -> None:
    result = make_result(
        {"RoPE": {0: 4.0, 1: 4.1, 2: 4.2}, "ALiBi": {0: 3.0}, "NoPE": {0: 5.0}, "T5": {0: 3.0, 1: 3.1}}
    )
    for outcome in result["outcomes"]:
        outcome["evaluations"][0]["precision"] = "bf16"
    assert "Products are taken" not in markdown(result)
    result["outcomes"][3]["evaluations"][0]["precision"] = "fp32"
    assert "Products are taken in bf16, but in fp32 ALiBi, seed 0: between the two" in markdown(result)
    for outcome in result["outcomes"][4:]:
        outcome["evaluations"][0]["precision"] = "fp32"
    assert "but in bf16 RoPE, seeds 0, 1, 2: between" in markdown(result)
    result["outcomes"][1]["evaluations"][0]["precision"] = result["outcomes"][2]["evaluations"][0]["precision"] = "fp32"
    result["outcomes"][4]["evaluations"][0]["precision"] = "bf16"
    assert "but in bf16 RoPE · NoPE, seed 0: between" in markdown(result)


def test_unequal_seeds_are_paired_where_both_have_them(make_result: MakeResult) -> None:
    panel = panels(make_result({"RoPE": {0: 4.0, 1: 5.0, 3: 6.0}, "ALiBi": {1: 4.9, 3: 5.9, 4: 1.0}}))[0]
    difference = columns(panel, panel.texts[0], "whole")[0].difference("ALiBi", "RoPE")
    assert difference is not None
    assert (difference.mean, difference.count) == (pytest.approx(-0.1), 2)


def test_runs_of_other_budgets_are_not_compared(make_result: MakeResult) -> None:
    result, longer = make_result(THREE_SEEDS), make_result(THREE_SEEDS)
    for outcome in longer["outcomes"]:
        outcome["config"]["steps"] = 8
    result["outcomes"] += longer["outcomes"]
    assert [panel.title for panel in panels(result)] == [
        f"tiny, L_train = 16, {tokens} tokens of text:corpus.txt" for tokens in (128, 256)
    ]


def test_wikitext_is_shown_per_word_and_other_texts_per_token(make_result: MakeResult) -> None:
    result = make_result({"RoPE": {0: 2.0}})
    assert "### Perplexity per token: text:else.txt, valid" in markdown(result)
    assert f"| RoPE | {math.exp(2.0):.2f} |" in markdown(result)
    result["outcomes"][0]["evaluations"][0]["corpus"] = "wikitext103:/data/wikitext-103"
    assert "### Perplexity per word: wikitext103:wikitext-103, valid" in markdown(result)
    assert f"| RoPE | {math.exp(4.0):.2f} |" in markdown(result)


def test_the_csv_holds_every_measurement(make_result: MakeResult) -> None:
    rows = list(csv.DictReader(csv_text(make_result(THREE_SEEDS, (16, 32))).splitlines()))
    assert len(rows) == 20
    assert rows[0]["method"] == "RoPE"
    assert float(rows[0]["nats"]) / int(rows[0]["tokens"]) == pytest.approx(4.0)
    assert {row["length"] for row in rows} == {"16", "32"}


def test_a_perplexity_beyond_numbers_is_shown_as_such(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result({"RoPE": {0: 4.0}, "NoPE": {0: 5.0}})
    entry = result["outcomes"][1]["evaluations"][0]["perplexities"][0]
    entry |= {"per_token": None, "nats": 1e6}
    write_report(result, tmp_path)
    assert "| NoPE | inf |" in (tmp_path / "report.md").read_text()


def test_failures_and_what_is_missing_are_named(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result({"RoPE": {0: 4.0}})
    result["failures"] = [{"run": "T5, seed 0", "error": "RuntimeError: <no> memory"}]
    result["unfinished"] = ["T5, seed 0"]
    write_report(result, tmp_path)
    assert "Failed: T5, seed 0: RuntimeError: &lt;no&gt; memory" in (tmp_path / "report.html").read_text()
    with pytest.raises(ValueError, match=r"nothing to report \(T5, seed 0: RuntimeError"):
        write_report({**result, "outcomes": []}, tmp_path)


def test_many_methods_are_parted_into_figures_with_the_baseline_in_each(
    make_result: MakeResult, tmp_path: Path
) -> None:
    names = ["NoPE", "RoPE", *(f"Method {number}" for number in range(12))]
    result = make_result({name: {0: 4.0 + 0.01 * number} for number, name in enumerate(names)}, (16, 32))
    write_report(result, tmp_path)
    assert len(list((tmp_path / "plots").glob("0-0-whole*.svg"))) == 3


def test_places_are_binned_without_gaps() -> None:
    bins = binned([float(place) for place in range(1000)])
    assert bins[0][0] == 0 and bins[-1][1] == 1000
    assert all(one[1] == two[0] for one, two in pairwise(bins))
    assert bins[-1][2] == pytest.approx((bins[-1][0] + 999) / 2)
    assert binned([3.0]) == [(0, 1, 3.0)]


def test_a_report_of_any_run_directories(
    small_study: Callable[..., Study], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = small_study(("alibi", "rotary"), seeds=2)
    run_tasks(plan_tasks(study, tmp_path / "runs"), jobs=1)

    def names(seq_len: int) -> dict[str, Method]:
        return {f"RoPE at {seq_len}": Method(position={"method": "rotary"})}

    result = runs_result([tmp_path / "runs"], None, names)
    assert sorted((o["name"], o["seed"]) for o in result["outcomes"]) == [
        ("RoPE at 16", 0), ("RoPE at 16", 1), ("alibi", 0), ("alibi", 1)
    ]  # fmt: skip
    write_report(result, tmp_path / "report")
    theirs = study_result(study, tmp_path / "runs")
    for name, other in (("alibi", "alibi"), ("RoPE at 16", "rotary")):
        ours = [o["evaluations"] for o in result["outcomes"] if o["name"] == name]
        assert ours == [o["evaluations"] for o in theirs["outcomes"] if o["name"] == other]
    assert read_result(tmp_path / "report" / "report.json")["outcomes"][0]["evaluations"][0]["bytes"] > 0
    assert [table.row_count for table in console_tables(result)] == [2, 2, 2]
    with pytest.raises(ValueError, match="baseline must be one of 'alibi', 'RoPE at 16', got 'T5'"):
        runs_result([tmp_path / "runs"], "T5", names)
    with pytest.raises(FileNotFoundError, match=re.escape(f"no run.json in {tmp_path}")):
        runs_result([tmp_path], None, names)
    shutil.copytree(tmp_path / "runs" / result["outcomes"][0]["folder"], tmp_path / "runs" / "copy")
    twice = [o["name"] for o in runs_result([tmp_path / "runs"], None, names)["outcomes"]]
    assert "alibi (copy)" in twice, "two runs of one method and seed are two rows"


def test_tables_of_several_seeds_fit_a_terminal_of_80_columns() -> None:
    result = read_result(Path(__file__).parents[2] / "results" / "demo.json")
    terminal = Console(width=80, file=io.StringIO(), color_system=None)
    for table in console_tables(result):
        terminal.print(table)
    shown = terminal.file.getvalue()  # type: ignore[attr-defined] # a StringIO
    assert re.search(r"Wavelet, fit grid, recency start +75.47 +72.76 +71.68 +72.54 +75.70 *\n", shown)
    assert re.search(r"\n +±2.39 +±2.36 +±2.37 +±2.29 +±2.19 *\n", shown)
