"""Lines of plain and compressed files, streamed, with damage told from an end."""

import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

CHUNK_BYTES = 1 << 20


def read_lines(path: Path) -> Iterator[bytes]:
    r"""The lines of a file, each with its b"\n"; .gz, .xz and .zst are decompressed on the way.

    Raises:
        ValueError: compressed data that are damaged or cut off.
        ImportError: a .zst file without the package zstandard.
    """
    if path.suffix == ".zst":
        yield from _rejoined(_zst_chunks(path))
        return
    with _open(path) as file:
        try:
            yield from file
        except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
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
        case ".xz":
            return lzma.open(path, "rb")
        case _:
            return path.open("rb")


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: the compressed data are damaged or cut off ({error})")


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
