"""The command line as a user meets it."""

import inspect
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from wavepos import cli
from wavepos.cli import main
from wavepos.data.corpora import KINDS


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left: its exit status and all that it printed."""

    status: int
    output: str


@pytest.fixture
def wavepos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["wavepos", *arguments])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Done(status, captured.out + captured.err)

    return call


def test_help_names_the_commands(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wavepos.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=True)
    for name in ("demo", "study", "report", "train", "eval", "harness", "generate"):
        assert name in done.stdout


def test_a_dry_run_of_the_papers_model_needs_no_data(wavepos: Callable[..., Done], tmp_path: Path) -> None:
    done = wavepos(
        "train",
        "--size",
        "paper",
        "--corpus",
        "wikitext103",
        "--method",
        "wavelet",
        "--dry-run",
    )
    assert done.status == 0, done.output
    assert "Parameters: 246,932,928" in done.output
    assert '"learning_rate": 1.0' in done.output
    assert re.search(r"total\s+│\s+\d+\.\d\d", done.output)
    assert not list(tmp_path.iterdir())


def test_the_list_of_studies_says_what_each_needs(
    wavepos: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = wavepos("study", "list")
    assert done.status == 0, done.output
    for name in (
        "demo",
        "table1",
        "ladder",
        "controls",
        "table3",
        "table4",
        "rope-wavelet",
        "figures",
        "table2",
        "table5",
    ):
        assert re.search(rf"│ {name} +│", done.output)
    assert "English Wikipedia" in done.output


def test_a_study_without_its_corpus_says_which_file_is_missing(wavepos: Callable[..., Done]) -> None:
    done = wavepos("study", "table1", "--corpus", "jsonl:nowhere.jsonl")
    assert done.status == 2
    assert "corpus 'jsonl:nowhere.jsonl': no such file: nowhere.jsonl" in done.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("study", "tabel1"), "did you mean 'table1'?"),
        (("study", "nowhere.py"), "no such file"),
        (("study", "demo", "--only", "RoPEs", "--dry-run"), "did you mean 'RoPE'?"),
        (("report", "nowhere"), "no run.json in nowhere"),
    ],
)
def test_mistaken_studies_and_reports_are_named(
    wavepos: Callable[..., Done], arguments: tuple[str, ...], message: str
) -> None:
    done = wavepos(*arguments)
    assert done.status == 2
    assert message in done.output


def test_a_dry_run_of_seven_billion_plans_for_many_gpus(wavepos: Callable[..., Done], tmp_path: Path) -> None:
    command = ["train", "--method", "wavelet", "--model", "llama", "--size", "7b", "--dry-run", "--devices", "8"]
    whole, shared = wavepos(*command), wavepos(*command, "--sharding", "fsdp", "--gradient-checkpointing")
    for done in (whole, shared):
        assert done.status == 0, done.output
        assert "Parameters: 6,738,415,616" in done.output
        assert "8 device(s) × 1 pass(es) × 1 blocks × 4096 tokens" in done.output
    assert re.search(r"weights\s+│\s+25\.10", whole.output)
    assert re.search(r"weights\s+│\s+3\.14", shared.output)
    assert not list(tmp_path.iterdir())


def test_help_and_readme_name_every_corpus() -> None:
    """The help is read without importing the data modules, so it is a copy: it must be the list itself."""
    root = Path(__file__).parents[1]
    assert inspect.getsource(cli).count(f'"""{" | ".join(KINDS)}"""') == 2
    assert all(f"`{form}`" in (root / "README.md").read_text(encoding="utf-8") for form in KINDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--method", "ropes"), "method of a position must be one of nope, rotary"),
        (("train", "--method", '{"method": "wavelet", "scle": 2}'), "unknown key 'scle'"),
        (("train", "--method", "{method}"), "position must be a method's name or a JSON object"),
        (("train", "--method", "nope", "--corpus", "books"), "corpus must be one of stdlib"),
        (("train", "--method", "nope", "--corpus", "text:no/such/file"), "no such file or folder: no/such/file"),
        (("train", "--method", "nope", "--tokenizer", "bpe:5"), "vocab_size of a BPE must be at least 257, got 5"),
        (
            ("train", "--method", "nope", "--model", "llama", "--size", "paper"),
            "one of tiny, small, 1b, 7b for model llama",
        ),
        (("train", "--method", "nope", "--devices", "8"), "devices takes at least 1, with --dry-run, got 8"),
        (("train", "--method", "nope", "--sharding", "fsdp"), "sharding='fsdp' is served for model llama"),
        (("eval", "nowhere"), "no run.json in nowhere"),
        (("generate", "nowhere", "--temperature", "-1"), "temperature must be at least 0, got -1.0"),
        (("demo", "--seeds", "0"), "seeds must be at least 1, got 0"),
    ],
    ids=str,
)
def test_wrong_input_is_one_clear_line(arguments: tuple[str, ...], message: str, wavepos: Callable[..., Done]) -> None:
    done = wavepos(*arguments)
    assert done.status == 2
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output


@pytest.mark.parametrize("model", ["baevski-auli", "llama"])
def test_train_eval_and_generate_on_a_text_of_ones_own(
    model: str, wavepos: Callable[..., Done], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(["wave", "near", "far"], size=8)) for _ in range(300)]
    (tmp_path / "own.txt").write_text("\n".join(lines), encoding="utf-8")
    options = ["--tokenizer", "bpe:280", "--seq-len", "16", "--steps", "8", "--batch-tokens", "64"]
    options += ["--out", "run", "--corpus", "text:own.txt", "--model", model]
    method = '{"method": "wavelet", "query_bias": "recency"}'
    done = wavepos("train", "--method", method, *options)
    assert done.status == 0, done.output
    again = wavepos("train", "--method", method, *options)
    assert again.output.splitlines()[-1] == done.output.splitlines()[-1]
    read = wavepos("eval", "run", "--lengths", "16", "40")
    assert read.status == 0, read.output
    written = json.loads((tmp_path / "run" / "perplexity-text-own-txt.json").read_text())
    assert [(p["kind"], p["seq_len"]) for p in written["perplexities"]] == [
        (kind, length) for length in (16, 40) for kind in ("nonoverlapping", "whole", "sliding")
    ]
    assert written["available_tokens"] == written["perplexities"][0]["tokens"]
    assert "Scored" not in read.output
    lines = (tmp_path / "own.txt").read_text(encoding="utf-8").splitlines()[-15:]
    entry = written["perplexities"][0]
    assert (entry["words"], entry["bytes"]) == (15 * 8, len("\n".join(lines)))
    assert entry["bits_per_byte"] == pytest.approx(entry["nats"] / math.log(2.0) / entry["bytes"])
    cut = wavepos("eval", "run", "--lengths", "16", "--max-tokens", "50")
    assert f"Scored: the first 50 of {entry['tokens']} tokens, for --max-tokens cuts." in cut.output
    none = wavepos("eval", "run", "--documents", "3", "--lengths", "32", "64")
    assert none.status == 2
    assert "with 64 tokens or more, which are 1, got 3" in " ".join(none.output.split())
    long = wavepos("eval", "run", "--documents", "1", "--lengths", "32", "64")
    assert long.status == 0, long.output
    assert "in blocks of 16" in long.output
    found = json.loads((tmp_path / "run" / "long-documents-text-own-txt.json").read_text())["results"]
    assert [(e["kind"], e["length"]) for e in found] == [
        (kind, length) for length in (32, 64) for kind in ("nonoverlapping", "whole")
    ]
    text = wavepos("generate", "run", "--prompt", "wave near", "--max-new-tokens", "5")
    assert text.status == 0, text.output
    assert text.output.startswith("wave near")
    assert text.output == wavepos("generate", "run", "--prompt", "wave near", "--max-new-tokens", "5").output
