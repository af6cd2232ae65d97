"""Token files: the stream, its bounds, its words, its blocks, and a cache that no crash can spoil."""

import hashlib
import json
import multiprocessing
import pickle
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers.convert_slow_tokenizer import bytes_to_unicode

from wavepos.data import (
    Blocks,
    PreparedData,
    TokenFile,
    build_words,
    open_corpus,
    prepare,
    prepare_split,
)
from wavepos.data import (
    tokens as streams,
)
from wavepos.data.files import JsonLines

TEXTS = [f"document {index}: " + " ".join(f"word{n}" for n in range(index)) + "\n\n  é <eos>" for index in range(80)]


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return f"jsonl:{path}"


@pytest.fixture
def data(spec: str, tmp_path: Path) -> PreparedData:
    return prepare(spec, "bpe:400", cache_dir=tmp_path / "cache")


def direct(spec: str, prepared: PreparedData, split: str) -> list[int]:
    """The stream by one call of the tokenizer a document, special tokens in a text taken as text."""
    ids = [prepared.tokenizer.eos_token_id]
    for text in open_corpus(spec).documents(split):  # type: ignore[arg-type]
        ids += prepared.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids.append(prepared.tokenizer.eos_token_id)
    return ids


def test_the_stream_is_a_direct_tokenisation(spec: str, data: PreparedData) -> None:
    for split, tokens in (("train", data.train), ("valid", data.valid)):
        expected = direct(spec, data, split)
        texts = list(open_corpus(spec).documents(split))  # type: ignore[arg-type]
        assert tokens.ids.tolist() == expected
        assert (tokens.num_tokens, tokens.num_documents) == (len(expected), len(texts))
        assert expected.count(data.tokenizer.eos_token_id) == len(texts) + 1
        assert tokens.num_words == sum(len(text.split()) for text in texts)
        assert (tokens.vocab_size, tokens.dtype, tokens.corpus, tokens.split) == (400, "uint16", spec, split)
    assert data.train.num_documents + data.valid.num_documents == len(TEXTS)


@pytest.mark.parametrize("tokenizer", ["bpe:400", "words"])
def test_long_documents_in_pieces_give_the_same_stream(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str
) -> None:
    whole = prepare(spec, tokenizer, cache_dir=tmp_path / "whole")
    monkeypatch.setattr(streams, "PIECE_CHARACTERS", 5)
    monkeypatch.setattr(streams, "BATCH_CHARACTERS", 50)
    pieces = prepare(spec, tokenizer, cache_dir=tmp_path / "pieces")
    assert pieces.train.ids.tolist() == whole.train.ids.tolist()
    assert pieces.train.num_words == whole.train.num_words


@given(st.text(alphabet=st.sampled_from("ab1.' \n\té"), max_size=60), st.integers(1, 8))
def test_pieces_are_the_document(document: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "PIECE_CHARACTERS", size)
        pieces = list(streams._pieces(document))
    assert "".join(piece.text for piece in pieces) == document
    assert [piece.end == len(document) for piece in pieces] == [False] * (len(pieces) - 1) + [True]


@pytest.mark.parametrize("piece_characters", [20, 100_000])
def test_a_bound_cuts_the_last_document(
    spec: str, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_characters: int
) -> None:
    monkeypatch.setattr(streams, "PIECE_CHARACTERS", piece_characters)
    whole = direct(spec, data, "train")
    for bound in range(3, 200):
        tokens = prepare_split(spec, "train", data.tokenizer, cache_dir=tmp_path / "bounds", max_tokens=bound)
        ids = tokens.ids.tolist()
        assert bound - 1 <= len(ids) <= bound
        assert ids[:-1] == whole[: len(ids) - 1]
        assert ids[-1] == data.tokenizer.eos_token_id
        ends = [place for place, token in enumerate(ids) if token == data.tokenizer.eos_token_id]
        texts = [data.tokenizer.decode(ids[low + 1 : high]) for low, high in pairwise(ends)]
        assert tokens.num_documents == len(texts)
        assert tokens.num_words == sum(len(text.split()) for text in texts)


@pytest.mark.parametrize("piece_characters", [20, 100_000])
def test_words_and_bytes_of_a_stream_that_is_broken_off_are_exact(
    spec: str, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_characters: int
) -> None:
    """Those whose last token is there, counted on the bytes of the tokens."""
    monkeypatch.setattr(streams, "PIECE_CHARACTERS", piece_characters)
    whole, texts = direct(spec, data, "train"), list(open_corpus(spec).documents("train"))
    alphabet = {sign: byte for byte, sign in bytes_to_unicode().items()}
    for bound in range(3, 200):
        tokens = prepare_split(
            spec, "train", data.tokenizer, cache_dir=tmp_path / "bounds", max_tokens=bound, ended=False
        )
        ids = tokens.ids.tolist()
        assert ids == whole[:bound]
        *ended, last = bytes_of_documents(ids[1:], data, alphabet)
        prefix = last.decode(errors="ignore")
        assert texts[len(ended)].startswith(prefix)
        words = [match for match in re.finditer(r"\S+", texts[len(ended)]) if match.end() <= len(prefix)]
        assert tokens.num_words == sum(len(text.decode().split()) for text in ended) + len(words)
        assert tokens.num_bytes == sum(map(len, ended)) + len(prefix.encode())
    everything = prepare_split(spec, "train", data.tokenizer, cache_dir=tmp_path / "bounds", ended=False)
    assert everything.ids.tolist() == whole
    assert everything.num_bytes == sum(len(text.encode()) for text in texts)


def bytes_of_documents(ids: list[int], data: PreparedData, alphabet: dict[str, int]) -> list[bytes]:
    """The bytes that the tokens of each document stand for; none for the one that begins where the stream ends."""
    texts: list[bytes] = [b""]
    for index, token in zip(ids, data.tokenizer.convert_ids_to_tokens(ids), strict=True):
        if index == data.tokenizer.eos_token_id:
            texts.append(b"")
        else:
            texts[-1] += bytes(alphabet[sign] for sign in token)
    return texts


def test_a_bound_holds_for_both_splits(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavepos.data.preparation.MIN_VALID_TOKENS", 30)
    bounded = prepare(spec, "bpe:300", cache_dir=tmp_path / "cache", max_tokens=1000)
    assert 999 <= bounded.train.num_tokens <= 1000
    assert 49 <= bounded.valid.num_tokens <= 50
    assert 29 <= prepare(spec, "bpe:300", cache_dir=tmp_path / "c", max_tokens=100).valid.num_tokens <= 30
    with pytest.raises(ValueError, match="max_tokens must be at least 3, got 2"):
        prepare(spec, max_tokens=2, cache_dir=tmp_path / "cache")


def test_wikitext_as_a_stream_of_words(tmp_path: Path) -> None:
    (tmp_path / "wiki.train.tokens").write_text(" \n = A = \n b <unk> b \n")
    (tmp_path / "wiki.valid.tokens").write_text(" A new b \n \n")
    made = prepare(f"wikitext103:{tmp_path}", "words", cache_dir=tmp_path / "cache")
    tokens = made.tokenizer.convert_ids_to_tokens(made.train.ids.tolist())
    assert tokens == ["<eos>", "<eos>", "=", "A", "=", "<eos>", "b", "<unk>", "b", "<eos>"]
    assert made.tokenizer.convert_ids_to_tokens(made.valid.ids.tolist()) == [
        "<eos>",
        "A",
        "<unk>",
        "b",
        "<eos>",
        "<eos>",
    ]
    assert made.valid.num_words == made.valid.num_tokens - 1 == 5
    broken_off = prepare_split(
        f"wikitext103:{tmp_path}", "valid", made.tokenizer, cache_dir=tmp_path / "cache", max_tokens=4, ended=False
    )
    assert broken_off.ids.tolist() == made.valid.ids[:4].tolist()
    assert (broken_off.num_words, broken_off.num_bytes) == (3, len("A new b"))


@pytest.mark.parametrize("seq_len", [1, 7, 64])
def test_each_token_is_a_target_once(data: PreparedData, seq_len: int) -> None:
    blocks = Blocks(data.train, seq_len)
    assert len(blocks) == (data.train.num_tokens - 1) // seq_len
    inputs = torch.cat([blocks[index]["input_ids"] for index in range(len(blocks))])
    targets = torch.cat([blocks[index]["shift_labels"] for index in range(len(blocks))])
    ids = torch.from_numpy(data.train.ids.astype(np.int64))
    assert targets.dtype == inputs.dtype == torch.int64
    assert torch.equal(targets, ids[1 : 1 + len(blocks) * seq_len])
    assert torch.equal(inputs, ids[: len(blocks) * seq_len])
    with pytest.raises(IndexError):
        blocks[len(blocks)]


def test_blocks_travel_to_workers_as_a_path(data: PreparedData) -> None:
    blocks = Blocks(data.train, 8)
    assert len(pickle.dumps(blocks)) < 1000
    assert torch.equal(pickle.loads(pickle.dumps(blocks))[2]["input_ids"], blocks[2]["input_ids"])
    batch = next(iter(DataLoader(blocks, batch_size=3)))
    assert batch["input_ids"].shape == (3, 8)


def test_less_than_a_block(data: PreparedData) -> None:
    num_tokens = data.valid.num_tokens
    assert len(Blocks(data.valid, num_tokens - 1)) == 1
    with pytest.raises(ValueError, match=f"seq_len={num_tokens} needs .*{num_tokens + 1} tokens.* has {num_tokens}"):
        Blocks(data.valid, num_tokens)
    with pytest.raises(ValueError, match="seq_len must be at least 1, got 0"):
        Blocks(data.valid, 0)


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def documents(self: object, split: str) -> None:
        raise AssertionError(f"the {split} split was read again")

    monkeypatch.setattr(JsonLines, "_documents", documents)


def test_the_second_call_reads_nothing(
    spec: str, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.tokenizer.save_pretrained(str(tmp_path / "saved"))
    forbid_reading(monkeypatch)
    again = prepare(spec, "bpe:400", cache_dir=tmp_path / "cache")
    assert (again.train, again.valid, again.fingerprint) == (data.train, data.valid, data.fingerprint)
    saved = prepare(spec, f"file:{tmp_path / 'saved'}", cache_dir=tmp_path / "cache")
    assert saved.train == data.train
    with pytest.raises(AssertionError, match="was read again"):
        prepare(spec, "bpe:401", cache_dir=tmp_path / "cache")


def test_changed_text_is_another_entry(spec: str, data: PreparedData, tmp_path: Path) -> None:
    path = Path(spec.removeprefix("jsonl:"))
    path.write_text(path.read_text() + json.dumps({"text": "one more"}) + "\n")
    again = prepare(spec, "bpe:400", cache_dir=tmp_path / "cache")
    assert again.fingerprint != data.fingerprint
    assert again.train.num_documents + again.valid.num_documents == len(TEXTS) + 1


def test_two_runs_agree(spec: str, data: PreparedData, tmp_path: Path) -> None:
    other = prepare(spec, "bpe:400", cache_dir=tmp_path / "other")
    assert other.train.ids.tolist() == data.train.ids.tolist()
    assert other.fingerprint == data.fingerprint


def test_the_fingerprint_is_of_content(spec: str, data: PreparedData, tmp_path: Path) -> None:
    ids, path = data.train.path, Path(spec.removeprefix("jsonl:"))
    assert data.train.sha256 == hashlib.sha256(ids.read_bytes()).hexdigest()
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "b.jsonl").write_bytes(path.read_bytes())
    moved = prepare(f"jsonl:{tmp_path / 'moved' / 'b.jsonl'}", "bpe:400", cache_dir=tmp_path / "moved")
    assert moved.fingerprint == data.fingerprint
    other = prepare(spec, "bpe:350", cache_dir=tmp_path / "cache")
    assert all(other.fingerprint[part] != data.fingerprint[part] for part in ("train split", "tokenizer"))


def test_a_token_file_without_a_checksum_gets_one(
    spec: str, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = data.train.path.with_name("tokens.json")
    fields = json.loads(sidecar.read_text())
    del fields["sha256"], fields["checksum"]
    sidecar.write_text(json.dumps(fields))
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        assert prepare(spec, "bpe:400", cache_dir=tmp_path / "cache").train == data.train
    assert json.loads(sidecar.read_text())["sha256"] == data.train.sha256
    assert prepare(spec, "bpe:400", cache_dir=tmp_path / "cache").train == data.train


def test_the_environment_names_the_cache(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAVEPOS_CACHE", str(tmp_path / "from-environment"))
    assert (tmp_path / "from-environment") in prepare(spec, "bpe:300").train.path.parents


@pytest.mark.parametrize("moment", ["writing", "sidecar", "renaming"])
def test_a_crash_leaves_no_half_files(
    spec: str, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def crash(*arguments: object, **options: object) -> None:
        raise RuntimeError("crash")

    cache = tmp_path / "crashed"
    with monkeypatch.context() as patch:
        match moment:
            case "writing":
                patch.setattr(streams._Stream, "_finish", crash)
            case "sidecar":
                patch.setattr(streams, "write_sidecar", crash)
            case "renaming":
                patch.setattr(Path, "replace", crash)
        with pytest.raises(RuntimeError, match="crash"):
            prepare_split(spec, "train", data.tokenizer, cache_dir=cache)
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []
    assert prepare_split(spec, "train", data.tokenizer, cache_dir=cache).ids.tolist() == data.train.ids.tolist()


def _write_until_killed(spec: str, cache: Path) -> None:
    """Dies as by kill -9 in the middle of the train split: no clean-up runs."""
    import os

    streams._Stream._finish = lambda self, document: os._exit(9)  # type: ignore[method-assign]
    prepare(spec, "bpe:400", cache_dir=cache)


def test_what_a_killed_process_left_is_swept(spec: str, data: PreparedData, tmp_path: Path) -> None:
    cache = tmp_path / "killed"
    victim = multiprocessing.get_context("spawn").Process(target=_write_until_killed, args=(spec, cache))
    victim.start()
    victim.join()
    assert victim.exitcode == 9
    assert len(list(cache.glob(".train-*.tmp"))) == 1
    assert list(cache.glob("train-*")) == []
    again = prepare(spec, "bpe:400", cache_dir=cache)
    assert again.train.ids.tolist() == data.train.ids.tolist()
    assert list(cache.glob(".*.tmp")) == []


@pytest.mark.parametrize("damage", ["tokens.bin", "tokens.json"])
def test_a_damaged_entry_is_made_anew(spec: str, data: PreparedData, tmp_path: Path, damage: str) -> None:
    expected = data.train.ids.tolist()
    file = data.train.path.with_name(damage)
    file.write_bytes(file.read_bytes()[:-20])
    assert prepare(spec, "bpe:400", cache_dir=tmp_path / "cache").train.ids.tolist() == expected


def test_processes_at_once_do_no_harm(spec: str, data: PreparedData, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    cache = tmp_path / "shared"
    workers = [context.Process(target=prepare, args=(spec, "bpe:400"), kwargs={"cache_dir": cache}) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 3
    assert prepare(spec, "bpe:400", cache_dir=cache).train.ids.tolist() == data.train.ids.tolist()


def test_progress_is_told(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavepos.data.preparation.BATCH_CHARACTERS", 500)
    told: list[tuple[float, float | None, str]] = []

    def update(done: float, total: float | None, note: str = "") -> None:
        told.append((done, total, note.partition(":")[0]))

    made = prepare(spec, "bpe:400", cache_dir=tmp_path / "cache", update=update)
    assert {stage for _, _, stage in told} == {"tokenizer", "train", "valid"}
    assert [done for done, _, stage in told if stage == "train"][-1] == made.train.num_tokens


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" ".join(f"w{index}" for index in range(1 << 16)) + "\nw5 w65535\n")
    made = prepare(f"text:{tmp_path / 'a.txt'}", "words", cache_dir=tmp_path / "cache")
    assert made.train.dtype == "uint32"
    assert made.tokenizer.decode(made.valid.ids.tolist()) == "<eos> w5 w65535 <eos>"


def test_a_tokenizer_needs_an_end(spec: str, tmp_path: Path) -> None:
    tokenizer = build_words(TEXTS)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="must have an eos_token"):
        prepare_split(spec, "valid", tokenizer, cache_dir=tmp_path)


def test_the_sidecar_says_what_is_in_the_file(data: PreparedData) -> None:
    fields = json.loads(data.train.path.with_name("tokens.json").read_text())
    del fields["checksum"]
    assert TokenFile(path=data.train.path, **fields) == data.train
