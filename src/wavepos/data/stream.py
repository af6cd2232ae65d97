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
from wavepos.data.tokenizers import eos_id, text_encoder
from wavepos.data.tokens import IDS, IdType, TokenFile, write_sidecar

BATCH_CHARACTERS = 1_000_000
PIECE_CHARACTERS = 100_000
WORD_END = re.compile(r"(?<=[^\W_]) ")

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Bound:
    """How many tokens are written, at most (None: all), and whether a document that is cut there is ended."""

    max_tokens: int | None
    ended: bool


def write_split(
    folder: Path,
    corpus: Corpus,
    split: Split,
    tokenizer: PreTrainedTokenizerFast,
    bound: Bound,
    progress: Progress | None,
) -> None:
    """Write the token file of a split, its ids and what is known of them, into an empty folder."""
    encoder, end = text_encoder(tokenizer), eos_id(tokenizer)
    dtype: IdType = "uint16" if len(tokenizer) <= 1 << 16 else "uint32"
    with (folder / IDS).open("wb") as file:
        stream = _Stream(file, corpus, end, dtype)
        for _ in stream.extend(encoder, corpus.documents(split), bound):
            if progress is not None:
                progress(split, stream.num_tokens, bound.max_tokens)
    write_sidecar(
        TokenFile(
            path=folder / IDS,
            num_tokens=stream.num_tokens,
            num_words=stream.num_words,
            num_bytes=stream.num_bytes,
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
        self.num_tokens = self.num_words = self.num_bytes = self.num_documents = 0
        self._file, self._corpus, self._end = file, corpus, end
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._hash = hashlib.sha256()
        self._write([end])

    @property
    def sha256(self) -> str:
        """Of all bytes written, in hex."""
        return self._hash.hexdigest()

    def extend(self, encoder: Tokenizer, documents: Iterable[str], bound: Bound) -> Iterator[None]:
        """Write documents until they or the bound are exhausted; yields after each batch."""
        for batch in _batches(chain.from_iterable(map(_pieces, documents))):
            encodings = encoder.encode_batch_fast([piece.text for piece in batch], add_special_tokens=False)
            for piece, encoding in zip(batch, encodings, strict=True):
                room = None if bound.max_tokens is None else bound.max_tokens - self.num_tokens
                if room is not None and len(encoding.ids) + 1 > room:
                    (self._end_early if bound.ended else self._break_off)(encoder, piece, room)
                    yield
                    return
                self._write(encoding.ids)
                if piece.end == len(piece.document):
                    self._finish(piece.document)
            yield

    def _end_early(self, encoder: Tokenizer, piece: _Piece, room: int) -> None:
        """Write the piece's first tokens and end its document; without room for both a document is not begun."""
        room -= 1
        if room < 0 or (room == 0 and piece.start == 0):
            return
        encoding = encoder.encode(piece.text, add_special_tokens=False)
        self._write(encoding.ids[:room])
        self._finish(piece.document[: piece.start + (encoding.offsets[room - 1][1] if room else 0)])

    def _break_off(self, encoder: Tokenizer, piece: _Piece, room: int) -> None:
        """Write the piece's first tokens and count the words and characters whose last token is among them."""
        if room == 0 and piece.start == 0:
            return
        encoding = encoder.encode(piece.text, add_special_tokens=False)
        self._write(encoding.ids[:room])
        end = encoding.offsets[room - 1][1] if room else 0
        if room < len(encoding.offsets):  # tokens of one character overlap
            end = min(end, encoding.offsets[room][0])
        text, rest = piece.document[: piece.start + end], piece.document[piece.start + end :]
        inside_a_word = bool(text and rest) and not text[-1].isspace() and not rest[0].isspace()
        self.num_words += len(text.split()) - inside_a_word
        self.num_bytes += len(text.encode())
        self.num_documents += 1

    def _finish(self, document: str) -> None:
        self._write([self._end])
        self.num_words += self._corpus.count_words(document)
        self.num_bytes += len(document.encode())
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
