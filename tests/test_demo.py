"""The main job on a small text: every file of the report, numbers that agree, and a second run that finds the first."""

import json
import re
import shutil
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wavepos.demo import METHODS, DemoConfig, demo, lengths, select_methods
from wavepos.report import console_tables, markdown_table, write_report


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    words = ["wave", "near", "far", "and", "of", "the", "<b>&amp;"]
    lines = [" ".join(rng.choice(words, size=9)) for _ in range(900)]
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"text:{path}"


def small(corpus: str, *names: str, minutes: float = 0.7, seeds: int = 1) -> DemoConfig:
    return DemoConfig(
        methods=select_methods(names),
        corpus=corpus,
        minutes=minutes,
        seeds=seeds,
        tokenizer="bpe:300",
        seq_len=16,
        batch_tokens=64,
    )


@pytest.fixture(scope="module", autouse=True)
def _a_fast_machine() -> Iterator[None]:
    """However slow the machine is, the updates that a model gets follow from the minutes alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wavepos.demo.SHARE_FOR_TRAINING", 1e4)
        yield


@pytest.fixture(scope="module")
def finished(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoConfig, Path, dict]:
    out = tmp_path_factory.mktemp("demo")
    config = small(corpus, "ALiBi", "wavelet, recency start", seeds=2)
    result = demo(config, out)
    write_report(result, out)
    return config, out, result


def test_all_files_are_written_and_agree(finished: tuple[DemoConfig, Path, dict]) -> None:
    config, out, result = finished
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(result))
    assert [(o["name"], o["seed"]) for o in result["outcomes"]] == [
        (name, seed) for seed in (0, 1) for name in ("ALiBi", "Wavelet, recency start")
    ]
    assert result["lengths"] == lengths(config) == [8, 16, 32, 64, 128]
    for outcome in result["outcomes"]:
        assert len(outcome["perplexities"]) == 15
        assert outcome["train_tokens"] == result["steps"] * 64
        assert {p["tokens"] for p in outcome["perplexities"]} == {result["scored_tokens"]}
        by_kind = {(p["kind"], p["seq_len"]): p["per_token"] for p in outcome["perplexities"]}
        assert by_kind["nonoverlapping", 128] == by_kind["nonoverlapping", 16] == by_kind["whole", 16]
        assert len(outcome["loss_by_position"]) == 128
        assert {"command", "commit", "packages"} <= set(outcome["environment"])
    assert result["outcomes"][0]["losses"] != result["outcomes"][2]["losses"]
    for name in ("perplexity", "perplexity_sliding", "loss_by_position", "learning_curves", "wavelets"):
        xml.etree.ElementTree.parse(out / "plots" / f"{name}.svg")
        assert (out / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_holds_the_means(finished: tuple[DemoConfig, Path, dict]) -> None:
    _, out, result = finished
    table = (out / "table.md").read_text(encoding="utf-8")
    assert table == markdown_table(result)
    values = [
        p["per_token"]
        for outcome in result["outcomes"]
        if outcome["name"] == "ALiBi"
        for p in outcome["perplexities"]
        if p["kind"] == "whole" and p["seq_len"] == 64
    ]
    rows = [line for line in table.splitlines() if line.startswith("| ALiBi")]
    assert len(rows) == 3
    assert f"{sum(values) / 2:.1f}±" in rows[1]
    assert [table.row_count for table in console_tables(result)] == [2, 2, 2]


def test_the_page_is_self_contained_and_fits_a_phone(finished: tuple[DemoConfig, Path, dict]) -> None:
    _, out, _ = finished
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<meta name="viewport" content="width=device-width' in page
    assert page.count("<svg") == 5
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", page.replace('xlink:href="#', ""))
    assert "<b>&amp;" not in page.split("</style>")[1].split("<figure>")[0]


def test_a_second_run_finds_the_first_and_adds_what_is_new(
    finished: tuple[DemoConfig, Path, dict], corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out, result = finished

    def refuse(*arguments: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("wavepos.demo.train", refuse)
    again = demo(config, out)
    assert again["outcomes"] == json.loads(json.dumps(result["outcomes"]))
    with pytest.raises(AssertionError, match="trained again"):
        demo(small(corpus, "ALiBi", "nope", seeds=2), out)


def test_models_of_another_text_are_not_found_again(
    finished: tuple[DemoConfig, Path, dict], corpus: str, tmp_path: Path
) -> None:
    config, out, _ = finished
    shutil.copytree(out, tmp_path / "demo")
    path = Path(corpus.removeprefix("text:"))
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("near", "nigh"), encoding="utf-8")
    try:
        with pytest.raises(ValueError, match=r"holds a run on other data: .* changed since: restore the text"):
            demo(config, tmp_path / "demo")
    finally:
        path.write_text(text, encoding="utf-8")


def test_methods_are_named_in_three_ways() -> None:
    chosen = select_methods(["rope", "shaw", '{"method": "wavelet", "direction": "future"}'])
    assert chosen["RoPE"] == METHODS["RoPE"]
    assert chosen["shaw"]["max_distance"] == 32
    assert chosen['{"method": "wavelet", "direction": "future"}']["direction"] == "future"


@pytest.mark.parametrize("name", ["ropes", '{"method": "wavelet", "side": 1}'])
def test_unknown_methods_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"methods takes 'NoPE', 'RoPE', .* got"):
        select_methods([name])


def test_too_few_minutes_are_named(corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavepos.demo.SHARE_FOR_TRAINING", 0.5)
    with pytest.raises(
        ValueError, match=r"minutes=0.001 leaves \d updates a model on this machine .* give more minutes"
    ):
        demo(small(corpus, "nope", minutes=0.001), tmp_path)
