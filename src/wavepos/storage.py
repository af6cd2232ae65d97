"""What lies on disk: written whole and flushed, with checksums, and taken back only as it was written."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MARKER = "complete.json"
"""Lists the files of a folder that is whole, with sizes and SHA-256."""
CHECKSUM = "checksum"
"""Key of a record's own checksum."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SAYS_FULL = ("No space left on device", "File too large", "inline_container", "iostream error")
"""How libraries that raise no OSError report a full disk; the last two are torch's."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that the path holds either the old or the whole new content, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically: a temporary file beside it, flushed to disk, then renamed; or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # one that a folder from elsewhere holds may be a link out of it
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def flush(path: Path) -> None:
    """fsync a file or folder; outside POSIX neither can be flushed by a read-only descriptor, and nothing is done."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: Exception) -> bool:
    """Whether an error says that no space is left to write to."""
    return (isinstance(error, OSError) and error.errno in FULL) or any(words in str(error) for words in SAYS_FULL)


def write_record(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object as `write_json` does, with a checksum of the rest as its last key."""
    write_json(path, {**data, CHECKSUM: _checksum(data)})


def read_record(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object that `write_record` wrote, without its checksum; older ones have none.

    Args:
        path: the file.
        advice: what would do, for the error.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is empty, cut off, no JSON object, or its checksum is not that of the rest.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "is empty" if not path.stat().st_size else f"cannot be read as JSON ({error})"
        raise ValueError(f"{path} {reason}: {advice}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(record).__name__}: {advice}")
    checksum = record.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(record):
        raise ValueError(
            f"{path} is not what was written, its checksum differs: {advice} (if it was changed by hand and is meant, "
            f"delete its {CHECKSUM!r})"
        )
    return record


def unreadable_tokenizer(folder: Path, error: Exception) -> str:
    """Which file of a tokenizer is damaged, and what would do."""
    for path in (folder / name for name in TOKENIZER_FILES):
        if path.is_file():
            read_record(path, "restore it from a copy, or delete the folder and make it anew")
    return (
        f"{folder / 'tokenizer.json'} holds no tokenizer ({error}): restore it from a copy, or delete the folder and "
        f"make it anew"
    )


def _checksum(data: Mapping[str, Any]) -> str:
    read_back = json.loads(json.dumps(data))  # its keys are strings, its sequences lists
    return hashlib.sha256(json.dumps(read_back, sort_keys=True).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mark_complete(folder: Path, facts: Mapping[str, Any]) -> None:
    """Flush all files of a folder to disk, then write their list and the facts into its complete.json."""
    files = {}
    for path in _files(folder):
        flush(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    flush(folder)
    flush(folder.parent)
    write_record(folder / MARKER, {**facts, "files": files})


def marked_facts(folder: Path) -> dict[str, Any]:
    """What `mark_complete` wrote; empty where nothing is marked.

    Raises:
        ValueError: it is damaged.
    """
    marker = folder / MARKER
    return read_record(marker, f"restore {folder} from a copy, or delete it") if marker.exists() else {}


def damage(folder: Path) -> str | None:
    """What is wrong with a marked folder, all of whose listed files are read, or None; without a list nothing is."""
    try:
        listed = marked_facts(folder).get("files", {})
        expected = {str(name): (int(facts["bytes"]), str(facts["sha256"])) for name, facts in listed.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{MARKER} cannot be read"
    for name, (size, sha256) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes of {size:,}"
        if file_sha256(path) != sha256:
            return f"{name} is not what was written"
    return None


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER)
