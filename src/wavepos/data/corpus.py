"""What a corpus is: documents of text in splits, a count of words, and a fingerprint for caches."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

Split = Literal["train", "valid", "test"]

HASH_RANGE = 1 << 64
VALID_PERCENT = 5
VALID_THRESHOLD = HASH_RANGE * VALID_PERCENT // 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus(ABC):
    """Text to train and measure on, opened by `open_corpus`.

    Attributes:
        spec: the string that opens it.
        name: a short name for titles and file names.
    """

    spec: str
    name: str

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits it has."""
        return ("train", "valid")

    @abstractmethod
    def fingerprint(self) -> str:
        """A hex digest that changes when the text may have changed, found without reading the text."""

    @abstractmethod
    def _documents(self, split: Split) -> Iterator[str]:
        """The documents of a split that exists."""

    @property
    def words_per_end(self) -> int:
        """Words that the end of a document counts as when perplexity is given per word."""
        return 0

    @final
    def count_words(self, text: str) -> int:
        """The words a document counts as: those between white space, and its end."""
        return len(text.split()) + self.words_per_end

    @final
    def documents(self, split: Split) -> Iterator[str]:
        """The documents of a split, streamed, in the same order at every call.

        Args:
            split: "train" or "valid"; "test" where the corpus has one.

        Raises:
            ValueError: no such split, text that cannot be read, or (at the end) a split without any document.
        """
        if split not in self.splits:
            raise ValueError(f"split of {self.spec!r} must be one of {self.splits}, got {split!r}")
        return self._some_documents(split)

    def _some_documents(self, split: Split) -> Iterator[str]:
        empty = True
        for text in self._documents(split):
            empty = False
            yield text
        if empty:
            raise ValueError(f"corpus {self.spec!r} is empty: its {split} split holds no text")


def non_blank(texts: Iterable[str]) -> Iterator[str]:
    """The texts that hold more than white space."""
    return (text for text in texts if text.strip())


def digest(*facts: object) -> str:
    """A hex digest of facts that JSON can hold."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def file_facts(root: Path, files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Path below root, size in bytes and time of change in ns of each file."""
    stats = ((file.relative_to(root).as_posix(), file.stat()) for file in files)
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def valid_threshold(spec: str, keys: Iterable[str]) -> int:
    """The threshold that parts a corpus by the hash of its keys: see `is_valid`.

    It is 5% of the range of the hash, unless one side stayed empty then: a corpus of few documents gives the
    one of the lowest hash to validation, or keeps the one of the highest for training. Keys are read until
    that is known.

    Raises:
        ValueError: no key, or no two different ones.
    """
    lowest, highest = HASH_RANGE, -1
    for key in keys:
        lowest, highest = min(lowest, _hash(key)), max(highest, _hash(key))
        if lowest <= VALID_THRESHOLD < highest:
            return VALID_THRESHOLD
    if highest < 0:
        raise ValueError(f"corpus {spec!r} is empty: it holds no text")
    if lowest == highest:
        raise ValueError(
            f"corpus {spec!r} holds a single document (or copies of it): at least two are needed, "
            f"for one goes to the valid split"
        )
    return lowest if lowest > VALID_THRESHOLD else highest - 1


def is_valid(key: str, threshold: int) -> bool:
    """Whether the document of that key belongs to the valid split."""
    return _hash(key) <= threshold


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
