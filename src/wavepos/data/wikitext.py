"""WikiText-103 as the field counts it: words between spaces, and an end-of-line token after every line."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from wavepos.data.corpus import Corpus, Split, digest, file_facts
from wavepos.data.hub import load_dataset
from wavepos.data.lines import decode, read_lines

REPOSITORY, CONFIG = "Salesforce/wikitext", "wikitext-103-v1"
HUB_SPLITS = {"train": "train", "valid": "validation", "test": "test"}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WikiText103(Corpus):
    """WikiText-103, tokenised by its makers: each line, empty or not, is a document, ended by one token.

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
            return digest("wikitext103", REPOSITORY, CONFIG)
        folder = self.folder.resolve()
        return digest("wikitext103", str(folder), file_facts(folder, sorted(folder.glob("wiki.*.tokens"))))

    @property
    def words_per_end(self) -> int:
        """The end of a line counts as a word."""
        return 1

    def _documents(self, split: Split) -> Iterator[str]:
        return (" ".join(line.split()) for line in self._lines(split))

    def _lines(self, split: Split) -> Iterable[str]:
        if self.folder is None:
            rows = load_dataset(self.spec, REPOSITORY, CONFIG, split=HUB_SPLITS[split])
            return (row["text"] for row in rows)
        file = self.folder / f"wiki.{split}.tokens"
        if not file.is_file():
            raise FileNotFoundError(f"corpus {self.spec!r}: no such file, for its {split} split: {file}")
        lines = enumerate(read_lines(file), start=1)
        return (decode(line, f"corpus {self.spec!r}, {file}, line {number}") for number, line in lines)


def open_wikitext103(spec: str, folder: str) -> WikiText103:
    """WikiText-103 of a local folder, or of the hub where the name of the folder is empty.

    Raises:
        FileNotFoundError: no such folder.
    """
    if not folder:
        return WikiText103(spec=spec, name="wikitext103", folder=None)
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"corpus {spec!r}: no such folder: {path}")
    return WikiText103(spec=spec, name="wikitext103", folder=path)
