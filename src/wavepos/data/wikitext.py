"""WikiText-103: as its makers tokenised it, for numbers beside others' on it, and as plain text, for models of such."""

import re
from abc import ABC
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from wavepos.data.corpus import Corpus, Split, digest, file_facts
from wavepos.data.files import decode, read_lines
from wavepos.data.hub import load_dataset

REPOSITORY, CONFIG = "Salesforce/wikitext", "wikitext-103-v1"
HUB_SPLITS = {"train": "train", "valid": "validation", "test": "test"}

_HEADING = re.compile(r"(=(?: =)*) ([^=].*?) \1")
_SPACING = (
    (re.compile(r" @([-,.])@ "), r"\1"),
    (re.compile(r' " ([^"]*?) (?=")'), r' "\1'),  # a pair of quotes closes round what it holds
    (re.compile(r" (['’](?:s|t|m|d|re|ve|ll))(?= |$)"), r"\1"),
    (re.compile(r"(?<=s) '(?= )"), "'"),
    (re.compile(r" ([.,;:!?%)\]}°′″]|\.\.\.)(?=[ \"'.,;:!?%)\]}]|$)"), r"\1"),
    (re.compile(r"(?<=[ \"'(\[])([(\[{$£€]) "), r"\1"),
    (re.compile(r"(?<=\S) ([/–]) (?=\S)"), r"\1"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _WikiText(Corpus, ABC):
    """The files of WikiText-103.

    Attributes:
        folder: where wiki.{train,valid,test}.tokens are; None: the `datasets` package gets them.
    """

    folder: Path | None

    @property
    def splits(self) -> tuple[Split, ...]:
        """All three: this corpus comes with a test split."""
        return ("train", "valid", "test")

    def fingerprint(self) -> str:
        """Of the files' sizes and times, or of the data set's name."""
        if self.folder is None:
            return digest(self.name, REPOSITORY, CONFIG)
        folder = self.folder.resolve()
        return digest(self.name, str(folder), file_facts(folder, sorted(folder.glob("wiki.*.tokens"))))

    def _lines(self, split: Split) -> Iterable[str]:
        if self.folder is None:
            rows = load_dataset(self.spec, REPOSITORY, CONFIG, split=HUB_SPLITS[split])
            return (row["text"] for row in rows)
        file = self.folder / f"wiki.{split}.tokens"
        if not file.is_file():
            raise FileNotFoundError(f"corpus {self.spec!r}: no such file, for its {split} split: {file}")
        lines = enumerate(read_lines(file), start=1)
        return (decode(line, f"corpus {self.spec!r}, {file}, line {number}") for number, line in lines)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WikiText103(_WikiText):
    """The text as its makers tokenised it: each line, empty or not, is a document, ended by one token."""

    @property
    def words_per_end(self) -> int:
        """The end of a line counts as a word."""
        return 1

    def _documents(self, split: Split) -> Iterator[str]:
        return (" ".join(line.split()) for line in self._lines(split))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PlainWikiText103(_WikiText):
    """Each article as plain text in one document: words, punctuation and headings as a reader would write them.

    Words that the makers replaced by <unk> stay so. Its words are those between white space: fewer than the tokens
    that perplexities on WikiText-103 are given per.
    """

    def _documents(self, split: Split) -> Iterator[str]:
        article: list[str] = []
        for line in self._lines(split):
            words = " ".join(line.split())
            if not words:
                continue
            heading = _HEADING.fullmatch(words)
            if heading and heading[1] == "=" and article:
                yield "\n".join(article)
                article = []
            article.append(plain(heading[2]) + ("\n" if heading[1] == "=" else ".") if heading else plain(words))
        if article:
            yield "\n".join(article)


def plain(words: str) -> str:
    """A tokenised line as it was written, as far as that is known.

    Args:
        words: single spaces between words and marks, such as 'a 4 @,@ 386 t " haul " ( 79 % ) , the lobster \\'s'.

    Example:
        >>> plain("In 2008 , 4 @,@ 386 t ( 79 % ) of the lobster 's \\" haul \\" .")
        'In 2008, 4,386 t (79%) of the lobster\\'s "haul".'
    """
    text = f" {words} "
    for pattern, written in _SPACING:
        text = pattern.sub(written, text)
    return text.strip()


def open_wikitext103(spec: str, folder: str, *, plain: bool) -> WikiText103 | PlainWikiText103:
    """WikiText-103 of a local folder, or of the hub where the name of the folder is empty.

    Raises:
        FileNotFoundError: no such folder.
    """
    path = Path(folder).expanduser() if folder else None
    if path is not None and not path.is_dir():
        raise FileNotFoundError(f"corpus {spec!r}: no such folder: {path}")
    if plain:
        return PlainWikiText103(spec=spec, name="wikitext103-plain", folder=path)
    return WikiText103(spec=spec, name="wikitext103", folder=path)
