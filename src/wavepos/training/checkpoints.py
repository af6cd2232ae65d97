"""Checkpoints known to be whole: each lists its files with sizes and checksums, and is verified before it is taken."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wavepos.console import console
from wavepos.data.corpus import file_sha256
from wavepos.runs import flush, write_json

MARKER = "complete.json"
STATES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("weights", ("model.safetensors", "model.safetensors.index.json")),
    ("optimizer.pt", ("optimizer.pt", "optimizer.bin")),  # the latter is that of shards
    ("scheduler.pt", ("scheduler.pt",)),
    ("rng_state.pth", ("rng_state.pth", "rng_state_0.pth")),
    ("trainer_state.json", ("trainer_state.json",)),
)
"""What a run goes on from, and the names that each may have in a checkpoint."""


def mark_complete(checkpoint: Path, facts: dict[str, Any]) -> None:
    """Flush all files of a checkpoint to disk, then write their list and the facts into its complete.json."""
    files = {}
    for path in _files(checkpoint):
        flush(path)
        files[path.relative_to(checkpoint).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    flush(checkpoint)
    write_json(checkpoint / MARKER, {**facts, "files": files})


def marked_facts(checkpoint: Path) -> dict[str, Any]:
    """What `mark_complete` wrote; empty where there is no such checkpoint."""
    marker = checkpoint / MARKER
    facts: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else {}
    return facts


def whole_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint of a run that is whole; None before the first.

    Those that were cut off in the middle of writing are removed, and so are damaged ones where an older one is whole,
    for the updates after it are made again. Each is named on the console.

    Raises:
        ValueError: all that were written to their end are damaged.
    """
    damaged: dict[str, str] = {}
    found = sorted(directory.glob("checkpoint-*"), key=checkpoint_step, reverse=True)
    whole = None
    for path in found:
        if not (path / MARKER).exists():
            console.print(
                f"{path} was cut off while it was written: removed.", highlight=False, markup=False, soft_wrap=True
            )
            shutil.rmtree(path)
        elif whole is None:
            reason = _damage(path)
            if reason is None:
                whole = path
            else:
                damaged[path.name] = reason
    told = "; ".join(f"{name}: {reason}" for name, reason in damaged.items())
    if damaged and whole is None:
        raise ValueError(
            f"every checkpoint in {directory} is damaged ({told}): put the missing files back, or delete {directory} "
            f"to train from the beginning"
        )
    for name in damaged:
        shutil.rmtree(directory / name)
    if damaged and whole is not None:
        console.print(
            f"Damaged and removed: {told}. Going on from {whole.name}.", highlight=False, markup=False, soft_wrap=True
        )
    return whole


def checkpoint_step(checkpoint: Path) -> int:
    """The updates that a checkpoint has behind it, as its name says."""
    return int(checkpoint.name.rpartition("-")[2])


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a marked checkpoint, or None; one marked before lists were kept has to have its states."""
    try:
        listed: dict[str, dict[str, Any]] | None = marked_facts(checkpoint).get("files")
    except ValueError:
        return f"{MARKER} cannot be read"
    if listed is None:
        return next((f"{state} is missing" for state, names in STATES if not _any(checkpoint, names)), None)
    for name, facts in listed.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes of {facts['bytes']:,}"
        if file_sha256(path) != facts["sha256"]:
            return f"{name} is not what was written"
    return None


def _any(checkpoint: Path, names: tuple[str, ...]) -> bool:
    return any((checkpoint / name).exists() for name in names)


def _files(checkpoint: Path) -> Iterator[Path]:
    return (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MARKER)
