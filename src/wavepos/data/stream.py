"""Writing the token stream of one split."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from wavepos.data.corpus import Corpus, Split
from wavepos.data.token_file import IDS, IdType, TokenFile, write_sidecar
from wavepos.data.tokenization import eos_id, text_encoder

BATCH_CHARACTERS = 1_000_000
PIECE_CHARACTERS = 100_000
WORD_END = re.compile(r"(?<=[^\W_]) ")

Progress = Callable[[str, int, int | None], None]


def write_split(
    folder: Path,
    corpus: Corpus,
    split: Split,
    tokenizer: PreTrainedTokenizerFast,
    max_tokens: int | None,
    progress: Progress | None,
) -> None:
    """Write the token file of a split, its ids and what is known of them, into an empty folder."""
    encoder, end = text_encoder(tokenizer), eos_id(tokenizer)
    dtype: IdType = "uint16" if len(tokenizer) <= 1 << 16 else "uint32"
    with (folder / IDS).open("wb") as file:
        stream = _Stream(file, corpus, end, dtype)
        for _ in stream.extend(encoder, corpus.documents(split), max_tokens):
            if progress is not None:
                progress(split, stream.num_tokens, max_tokens)
    write_sidecar(
        TokenFile(
            path=folder / IDS,
            num_tokens=stream.num_tokens,
            num_words=stream.num_words,
            num_documents=stream.num_documents,
            dtype=dtype,
            corpus=corpus.spec,
            split=split,
            vocab_size=len(tokenizer),
            sha256=stream.sha256,
        )
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """document[start:end], tokenised by itself."""

    document: str
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.document[self.start : self.end]


class _Stream:
    """A token stream on its way to disk."""

    def __init__(self, file: BinaryIO, corpus: Corpus, end: int, dtype: IdType) -> None:
        self.num_tokens = self.num_words = self.num_documents = 0
        self._file, self._corpus, self._end = file, corpus, end
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._hash = hashlib.sha256()
        self._write([end])

    @property
    def sha256(self) -> str:
        """Of all bytes written, in hex."""
        return self._hash.hexdigest()

    def extend(self, encoder: Tokenizer, documents: Iterable[str], max_tokens: int | None) -> Iterator[None]:
        """Write documents until they or max_tokens are exhausted; yields after each batch."""
        for batch in _batches(chain.from_iterable(map(_pieces, documents))):
            encodings = encoder.encode_batch_fast([piece.text for piece in batch], add_special_tokens=False)
            for piece, encoding in zip(batch, encodings, strict=True):
                if max_tokens is not None and self.num_tokens + len(encoding.ids) + 1 > max_tokens:
                    self._cut(encoder, piece, max_tokens - self.num_tokens - 1)
                    yield
                    return
                self._write(encoding.ids)
                if piece.end == len(piece.document):
                    self._finish(piece.document)
            yield

    def _cut(self, encoder: Tokenizer, piece: _Piece, room: int) -> None:
        """Write the piece's first tokens and end its document; without any room a document is not begun."""
        if room < 0 or (room == 0 and piece.start == 0):
            return
        encoding = encoder.encode(piece.text, add_special_tokens=False)
        self._write(encoding.ids[:room])
        self._finish(piece.document[: piece.start + (encoding.offsets[room - 1][1] if room else 0)])

    def _finish(self, document: str) -> None:
        self._write([self._end])
        self.num_words += self._corpus.count_words(document)
        self.num_documents += 1

    def _write(self, ids: list[int]) -> None:
        data = np.asarray(ids, dtype=self._dtype).tobytes()
        self._file.write(data)
        self._hash.update(data)
        self.num_tokens += len(ids)


def _pieces(document: str) -> Iterator[_Piece]:
    start = 0
    while match := WORD_END.search(document, start + PIECE_CHARACTERS):
        yield _Piece(document, start, match.start())
        start = match.start()
    yield _Piece(document, start, len(document))


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += piece.end - piece.start + 1
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
