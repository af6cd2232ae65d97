"""Damaged caches of tokens and tokenizers are named, never used, and made anew where the corpus is at hand."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wavepos.data import PreparedData, load_tokenizer, prepare
from wavepos.data.files import TextFiles
from wavepos.data.tokens import open_token_file
from wavepos.storage import write_record


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "corpus.txt").write_text("".join(f"line {n}: the wave is near\n" for n in range(200)))
    return f"text:{tmp_path / 'corpus.txt'}"


@pytest.fixture
def data(spec: str, tmp_path: Path) -> PreparedData:
    return prepare(spec, "bpe:280", cache_dir=tmp_path / "cache")


def flip_low_bit(folder: Path) -> None:
    ids = bytearray((folder / "tokens.bin").read_bytes())
    ids[len(ids) // 2 & ~1] ^= 1
    (folder / "tokens.bin").write_bytes(ids)


def zero_half(folder: Path) -> None:
    ids = (folder / "tokens.bin").read_bytes()
    (folder / "tokens.bin").write_bytes(bytes(len(ids) // 2) + ids[len(ids) // 2 :])


def change(**fields: object) -> Callable[[Path], None]:
    """A sidecar that says something else, with a checksum that fits."""

    def damage(folder: Path) -> None:
        record = json.loads((folder / "tokens.json").read_text())
        del record["checksum"]
        write_record(folder / "tokens.json", record | fields)

    return damage


def beyond_the_vocabulary(folder: Path) -> None:
    ids = np.fromfile(folder / "tokens.bin", dtype="<u2")
    ids[7] = 9999
    ids.tofile(folder / "tokens.bin")
    change(sha256=None)(folder)


def edit(old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "tokens.json"
        path.write_text(path.read_text().replace(old, new, 1))

    return damage


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip_low_bit, "tokens.bin is not what was written, its checksum differs"),
        (zero_half, "tokens.bin is not what was written, its checksum differs"),
        (beyond_the_vocabulary, "tokens.bin holds no tokens of a vocabulary of 280"),
        (change(dtype="float16"), "tokens.json must have a dtype of ('uint16', 'uint32'), got 'float16'"),
        (change(words=3), "tokens.json is not of this version"),
        (edit('"num_words": 1', '"num_words": 2'), "tokens.json is not what was written, its checksum differs"),
        (lambda folder: (folder / "tokens.json").write_text("[]"), "tokens.json must hold a JSON object, got list"),
        (lambda folder: (folder / "tokens.json").write_text(""), "tokens.json is empty"),
        (lambda folder: (folder / "tokens.bin").unlink(), "No such file or directory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_tokens_are_named_and_made_anew(
    spec: str,
    data: PreparedData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    told: str,
) -> None:
    expected = data.train.ids.tolist()
    damage(data.train.path.parent)
    again = prepare(spec, "bpe:280", cache_dir=tmp_path / "cache")
    assert (again.train, again.train.ids.tolist()) == (data.train, expected)
    printed = capsys.readouterr().out
    assert told in printed
    assert printed.count("\n") == 1
    assert printed.startswith("Damaged, and made anew from the corpus: ")
    prepare(spec, "bpe:280", cache_dir=tmp_path / "cache")
    assert not capsys.readouterr().out


def test_damaged_tokens_that_cannot_be_made_anew_say_what_to_do(
    spec: str, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip_low_bit(data.train.path.parent)
    with pytest.raises(ValueError, match=r"tokens.bin is not what was written.*: delete its folder"):
        open_token_file(data.train.path.parent)

    def gone(self: TextFiles, file: Path) -> str:
        raise FileNotFoundError(f"no such file: {file}")

    monkeypatch.setattr(TextFiles, "_text", gone)
    with pytest.raises(
        ValueError,
        match=r"its checksum differs; it could not be made anew from the corpus: no such file: .*corpus.txt",
    ):
        prepare(spec, "bpe:280", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("marked", [True, False], ids=["listed", "of an older version"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_cached_tokenizer_is_named_and_made_anew(
    spec: str, data: PreparedData, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, marked: bool
) -> None:
    folder = next((tmp_path / "cache").glob("tokenizer-*"))
    (folder / name).write_text("")
    if not marked:
        (folder / "complete.json").unlink()
    assert prepare(spec, "bpe:280", cache_dir=tmp_path / "cache").fingerprint == data.fingerprint
    assert name in capsys.readouterr().out


def test_a_cached_tokenizer_of_an_older_version_is_taken_and_gets_its_checksums(
    spec: str, data: PreparedData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = next((tmp_path / "cache").glob("tokenizer-*"))
    (folder / "complete.json").unlink()
    assert prepare(spec, "bpe:280", cache_dir=tmp_path / "cache").fingerprint == data.fingerprint
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"wave"', '"wawe"').replace("Ġwave", "Ġwawe"))
    assert prepare(spec, "bpe:280", cache_dir=tmp_path / "cache").fingerprint == data.fingerprint
    assert "tokenizer.json is not what was written" in capsys.readouterr().out


def test_a_damaged_tokenizer_of_ones_own_names_its_file(data: PreparedData, tmp_path: Path) -> None:
    data.tokenizer.save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ValueError, match=r"own/tokenizer.json cannot be read as JSON .*: restore it from a copy"):
        load_tokenizer(tmp_path / "own")
