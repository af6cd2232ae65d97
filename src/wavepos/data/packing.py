"""Corpora as memory-mapped token streams, cached under a hash of corpus and tokenizer, and as blocks for training."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoTokenizer

from wavepos.data.corpora import Corpus, Split, WikiText103, open_corpus
from wavepos.data.tokenization import make_tokenizer
from wavepos.provenance import write_json

FORMAT = 1
DOCUMENTS_AT_ONCE = 64
VALID_PART_OF_MAX_TOKENS = 20

ProgressOf = Callable[[str, int, int | None], None]
"""Stage, tokens done, tokens in all if known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """A token stream on disk. It begins with <eos>; each document ends with one (in WikiText-103 each line).

    Attributes:
        path: the file of ids.
        num_tokens: tokens in the stream, the first <eos> among them.
        num_words: words that the targets (all tokens but the first) make up.
        num_documents: documents.
        dtype: of the ids, "uint16" or "uint32".
        vocab_size: V.
        corpus: its spec.
    """

    path: Path
    num_tokens: int
    num_words: int
    num_documents: int
    dtype: str
    vocab_size: int
    corpus: str

    @property
    def ids(self) -> npt.NDArray[np.integer]:
        """The stream, memory-mapped."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.num_tokens,))


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedData:
    """A corpus ready to train on.

    Attributes:
        tokenizer: a transformers tokenizer.
        train, valid: token streams of the two splits.
    """

    tokenizer: Any
    train: TokenFile
    valid: TokenFile


@final
class Blocks(Dataset[dict[str, Tensor]]):
    """Blocks of seq_len tokens; the first input of a block is the last target of the block before.

    Args:
        tokens: the stream.
        seq_len: tokens a block.

    Raises:
        ValueError: the stream is shorter than one block.
    """

    def __init__(self, tokens: TokenFile, seq_len: int) -> None:
        if tokens.num_tokens - 1 < seq_len:
            raise ValueError(
                f"corpus {tokens.corpus} has {tokens.num_tokens - 1} tokens, less than one block of seq_len={seq_len}"
            )
        self._tokens = tokens
        self._seq_len = seq_len

    def __len__(self) -> int:
        return (self._tokens.num_tokens - 1) // self._seq_len

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        start = index * self._seq_len
        stream = torch.from_numpy(self._tokens.ids[start : start + self._seq_len + 1].astype(np.int64))
        return {"input_ids": stream[:-1], "shift_labels": stream[1:]}


def prepare(
    corpus: str,
    tokenizer: str = "bpe:4096",
    *,
    cache_dir: Path | None = None,
    max_tokens: int | None = None,
    progress: ProgressOf | None = None,
) -> PreparedData:
    """Tokenizer and token streams of a corpus, made once and then found in the cache.

    Args:
        corpus: as `open_corpus` takes it.
        tokenizer: "bpe:SIZE", "words" or "file:DIR".
        cache_dir: where they are kept; None: $WAVEPOS_CACHE, or ~/.cache/wavepos.
        max_tokens: bound on the training tokens, and a twentieth of it on the validation tokens; None: all.
        progress: told of the stage and of the tokens done.

    Raises:
        ValueError: an empty corpus, text that is not UTF-8, an unknown corpus or tokenizer.
        FileNotFoundError: no such file.
    """
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    opened = open_corpus(corpus)
    folder = _folder(cache_dir, opened.fingerprint(), tokenizer, max_tokens)
    report = progress or (lambda stage, done, total: None)
    if not (folder / "tokenizer").exists():
        report("training the tokenizer", 0, None)
        with _replacing(folder / "tokenizer") as temporary:
            texts = _bounded(opened, max_tokens)
            make_tokenizer(tokenizer, texts).save_pretrained(temporary)
    loaded = AutoTokenizer.from_pretrained(folder / "tokenizer")
    bounds: dict[Split, int | None] = {
        "train": max_tokens,
        "valid": None if max_tokens is None else max(1, max_tokens // VALID_PART_OF_MAX_TOKENS),
    }
    train, valid = (_stream(opened, split, loaded, folder / split, bounds[split], report) for split in bounds)
    return PreparedData(tokenizer=loaded, train=train, valid=valid)


def prepare_split(
    corpus: str, split: Split, tokenizer: Any, *, cache_dir: Path | None = None, progress: ProgressOf | None = None
) -> TokenFile:
    """One split of a corpus as a token stream of a given transformers tokenizer, cached by its vocabulary."""
    opened = open_corpus(corpus)
    vocabulary = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    folder = _folder(cache_dir, opened.fingerprint(), vocabulary, None)
    return _stream(opened, split, tokenizer, folder / split, None, progress or (lambda stage, done, total: None))


def _stream(
    corpus: Corpus, split: Split, tokenizer: Any, folder: Path, max_tokens: int | None, report: ProgressOf
) -> TokenFile:
    """The token stream in that folder, written if it is not there."""
    if not folder.exists():
        vocab_size = len(tokenizer)
        dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
        with _replacing(folder) as temporary:
            num_tokens, num_words, num_documents = 1, 0, 0
            with (temporary / "ids.bin").open("wb") as file:
                np.array([tokenizer.eos_token_id], dtype=dtype).tofile(file)
                for ids, words in _encoded(corpus, split, tokenizer):
                    kept = ids if max_tokens is None else ids[: max_tokens + 1 - num_tokens]
                    np.array(kept, dtype=dtype).tofile(file)
                    num_tokens += len(kept)
                    num_words += round(words * len(kept) / len(ids))
                    num_documents += 1
                    report(f"tokenizing, {split}", num_tokens, max_tokens)
                    if max_tokens is not None and num_tokens > max_tokens:
                        break
            if num_tokens == 1:
                raise ValueError(f"corpus {corpus.spec} is empty: no text in its {split} split")
            described = {
                "num_tokens": num_tokens,
                "num_words": num_words,
                "num_documents": num_documents,
                "dtype": dtype.name,
                "vocab_size": vocab_size,
                "corpus": corpus.spec,
            }
            write_json(temporary / "stream.json", described)
    found = json.loads((folder / "stream.json").read_text(encoding="utf-8"))
    return TokenFile(path=folder / "ids.bin", **found)


def _encoded(corpus: Corpus, split: Split, tokenizer: Any) -> Iterator[tuple[list[int], int]]:
    """Ids of each document, <eos> at its end, and its words."""
    documents = iter(corpus.documents(split))
    ends = [] if isinstance(corpus, WikiText103) else [tokenizer.eos_token_id]
    while batch := list(islice(documents, DOCUMENTS_AT_ONCE)):
        batch = [text for text in batch if text]
        encoded = tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"] if batch else []
        for ids, text in zip(encoded, batch, strict=True):
            yield ids + ends, corpus.count_words(text)


def _bounded(corpus: Corpus, max_tokens: int | None) -> Iterator[str]:
    """Training documents for the tokenizer: all, or about as much text as max_tokens make."""
    characters = 0
    for text in corpus.documents("train"):
        yield text
        characters += len(text)
        if max_tokens is not None and characters > 8 * max_tokens:
            return


def _folder(cache_dir: Path | None, fingerprint: str, tokenizer: str, max_tokens: int | None) -> Path:
    root = cache_dir or Path(os.environ.get("WAVEPOS_CACHE") or Path.home() / ".cache" / "wavepos")
    key = json.dumps([FORMAT, fingerprint, tokenizer, max_tokens])
    return root / "tokens" / hashlib.sha256(key.encode()).hexdigest()[:24]


class _replacing:
    """A temporary folder that takes the target's place when the block ends well, and goes away when it does not."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __enter__(self) -> Path:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = Path(tempfile.mkdtemp(prefix=f".{self._target.name}-", dir=self._target.parent))
        return self._temporary

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            for path in self._temporary.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            try:
                self._temporary.rename(self._target)
            except OSError:  # another process was there first; its content is the same
                if not self._target.exists():
                    raise
        shutil.rmtree(self._temporary, ignore_errors=True)
