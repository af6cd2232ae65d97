"""Data sets through the `datasets` package: local folders, and hub names without going there."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from wavepos.data import open_corpus

TEXTS = [f"document {index}" for index in range(60)]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    yield


def write(path: Path, texts: list[str | None], column: str = "text") -> None:
    if path.suffix == ".parquet":
        datasets.Dataset.from_dict({column: texts}).to_parquet(str(path))
    else:
        path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_local_folder_split_by_document(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"train.{suffix}", [*TEXTS, None, ""], "body")
    corpus = open_corpus(f"hf:{tmp_path}#body")
    train, valid = list(corpus.documents("train")), list(corpus.documents("valid"))
    assert sorted(train + valid) == sorted(TEXTS)
    assert 0 < len(valid) < 15


def test_a_local_folder_with_its_own_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", [*TEXTS])
    write(tmp_path / "set" / "validation.jsonl", ["held out"])
    monkeypatch.chdir(tmp_path)
    corpus = open_corpus("hf:./set")
    assert list(corpus.documents("train")) == TEXTS
    assert list(corpus.documents("valid")) == ["held out"]


def test_a_missing_column_lists_those_there(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [*TEXTS], "body")
    with pytest.raises(ValueError, match="row 1: no column 'text', it has body"):
        list(open_corpus(f"hf:{tmp_path}").documents("train"))


def test_a_fingerprint_follows_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [*TEXTS])
    before = open_corpus(f"hf:{tmp_path}").fingerprint()
    write(tmp_path / "train.jsonl", [*TEXTS, "one more"])
    assert open_corpus(f"hf:{tmp_path}").fingerprint() != before


@pytest.mark.parametrize(
    ("spec", "path", "config"),
    [
        ("hf:name", "name", None),
        ("hf:org/name", "org/name", None),
        ("hf:org/name/config#text", "org/name", "config"),
    ],
)
def test_names_of_the_hub(spec: str, path: str, config: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(path: str, config: str | None, *, streaming: bool) -> dict[str, Any]:
        asked.append((path, config, streaming))
        return {"train": [{"text": text} for text in TEXTS], "dev": [{"text": "held out"}]}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert list(open_corpus(spec).documents("valid")) == ["held out"]
    assert asked == [(path, config, True)]


@pytest.mark.parametrize("name", ["a/b/c/d", "a//b", "a/"])
def test_a_name_of_no_data_set(name: str) -> None:
    with pytest.raises(ValueError, match="must be hf:NAME, hf:ORG/NAME"):
        open_corpus(f"hf:{name}")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"needs the package datasets: pip install wavepos\[lab\]"):
        list(open_corpus("hf:name").documents("train"))
