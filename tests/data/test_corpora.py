"""Every kind of corpus on small files of its form, its split, and the message of every wrong input."""

import gzip
import json
import lzma
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard

from wavepos.data import Corpus, open_corpus
from wavepos.data.wikitext import plain

WIKITEXT = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "wikitext-103"
TEXTS = [f"document {index}\nwith two lines\n" for index in range(200)]


def jsonl(texts: Sequence[object], field: str = "text") -> bytes:
    return b"".join(json.dumps({field: text}).encode() + b"\n" for text in texts)


def both(corpus: Corpus) -> tuple[list[str], list[str]]:
    return list(corpus.documents("train")), list(corpus.documents("valid"))


def test_stdlib_is_the_library_without_tests() -> None:
    corpus = open_corpus("stdlib")
    train, valid = both(corpus)
    assert len(train) > 300
    assert 0 < len(valid) < 0.15 * len(train)
    assert sum(map(len, train)) > 5_000_000
    abc = Path(sys.modules["abc"].__file__ or "").read_text(encoding="utf-8")
    assert abc in [*train, *valid]
    assert both(open_corpus("stdlib")) == (train, valid)


def test_stdlib_leaves_out_tests_and_honours_a_declared_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "test/a.py",
        "pkg/tests/a.py",
        "pkg/test_b.py",
        "site-packages/c.py",
        "idlelib/idle_test/d.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("bad = 1\n")
    (tmp_path / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nname = 'é'\n".encode("latin-1"))
    (tmp_path / "empty.py").write_text("")
    for index in range(40):
        (tmp_path / f"plain{index}.py").write_text("x = 1\n")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    train, valid = both(open_corpus("stdlib"))
    assert sorted(train + valid) == ["# -*- coding: latin-1 -*-\nname = 'é'\n", *["x = 1\n"] * 40]
    (tmp_path / "broken.py").write_bytes(b"x = '\xff'\n")
    with pytest.warns(UserWarning, match=r"broken\.py is left out"):
        both(open_corpus("stdlib"))


def test_wikitext_counts_line_ends(tmp_path: Path) -> None:
    (tmp_path / "wiki.valid.tokens").write_text(" \n = A = \n \n a <unk>  b \n", encoding="utf-8")
    corpus = open_corpus(f"wikitext103:{tmp_path}")
    documents = list(corpus.documents("valid"))
    assert documents == ["", "= A =", "", "a <unk> b"]
    assert sum(map(corpus.count_words, documents)) == 1 + 4 + 1 + 4


def test_wikitext_validation_has_the_count_of_the_field() -> None:
    if not (WIKITEXT / "wiki.valid.tokens").is_file():
        pytest.skip("WikiText-103's validation split is not here")
    corpus = open_corpus(f"wikitext103:{WIKITEXT}")
    assert sum(map(corpus.count_words, corpus.documents("valid"))) == 217_646


def test_wikitext_as_plain_text_has_one_document_per_article(tmp_path: Path) -> None:
    lines = [" ", " = A lobster = ", " ", " The <unk> , 4 @,@ 386 t ( 79 % ) . ", " = = Its life = = ", " An end "]
    lines += [" = B = ", """ " C " 's"""]
    (tmp_path / "wiki.valid.tokens").write_text("\n".join(lines), encoding="utf-8")
    corpus = open_corpus(f"wikitext103-plain:{tmp_path}")
    assert list(corpus.documents("valid")) == [
        "A lobster\n\nThe <unk>, 4,386 t (79%).\nIts life.\nAn end",
        'B\n\n"C"\'s',
    ]
    assert corpus.count_words("a b\nc") == 3
    assert corpus.fingerprint() != open_corpus(f"wikitext103:{tmp_path}").fingerprint()


@pytest.mark.parametrize(
    ("tokenised", "written"),
    [
        ("it 's Linnaeus ' and they 're", "it's Linnaeus' and they're"),
        ('he said , " yes " , and " no . "', 'he said, "yes", and "no."'),
        ("a north @-@ west 0 @.@ 7 – 2 @.@ 2 kg ; 5 / 6", "a north-west 0.7–2.2 kg; 5/6"),
        ("( Old [ £ 3 ] ) : $ 5 !", "(Old [£3]): $5!"),
        ("", ""),
    ],
)
def test_tokenised_marks_go_back_to_their_words(tokenised: str, written: str) -> None:
    assert plain(tokenised) == written


def test_plain_wikitext_validation_has_its_sixty_articles_and_no_marks_of_the_tokeniser() -> None:
    if not (WIKITEXT / "wiki.valid.tokens").is_file():
        pytest.skip("WikiText-103's validation split is not here")
    documents = list(open_corpus(f"wikitext103-plain:{WIKITEXT}").documents("valid"))
    assert len(documents) == 60
    assert not [x for x in documents if re.search(r" @[-,.]@ | [.,;)] |^=|=$|\( ", x)]


def test_wikitext_wants_its_training_file_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "wiki.valid.tokens").write_text("a\n")
    corpus = open_corpus(f"wikitext103:{tmp_path}")
    assert list(corpus.documents("valid")) == ["a"]
    with pytest.raises(FileNotFoundError, match=r"train split: .*wiki\.train\.tokens"):
        list(corpus.documents("train"))


def test_wikitext_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, config: str, split: str) -> list[dict[str, str]]:
        asked.append((path, config, split))
        return [{"text": ""}, {"text": " = A = \n"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert list(open_corpus("wikitext103").documents("valid")) == ["", "= A ="]
    assert asked == [("Salesforce/wikitext", "wikitext-103-v1", "validation")]


def test_a_text_file_is_cut_at_a_line_end(tmp_path: Path) -> None:
    text = "".join(f"line {index}\r\n" for index in range(100)) + "the last, é"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (train,), (valid,) = both(open_corpus(f"text:{tmp_path / 'a.txt'}"))
    assert train + valid == text
    assert train.endswith("line 95\r\n")
    assert valid.startswith("line 96\r\n")
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    assert both(open_corpus(f"text:{tmp_path / 'two.txt'}")) == (["one\n"], ["two\n"])


@pytest.mark.parametrize("num_files", [2, 3, 30])
def test_a_folder_of_texts_is_split_by_file(tmp_path: Path, num_files: int) -> None:
    for index in range(num_files):
        (tmp_path / f"{index}.txt").write_text(TEXTS[index])
    (tmp_path / "other.md").write_text("not taken")
    train, valid = both(open_corpus(f"text:{tmp_path}"))
    assert train
    assert valid
    assert sorted(train + valid) == sorted(TEXTS[:num_files])


def compressed_by_zstd(data: bytes) -> bytes:
    """In two frames, as parallel compressors write them."""
    half = len(data) // 2
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in (data[:half], data[half:]))


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lambda data: b"\0\0\0\0".join(lzma.compress(part) for part in (data[:99], data[99:])),
    ".zst": compressed_by_zstd,
}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_json_lines_of_every_compression(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](jsonl([*TEXTS, ""]) + b"\n"))
    train, valid = both(open_corpus(f"jsonl:{path}"))
    assert sorted(train + valid) == sorted(TEXTS)
    assert 0 < len(valid) < 40
    assert [text for text in TEXTS if text in valid] == valid


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("kept", [0.5, 0.98])
def test_a_cut_off_file_is_no_shorter_corpus(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    data = COMPRESSIONS[suffix](jsonl([f"{text}{hash(text)}" for text in TEXTS]))
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match=r"a\.jsonl.*(damaged or cut off|not JSON)"):
        both(open_corpus(f"jsonl:{path}"))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_what_stands_behind_compressed_data_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](jsonl(TEXTS)) + b"garbage")
    with pytest.raises(ValueError, match=r"a\.jsonl.*damaged or cut off"):
        both(open_corpus(f"jsonl:{path}"))


def test_a_byte_order_mark_is_no_part_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + jsonl(TEXTS))
    train, valid = both(open_corpus(f"jsonl:{path}"))
    assert sorted(train + valid) == sorted(TEXTS)


@pytest.mark.parametrize("num_documents", [2, 3, 5, 40])
def test_a_split_by_document_leaves_no_side_empty(tmp_path: Path, num_documents: int) -> None:
    path = tmp_path / "a.jsonl"
    for start in range(0, 160, num_documents):
        path.write_bytes(jsonl(TEXTS[start : start + num_documents], "body"))
        train, valid = both(open_corpus(f"jsonl:{path}#body"))
        assert len(train) + len(valid) == len(TEXTS[start : start + num_documents])
        assert train
        assert valid


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"line 2: not JSON \(Expecting property name"),
        (b"[" * 100_000, "line 2: JSON nested too deep"),
        (b"[1]", "line 2: must be a JSON object, got list"),
        (b'{"title": "a", "n": 1}', "line 2: no field 'text', it has title, n"),
        (b'{"text": 3}', "line 2: field 'text' must be a string, got int"),
        (b'{"text": "\xff"}', "line 2: the text must be UTF-8, got byte 0xff at offset 10"),
        (rb'{"text": "\ud800"}', "line 2: field 'text' holds half of a surrogate pair"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(["a"]) + line + b"\n" + jsonl(["b"]))
    with pytest.raises(ValueError, match=rf"{path}, {message}"):
        both(open_corpus(f"jsonl:{path}"))


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc\nde\xe9f\n")
    with pytest.raises(ValueError, match=r"a\.txt: the text must be UTF-8, got byte 0xe9 at offset 6"):
        both(open_corpus(f"text:{tmp_path / 'a.txt'}"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"corpus 'text:.*' is empty: .*a\.txt holds no text"),
        ("a.txt", b" \n\n", r"corpus 'text:.*' is empty: .*a\.txt holds no text"),
        ("a.txt", b"one line", r"holds a single line: at least two"),
        ("a.txt", b"a\n\n\n", r"is empty: its valid split holds no text"),
        ("a.jsonl", b"", r"corpus 'jsonl:.*' is empty: it holds no text"),
        ("a.jsonl", b'{"text": " "}\n', r"corpus 'jsonl:.*' is empty: it holds no text"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "a"}\n', r"holds a single document \(or copies of it\)"),
    ],
)
def test_too_little_text(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    kind = name.removeprefix("a.").replace("txt", "text")
    with pytest.raises(ValueError, match=message):
        both(open_corpus(f"{kind}:{tmp_path / name}"))


@pytest.mark.parametrize(
    "spec",
    ["", "std", "stdlib:3", "text:", "text", "jsonl:", "hf:", "wikitext103:", "wikitext103-plain:", "csv:a.csv"],
)
def test_an_unknown_corpus_lists_the_kinds(spec: str) -> None:
    kinds = r"stdlib, wikitext103\[:DIR\], wikitext103-plain\[:DIR\], text:PATH, jsonl:PATH.*hf:.*"
    with pytest.raises(ValueError, match=rf"{kinds}; got '{spec}'"):
        open_corpus(spec)


@pytest.mark.parametrize("spec", ["text:{}", "jsonl:{}", "wikitext103:{}", "wikitext103-plain:{}", "hf:{}"])
def test_a_missing_path_is_named(tmp_path: Path, spec: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such .*nowhere"):
        open_corpus(spec.format(tmp_path / "nowhere"))


def test_a_folder_without_texts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is empty: no \*\.txt files"):
        open_corpus(f"text:{tmp_path}")


def test_an_unknown_split(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"split of .* must be one of \('train', 'valid'\), got 'test'"):
        open_corpus(f"text:{tmp_path / 'a.txt'}").documents("test")


def test_a_fingerprint_follows_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\nb\n")
    spec = f"text:{tmp_path / 'a.txt'}"
    before = open_corpus(spec).fingerprint()
    assert open_corpus(spec).fingerprint() == before
    (tmp_path / "a.txt").write_text("a\nb\nc\n")
    assert open_corpus(spec).fingerprint() != before


def test_zstd_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "a.jsonl.zst").write_bytes(b"")
    with pytest.raises(ImportError, match=r"pip install wavepos\[lab\]"):
        both(open_corpus(f"jsonl:{tmp_path / 'a.jsonl.zst'}"))
