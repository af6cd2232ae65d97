"""Token streams on disk: how they are written, and the blocks that training reads from them."""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from wavepos.console import Update
from wavepos.data.corpus import Corpus, Split
from wavepos.data.tokenizers import eos_id, text_encoder
from wavepos.storage import file_sha256, read_record, write_record

IDS, SIDECAR = "tokens.bin", "tokens.json"

IdType = Literal["uint16", "uint32"]
DAMAGED = "delete its folder to have it made anew from the corpus"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """One split of a corpus as token ids: <eos>, then each document and <eos>.

    So each token of the text has a token before it, and N tokens are N − 1 targets.

    Attributes:
        path: the ids, little-endian, without a header; the other attributes lie beside it as JSON.
        num_tokens: ids in the file.
        num_words: words that the num_tokens − 1 targets make up, as the corpus counts words; of a document that was cut
            and not ended, those whose last token is there.
        num_bytes: of the text that the targets make up, in UTF-8, ends of documents aside; a character counts with its
            last token. None in files of older versions.
        num_documents: documents in it; the last may be cut.
        dtype: of an id.
        corpus: the spec of the corpus.
        split: of the corpus.
        vocab_size: of the tokenizer, special tokens included.
        sha256: of the ids as bytes, in hex: what tells whether two token files hold the same.
    """

    path: Path
    num_tokens: int
    num_words: int
    num_documents: int
    dtype: IdType
    corpus: str
    split: Split
    vocab_size: int
    sha256: str
    num_bytes: int | None = None

    @property
    def ids(self) -> npt.NDArray[np.unsignedinteger]:
        """The stream, uint16 or uint32 [num_tokens], memory-mapped for reading."""
        return np.memmap(self.path, dtype=np.dtype(self.dtype).newbyteorder("<"), mode="r")


def open_token_file(folder: Path) -> TokenFile:
    """The token file of a folder, all of which is read to verify it; the SHA-256 that older ones lack is kept.

    Raises:
        OSError, ValueError: a file is missing or damaged, or the two do not belong together.
    """
    path, sidecar = folder / IDS, folder / SIDECAR
    fields = read_record(sidecar, DAMAGED)
    stored = fields.pop("sha256", None)
    try:
        tokens = TokenFile(path=path, sha256=stored or "", **fields)
    except TypeError as error:
        raise ValueError(f"{sidecar} is not of this version ({error}): {DAMAGED}") from error
    if tokens.dtype not in get_args(IdType):
        raise ValueError(f"{sidecar} must have a dtype of {get_args(IdType)}, got {tokens.dtype!r}: {DAMAGED}")
    expected = tokens.num_tokens * np.dtype(tokens.dtype).itemsize
    if path.stat().st_size != expected:
        raise ValueError(f"{path} must have {expected:,} bytes, got {path.stat().st_size:,}: {DAMAGED}")
    sha256 = file_sha256(path)
    if stored not in (sha256, None):
        raise ValueError(f"{path} is not what was written, its checksum differs: {DAMAGED}")
    if not expected or int(tokens.ids.max()) >= tokens.vocab_size:
        raise ValueError(f"{path} holds no tokens of a vocabulary of {tokens.vocab_size:,}: {DAMAGED}")
    if stored is None:
        tokens = dataclasses.replace(tokens, sha256=sha256)
        with suppress(OSError):  # a cache that cannot be written to serves all the same
            write_sidecar(tokens)
    return tokens


def write_sidecar(tokens: TokenFile) -> None:
    """Write what `open_token_file` reads beside the ids."""
    fields = dataclasses.asdict(tokens)
    del fields["path"]
    write_record(tokens.path.with_name(SIDECAR), fields)


class Blocks(Dataset[dict[str, Tensor]]):
    """A token stream cut into blocks without overlap; every token but the first is a target once.

    Item i is {"input_ids": stream[i·L : i·L + L], "shift_labels": stream[i·L + 1 : i·L + L + 1]}, int64 [L],
    so a block's first input is the previous block's last target. What fills no whole block at the end is left
    out.

    Args:
        tokens: the stream.
        seq_len: L, tokens per block.

    Raises:
        ValueError: seq_len below 1, or a stream of less than one block.
    """

    def __init__(self, tokens: TokenFile, seq_len: int) -> None:
        if seq_len < 1:
            raise ValueError(f"seq_len must be at least 1, got {seq_len}")
        if tokens.num_tokens - 1 < seq_len:
            raise ValueError(
                f"seq_len={seq_len} needs at least {seq_len + 1} tokens for one block, "
                f"but the {tokens.split} split of corpus {tokens.corpus!r} has {tokens.num_tokens}: "
                f"take a shorter seq_len or more text"
            )
        self.tokens = tokens
        self.seq_len = seq_len
        self._ids = tokens.ids

    def __len__(self) -> int:
        return (self.tokens.num_tokens - 1) // self.seq_len

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        start = index * self.seq_len
        block = torch.from_numpy(self._ids[start : start + self.seq_len + 1].astype(np.int64))
        return {"input_ids": block[:-1], "shift_labels": block[1:]}

    def __reduce__(self) -> tuple[type["Blocks"], tuple[TokenFile, int]]:
        """A worker process maps the file itself: a pickled memory map would carry its whole content."""
        return Blocks, (self.tokens, self.seq_len)


BATCH_CHARACTERS = 1_000_000
PIECE_CHARACTERS = 100_000
WORD_END = re.compile(r"(?<=[^\W_]) ")


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
    update: Update | None,
) -> None:
    """Write the token file of a split, its ids and what is known of them, into an empty folder."""
    encoder, end = text_encoder(tokenizer), eos_id(tokenizer)
    dtype: IdType = "uint16" if len(tokenizer) <= 1 << 16 else "uint32"
    with (folder / IDS).open("wb") as file:
        stream = _Stream(file, corpus, end, dtype)
        for _ in stream.extend(encoder, corpus.documents(split), bound):
            if update is not None:
                update(stream.num_tokens, bound.max_tokens, f"{split}: {stream.num_tokens:,} tokens")
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
