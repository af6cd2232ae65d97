"""A cache of folders that are whole or absent, whatever kills a process and however many build the same."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def default_cache_dir() -> Path:
    """The environment's WAVEPOS_CACHE, or ~/.cache/wavepos."""
    return Path(os.environ.get("WAVEPOS_CACHE") or "~/.cache/wavepos").expanduser()


def cached_folder(
    cache_dir: Path,
    name: str,
    is_whole: Callable[[Path], bool],
    build: Callable[[Path], None],
) -> Path:
    """The folder cache_dir/name, built first if it is not there.

    It is built beside its place, flushed to disk and renamed. Who comes second waits for the first and takes
    its work; what a killed process left is swept by the next that builds the same folder.

    Args:
        cache_dir: where cached folders lie; made if absent.
        name: the folder's name.
        is_whole: whether a folder of that name holds what it should; if not, it is replaced.
        build: writes the content into the empty folder it is given.
    """
    target = cache_dir / name
    if is_whole(target):
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f".{name}.lock"):
        if is_whole(target):
            return target
        for left_over in cache_dir.glob(f".{name}.*.tmp"):
            shutil.rmtree(left_over, ignore_errors=True)
        temporary = cache_dir / f".{name}.{uuid.uuid4().hex}.tmp"
        temporary.mkdir()
        try:
            build(temporary)
            _flush(temporary)
            if not is_whole(target):
                shutil.rmtree(target, ignore_errors=True)
                temporary.replace(target)
                _flush_entry(cache_dir)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        _flush_entry(path)
    _flush_entry(folder)


def _flush_entry(path: Path) -> None:
    """fsync; outside POSIX, files cannot be flushed through a read-only descriptor nor folders at all."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
