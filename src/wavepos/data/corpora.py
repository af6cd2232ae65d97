"""The standard library and data sets of the hub as corpora, and one string that opens any corpus."""

import os
import platform
import shlex
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from wavepos.data.corpus import Corpus, Split, digest, file_facts, is_valid, non_blank, valid_threshold
from wavepos.data.files import open_jsonl, open_text
from wavepos.data.hub import load_dataset
from wavepos.data.wikitext import open_wikitext103
from wavepos.names import CORPORA

SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})
SKIPPED_PREFIXES = ("test_", "config-", "_sysconfigdata")
"""Tests, and what the build of an interpreter writes about its machine."""
VALID_NAMES = ("validation", "valid", "dev", "val")


def open_corpus(spec: str) -> Corpus:
    """The corpus that a string stands for; no text is read yet.

    Args:
        spec: a string of one of the forms of `wavepos.names.CORPORA`.

    Raises:
        ValueError: another kind, or a folder without text files.
        FileNotFoundError: no such file or folder.
    """
    kind, colon, rest = spec.partition(":")
    match kind, bool(colon), bool(rest):
        case "stdlib", False, _:
            return open_stdlib(spec)
        case ("wikitext103" | "wikitext103-plain", given, named) if given == named:
            return open_wikitext103(spec, rest, plain=kind != "wikitext103")
        case "text", _, True:
            return open_text(spec, rest)
        case "jsonl", _, True:
            return open_jsonl(spec, rest)
        case "hf", _, True:
            return open_hub(spec, rest)
        case "task", _, True:
            raise ValueError(
                f"corpus {spec!r} holds questions, no text: `wavepos study retrieval` trains and measures it"
            )
        case _:
            raise ValueError(f"corpus must be one of {', '.join(CORPORA)}; got {spec!r}")


def corpus_of_run(run_dir: Path, config: Mapping[str, Any]) -> str:
    """The corpus that a run was trained on, to be read again although no one names it now.

    Raises:
        ValueError: it means files outside of the current directory: a run directory from elsewhere may name any.
    """
    corpus = str(config["corpus"])
    if not _is_at_hand(corpus):
        raise ValueError(
            f"{run_dir} was trained on corpus {corpus!r}, files outside of the current directory, which are read by "
            f"name only: give --corpus {shlex.quote(corpus)}"
        )
    return corpus


def _is_at_hand(spec: str) -> bool:
    """Whether a corpus means no local files, or none outside of the current directory."""
    kind, _, rest = spec.partition(":")
    path = rest.partition("#")[0] if kind in ("jsonl", "hf") else rest
    if not path or (kind == "hf" and not (path.startswith((".", "~")) or Path(path).is_absolute())):
        return True
    return Path(path).expanduser().resolve().is_relative_to(Path.cwd().resolve())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Stdlib(Corpus):
    """The *.py files of Python's standard library without its tests, one document each, split by path.

    Attributes:
        root: the folder of the library.
    """

    root: Path

    def fingerprint(self) -> str:
        """Of Python's version and of each file's path and size."""
        sizes = [(file.relative_to(self.root).as_posix(), file.stat().st_size) for file in self._files()]
        return digest("stdlib", platform.python_implementation(), platform.python_version(), sizes)

    def _documents(self, split: Split) -> Iterator[str]:
        keys = {file.relative_to(self.root).as_posix(): file for file in self._files()}
        threshold = valid_threshold(self.spec, keys)
        chosen = (file for key, file in keys.items() if is_valid(key, threshold) == (split == "valid"))
        return non_blank(_source(file) for file in chosen)

    def _files(self) -> list[Path]:
        files = []
        for folder, subfolders, names in os.walk(self.root):
            subfolders[:] = [name for name in subfolders if not _is_skipped(name)]
            files += [Path(folder, name) for name in names if name.endswith(".py") and not _is_skipped(name)]
        return sorted(files, key=lambda file: file.relative_to(self.root).as_posix())


def open_stdlib(spec: str) -> Stdlib:
    """The standard library of the running Python."""
    return Stdlib(spec=spec, name="stdlib", root=Path(sysconfig.get_path("stdlib")))


def _is_skipped(name: str) -> bool:
    return name in SKIPPED_FOLDERS or name.startswith(SKIPPED_PREFIXES)


def _source(file: Path) -> str:
    """The text of a source file in the encoding it declares (PEP 263)."""
    try:
        with tokenize.open(file) as source:
            return source.read()
    except (SyntaxError, UnicodeDecodeError) as error:
        warnings.warn(f"{file} is left out of the corpus 'stdlib': {error}", stacklevel=2)
        return ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HubDataset(Corpus):
    """A data set streamed through `datasets`; one without a validation split is split by hash of the text.

    Attributes:
        path: org/name or name on the hub, or the path of a local folder.
        config: the configuration; None: the data set's only or default one.
        column: the column of the text; rows without text are left out.
        folder: the local folder, None for the hub.
    """

    path: str
    config: str | None
    column: str
    folder: Path | None

    def fingerprint(self) -> str:
        """Of a folder's files, or a hub data set's name, configuration and column (revisions go unseen)."""
        facts = []
        if self.folder is not None:
            facts = file_facts(self.folder, sorted(file for file in self.folder.rglob("*") if file.is_file()))
        return digest("hf", self.path, self.config, self.column, facts)

    def _documents(self, split: Split) -> Iterator[str]:
        splits = load_dataset(self.spec, self.path, self.config, streaming=True)
        if "train" not in splits:
            raise ValueError(f"corpus {self.spec!r}: must have a split 'train', has {', '.join(splits)}")
        own_valid = next((name for name in VALID_NAMES if name in splits), None)
        if own_valid is not None:
            return self._texts(splits["train" if split == "train" else own_valid])
        threshold = valid_threshold(self.spec, self._texts(splits["train"]))
        texts = self._texts(splits["train"])
        return (text for text in texts if is_valid(text, threshold) == (split == "valid"))

    def _texts(self, rows: Any) -> Iterator[str]:
        return non_blank(self._text(row, number) for number, row in enumerate(rows, start=1))

    def _text(self, row: dict[str, Any], number: int) -> str:
        place = f"corpus {self.spec!r}, row {number}"
        if self.column not in row:
            raise ValueError(f"{place}: no column {self.column!r}, it has {', '.join(row)}")
        text = row[self.column]
        if not isinstance(text, str | None):
            raise ValueError(f"{place}: column {self.column!r} must hold text, got {type(text).__name__}")
        return text or ""


def open_hub(spec: str, path_and_column: str) -> HubDataset:
    """A data set: name, org/name, org/name/config, or a local ./folder or /folder; #COLUMN may follow.

    Raises:
        FileNotFoundError: no such local folder.
        ValueError: a name of more than three parts.
    """
    path, _, column = path_and_column.partition("#")
    column = column or "text"
    if path.startswith((".", "~")) or Path(path).is_absolute():
        folder = Path(path).expanduser().resolve()
        if not folder.is_dir():
            raise FileNotFoundError(f"corpus {spec!r}: no such folder: {path}")
        name = folder.name
        return HubDataset(spec=spec, name=name, path=str(folder), config=None, column=column, folder=folder)
    parts = path.split("/")
    if not all(parts) or len(parts) > 3:
        raise ValueError(f"corpus {spec!r}: must be hf:NAME, hf:ORG/NAME, hf:ORG/NAME/CONFIG or hf:./FOLDER")
    name, config = "/".join(parts[:2]), parts[2] if len(parts) == 3 else None
    return HubDataset(spec=spec, name=parts[:2][-1], path=name, config=config, column=column, folder=None)
