"""Text corpora behind one small interface: documents of a split, a fingerprint, and how words are counted."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import sys
import sysconfig
import tokenize
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, final

Split = Literal["train", "valid"]
KINDS = "stdlib, wikitext103[:DIR], text:PATH, jsonl:PATH[.gz|.xz|.zst], hf:NAME[/CONFIG]"
VALID_SHARE = 0.05


class Corpus(ABC):
    """Documents in two splits. Opening one reads nothing; a missing file is an error at once."""

    def __init__(self, spec: str) -> None:
        self.spec = spec

    @abstractmethod
    def documents(self, split: Split) -> Iterator[str]:
        """The documents of a split, always in the same order."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A text that changes when the documents may have changed."""

    def count_words(self, text: str) -> int:
        """Words of a document: what white space separates."""
        return len(text.split())


def open_corpus(spec: str) -> Corpus:
    """The corpus of a spec.

    Args:
        spec: "stdlib" (the source of the running Python's standard library), "wikitext103" or "wikitext103:DIR" (a
            directory with wiki.train.tokens and wiki.valid.tokens), "text:PATH" (a UTF-8 file, or a directory of .txt
            files), "jsonl:PATH" (an object with "text" a line; ".gz", ".bz2", ".xz" and ".zst" are decompressed;
            "#FIELD" names another field), "hf:NAME", "hf:ORG/NAME", "hf:ORG/NAME/CONFIG" or "hf:./DIR" (streamed).

    Raises:
        ValueError: an unknown kind.
        FileNotFoundError: no such file or directory.
    """
    kind, _, rest = spec.partition(":")
    match kind:
        case "stdlib" if not rest:
            return StandardLibrary(spec)
        case "wikitext103":
            return WikiText103Files(spec, Path(rest)) if rest else WikiText103Hub(spec)
        case "text" if rest:
            return TextFiles(spec, _existing(rest))
        case "jsonl" if rest:
            path, _, field = rest.partition("#")
            return JsonLines(spec, _existing(path), field or "text")
        case "hf" if rest:
            name, _, field = rest.partition("#")
            return HubDataset(spec, name, field or "text")
        case _:
            raise ValueError(f"corpus must be one of {KINDS}, got {spec!r}")


@final
class StandardLibrary(Corpus):
    """The source of the running Python's standard library, without its tests: real code on every machine."""

    EXCLUDED = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"})

    def __init__(self, spec: str) -> None:
        super().__init__(spec)
        self._root = Path(sysconfig.get_path("stdlib"))

    def documents(self, split: Split) -> Iterator[str]:
        for path in self._paths():
            if _in_split(path.relative_to(self._root).as_posix(), split):
                with tokenize.open(path) as file:  # honours a coding line, as Python itself does
                    yield file.read()

    def fingerprint(self) -> str:
        sizes = [(path.relative_to(self._root).as_posix(), path.stat().st_size) for path in self._paths()]
        return f"stdlib {sys.version} {_digest(json.dumps(sizes))}"

    def _paths(self) -> list[Path]:
        found = [
            path
            for path in self._root.rglob("*.py")
            if not self.EXCLUDED.intersection(path.relative_to(self._root).parts[:-1])
            and not path.name.startswith("test_")
        ]
        return sorted(found, key=lambda path: path.relative_to(self._root).as_posix())


class WikiText103(Corpus):
    """WikiText-103 by words: a line is split at white space and ends with <eos>; one document for a split."""

    def count_words(self, text: str) -> int:
        return len(text.split())  # line ends are words of the text by then


def wikitext_line(line: str) -> str:
    """A line's words followed by <eos>, as the field counts WikiText-103."""
    return " ".join([*line.split(), "<eos>"])


@final
class WikiText103Files(WikiText103):
    """The .tokens files of the original distribution."""

    def __init__(self, spec: str, directory: Path) -> None:
        super().__init__(spec)
        self._directory = _existing(str(directory))

    def documents(self, split: Split) -> Iterator[str]:
        path = self._directory / f"wiki.{split}.tokens"
        if not path.exists():
            raise FileNotFoundError(f"{self.spec} needs {path.name} in {self._directory}")
        yield "\n".join(wikitext_line(line) for line in _lines(path))

    def fingerprint(self) -> str:
        return f"wikitext103 {_stamps(sorted(self._directory.glob('wiki.*.tokens')))}"


@final
class WikiText103Hub(WikiText103):
    """WikiText-103 from the Hugging Face hub."""

    def documents(self, split: Split) -> Iterator[str]:
        rows = _load_dataset("Salesforce/wikitext", "wikitext-103-v1", "validation" if split == "valid" else split)
        yield "\n".join(wikitext_line(row["text"]) for row in rows)

    def fingerprint(self) -> str:
        return "wikitext103 Salesforce/wikitext wikitext-103-v1"


@final
class TextFiles(Corpus):
    """A UTF-8 file, whose last lines are the validation split, or a directory of .txt files, split by file."""

    def __init__(self, spec: str, path: Path) -> None:
        super().__init__(spec)
        self._path = path
        self._files = [path] if path.is_file() else sorted(path.glob("*.txt"))
        if not self._files:
            raise FileNotFoundError(f"{spec}: no .txt files in {path}")

    def documents(self, split: Split) -> Iterator[str]:
        if len(self._files) == 1:
            lines = list(_lines(self._files[0]))
            cut = len(lines) - max(1, int(len(lines) * VALID_SHARE))
            yield "".join(lines[:cut] if split == "train" else lines[cut:])
            return
        names = [file.name for file in self._files]
        for file, chosen in zip(self._files, _split_names(names), strict=True):
            if chosen == split:
                yield "".join(_lines(file))

    def fingerprint(self) -> str:
        return f"text {_stamps(self._files)}"


@final
class JsonLines(Corpus):
    """One JSON object a line, read as a stream; split by document."""

    def __init__(self, spec: str, path: Path, field: str) -> None:
        super().__init__(spec)
        self._path = path
        self._field = field

    def documents(self, split: Split) -> Iterator[str]:
        yield from _split_stream(self._texts(), split)

    def fingerprint(self) -> str:
        return f"jsonl {self._field} {_stamps([self._path])}"

    def _texts(self) -> Iterator[str]:
        for number, line in enumerate(_lines(self._path), start=1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[self._field]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self._path}, line {number}: not a JSON object with a field {self._field!r} ({error!r})"
                ) from error
            if not isinstance(text, str):
                raise ValueError(f"{self._path}, line {number}: field {self._field!r} must be text, got {type(text)}")
            yield text


@final
class HubDataset(Corpus):
    """A data set of the Hugging Face hub, or a local directory of the same form, streamed; its own validation split
    if it has one, else split by document."""

    def __init__(self, spec: str, name: str, field: str) -> None:
        super().__init__(spec)
        self._field = field
        self._name, self._config = name, None
        is_local = name.startswith((".", "/"))
        if is_local:
            _existing(name)
        elif name.count("/") == 2:
            self._name, _, self._config = name.rpartition("/")

    def documents(self, split: Split) -> Iterator[str]:
        own = self._own_valid_split()
        if own is not None:
            yield from self._texts(own if split == "valid" else "train")
        else:
            yield from _split_stream(self._texts("train"), split)

    def fingerprint(self) -> str:
        return f"hf {self._name} {self._config} {self._field}"

    def _own_valid_split(self) -> str | None:
        datasets = _import_datasets()
        names = datasets.get_dataset_split_names(self._name, self._config)
        return next((name for name in ("validation", "valid") if name in names), None)

    def _texts(self, split: str) -> Iterator[str]:
        for row in _load_dataset(self._name, self._config, split):
            if self._field not in row:
                raise ValueError(f"{self.spec} has no field {self._field!r}, but {', '.join(row)}: name it by #FIELD")
            yield row[self._field]


def _load_dataset(name: str, config: str | None, split: str) -> Any:
    return _import_datasets().load_dataset(name, config, split=split, streaming=True)


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("corpora of the Hugging Face hub need datasets: pip install 'wavepos[lab]'") from error
    return datasets


def _existing(path: str) -> Path:
    if not Path(path).exists():
        raise FileNotFoundError(f"no such file or directory: {path}")
    return Path(path)


def _lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file with their ends, decompressed by its suffix.

    Raises:
        ValueError: bytes that are not UTF-8, with their offset in the decompressed text.
    """
    offset = 0
    with _opened(path) as file:
        for line in file:
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path} is not UTF-8: byte 0x{line[error.start]:02x} at offset {offset + error.start}"
                ) from error
            offset += len(line)


def _opened(path: Path) -> Any:
    openers: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise ImportError(f"{path} needs zstandard: pip install 'wavepos[lab]'") from error
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True))
    return openers.get(path.suffix, lambda p: p.open("rb"))(path)


def _split_stream(texts: Iterator[str], split: Split) -> Iterator[str]:
    """Documents by the hash of their text; the first one is always for validation, so that it is never empty."""
    for index, text in enumerate(texts):
        is_valid = index == 0 or not _in_split(text, "train")
        if is_valid == (split == "valid"):
            yield text


def _split_names(names: list[str]) -> list[Split]:
    splits: list[Split] = ["train" if _in_split(name, "train") else "valid" for name in names]
    if "valid" not in splits:
        splits[-1] = "valid"
    if "train" not in splits:
        splits[0] = "train"
    return splits


def _in_split(key: str, split: Split) -> bool:
    is_valid = int(_digest(key)[:8], 16) < VALID_SHARE * 2**32
    return is_valid == (split == "valid")


def _stamps(paths: list[Path]) -> str:
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return _digest(json.dumps(stats))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
