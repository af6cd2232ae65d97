"""Corpora of the user's own files: plain text, and JSON lines; how lines of plain and compressed files are read."""

import gzip
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from wavepos.data.corpus import VALID_PERCENT, Corpus, Split, digest, file_facts, is_valid, non_blank, valid_threshold


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TextFiles(Corpus):
    """UTF-8 text files, one document each.

    A single file is cut at a line's end, its last 5% of lines are the valid split; several are split by path.

    Attributes:
        root: the folder they lie in.
        files: the files, sorted by path.
    """

    root: Path
    files: tuple[Path, ...]

    def fingerprint(self) -> str:
        """Of each file's path, size and time of change."""
        return digest("text", str(self.root), file_facts(self.root, self.files))

    def _documents(self, split: Split) -> Iterator[str]:
        if len(self.files) == 1:
            return non_blank([self._part(split)])
        keys = {file.relative_to(self.root).as_posix(): file for file in self.files}
        threshold = valid_threshold(self.spec, keys)
        chosen = (file for key, file in keys.items() if is_valid(key, threshold) == (split == "valid"))
        return non_blank(self._text(file) for file in chosen)

    def _text(self, file: Path) -> str:
        return decode(file.read_bytes(), f"corpus {self.spec!r}, {file}").removeprefix("\ufeff")

    def _part(self, split: Split) -> str:
        text = self._text(self.files[0])
        if not text.strip():
            raise ValueError(f"corpus {self.spec!r} is empty: {self.files[0]} holds no text")
        num_lines = text.count("\n") + (not text.endswith("\n"))
        if num_lines < 2:
            raise ValueError(
                f"corpus {self.spec!r} holds a single line: at least two are needed, "
                f"for the last {VALID_PERCENT}% go to the valid split"
            )
        line_end = len(text) - text.endswith("\n")
        for _ in range(max(1, num_lines * VALID_PERCENT // 100)):
            line_end = text.rfind("\n", 0, line_end)
        return text[line_end + 1 :] if split == "valid" else text[: line_end + 1]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLines(Corpus):
    """A file with one JSON object a line, split by the hash of the text: copies fall into the same split.

    Attributes:
        file: plain, or compressed by gzip, xz or zstd (.gz, .xz, .zst).
        field: the key of the text.
    """

    file: Path
    field: str

    def fingerprint(self) -> str:
        """Of the file's path, size and time of change, and of the field."""
        return digest("jsonl", str(self.file), file_facts(self.file.parent, [self.file]), self.field)

    def _documents(self, split: Split) -> Iterator[str]:
        threshold = valid_threshold(self.spec, self._texts())
        return (text for text in self._texts() if is_valid(text, threshold) == (split == "valid"))

    def _texts(self) -> Iterator[str]:
        lines = enumerate(read_lines(self.file), start=1)
        numbered = ((number, line.removeprefix(BOM) if number == 1 else line) for number, line in lines)
        return non_blank(self._text(line, number) for number, line in numbered if line.strip())

    def _text(self, line: bytes, number: int) -> str:
        place = f"corpus {self.spec!r}, {self.file}, line {number}"
        try:
            row = json.loads(decode(line, place))
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: not JSON ({error.msg} at column {error.colno})") from error
        except RecursionError as error:
            raise ValueError(f"{place}: JSON nested too deep to be read") from error
        if not isinstance(row, dict):
            raise ValueError(f"{place}: must be a JSON object, got {type(row).__name__}")
        if self.field not in row:
            raise ValueError(f"{place}: no field {self.field!r}, it has {', '.join(row) or 'none'}")
        text = row[self.field]
        if not isinstance(text, str):
            raise ValueError(f"{place}: field {self.field!r} must be a string, got {type(text).__name__}")
        if not _is_unicode(text):
            raise ValueError(f"{place}: field {self.field!r} holds half of a surrogate pair")
        return text


def open_text(spec: str, path: str) -> TextFiles:
    """A text file, or all *.txt files in a folder and below.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a folder without *.txt files.
    """
    root = Path(path).expanduser().resolve()
    if root.is_file():
        return TextFiles(spec=spec, name=root.stem, root=root.parent, files=(root,))
    if not root.is_dir():
        raise FileNotFoundError(f"corpus {spec!r}: no such file or folder: {path}")
    files = sorted((file for file in root.rglob("*.txt") if file.is_file()), key=lambda file: file.as_posix())
    if not files:
        raise ValueError(f"corpus {spec!r} is empty: no *.txt files in {path}")
    return TextFiles(spec=spec, name=root.name, root=root, files=tuple(files))


def open_jsonl(spec: str, path_and_field: str) -> JsonLines:
    """A file of JSON lines: PATH, or PATH#FIELD for another field than "text".

    Raises:
        FileNotFoundError: no such file.
    """
    path, _, field = path_and_field.partition("#")
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"corpus {spec!r}: no such file: {path}")
    return JsonLines(spec=spec, name=file.name.split(".")[0], file=file, field=field or "text")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


BOM = b"\xef\xbb\xbf"
"""What some programs put before UTF-8 text."""
CHUNK_BYTES = 1 << 20


def read_lines(path: Path) -> Iterator[bytes]:
    r"""The lines of a file, each with its b"\n"; .gz, .xz and .zst are decompressed on the way.

    Raises:
        ValueError: compressed data that are damaged or cut off.
        ImportError: a .zst file without the package zstandard.
    """
    if path.suffix in (".zst", ".xz"):
        yield from _rejoined(_zst_chunks(path) if path.suffix == ".zst" else _xz_chunks(path))
        return
    with _open(path) as file:
        try:
            yield from file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _damaged(path, error) from error


def decode(data: bytes, place: str) -> str:
    """UTF-8 text.

    Raises:
        ValueError: other bytes; it names the place and the offset of the first of them, in bytes from 0.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        bad = f"0x{data[error.start]:02x} at offset {error.start}"
        raise ValueError(f"{place}: the text must be UTF-8, got byte {bad} ({error.reason})") from error


def _open(path: Path) -> AbstractContextManager[Iterable[bytes]]:
    match path.suffix:
        case ".gz":
            return gzip.open(path, "rb")
        case _:
            return path.open("rb")


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: the compressed data are damaged or cut off ({error})")


def _xz_chunks(path: Path) -> Iterator[bytes]:
    """Decompressed data of all streams; lzma's own reader would leave out in silence what is none behind the last."""
    stream = None
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            while data or not (stream is None or stream.needs_input):
                if stream is None:
                    data = data.lstrip(b"\0")  # padding between streams
                    stream = lzma.LZMADecompressor() if data else None
                    continue
                try:
                    yield stream.decompress(data, CHUNK_BYTES)
                except lzma.LZMAError as error:
                    raise _damaged(path, error) from error
                data = b""
                if stream.eof:
                    data, stream = stream.unused_data, None
    if stream is not None:
        raise _damaged(path, EOFError("the last stream has no end"))


def _zst_chunks(path: Path) -> Iterator[bytes]:
    """Decompressed data of all frames; zstandard's own reader would take a cut-off frame for its end."""
    try:
        import zstandard
    except ImportError as error:
        raise ImportError(f"{path}: a .zst file needs zstandard: pip install wavepos[lab]") from error
    frame = None
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            while data:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    yield frame.decompress(data)
                except zstandard.ZstdError as error:
                    raise _damaged(path, error) from error
                data = frame.unused_data
                frame = None if frame.eof else frame
    if frame is not None:
        raise _damaged(path, EOFError("the last frame has no end"))


def _rejoined(chunks: Iterator[bytes]) -> Iterator[bytes]:
    pending = b""
    for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if pending:
        yield pending
