"""The source of Python's own standard library: real code on every machine, no download."""

import os
import platform
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from wavepos.data.corpus import Corpus, Split, digest, is_valid, non_blank, valid_threshold

SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})
SKIPPED_PREFIXES = ("test_", "config-", "_sysconfigdata")
"""Tests, and what the build of an interpreter writes about its machine."""


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
