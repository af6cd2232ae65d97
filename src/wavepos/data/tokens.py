"""Token streams on disk, and the blocks that training reads from them."""

import dataclasses
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavepos.data.corpus import Split, file_sha256

IDS, SIDECAR = "tokens.bin", "tokens.json"

IdType = Literal["uint16", "uint32"]


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
    """The token file of a folder; the checksum that older ones lack is computed and kept.

    Raises:
        OSError, ValueError, TypeError: it is missing, or its two files do not belong together.
    """
    path = folder / IDS
    fields: dict[str, Any] = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    old = "sha256" not in fields
    if old:
        fields["sha256"] = file_sha256(path)
    tokens = TokenFile(path=path, **fields)
    expected = tokens.num_tokens * np.dtype(tokens.dtype).itemsize
    if path.stat().st_size != expected:
        raise ValueError(f"{path} must have {expected} bytes, got {path.stat().st_size}")
    if old:
        with suppress(OSError):  # a cache that cannot be written to serves all the same
            write_sidecar(tokens)
    return tokens


def write_sidecar(tokens: TokenFile) -> None:
    """Write what `open_token_file` reads beside the ids."""
    fields = dataclasses.asdict(tokens)
    del fields["path"]
    target = tokens.path.with_name(SIDECAR)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    temporary.replace(target)


class Blocks(Dataset[dict[str, Tensor]]):
    """A token stream cut into blocks without overlap; every token but the first is a target once.

    Item i is {"input_ids": stream[i·L : i·L + L], "shift_labels": stream[i·L + 1 : i·L + L + 1]}, int64 [L],
    so a block's first input is the previous block's last target. What fills no whole block at the end is left
    out.

    Args:
        tokens: the stream.
        seq_len: L, tokens a block.

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
