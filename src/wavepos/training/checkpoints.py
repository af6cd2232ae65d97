"""Checkpoints known to be whole: the files that each lists are verified before it is taken."""

import re
import shutil
from pathlib import Path

from wavepos.console import console
from wavepos.storage import MARKER, damage, marked_facts

STATES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("weights", ("model.safetensors", "model.safetensors.index.json")),
    ("optimizer.pt", ("optimizer.pt", "optimizer.bin")),  # the latter is that of shards
    ("scheduler.pt", ("scheduler.pt",)),
    ("rng_state.pth", ("rng_state.pth", "rng_state_0.pth")),
    ("trainer_state.json", ("trainer_state.json",)),
)
"""What a run goes on from, and the names that each may have in a checkpoint."""


def whole_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint of a run that is whole; None before the first.

    Those that were cut off in the middle of writing are removed, and so are damaged ones where an older one is whole,
    for the updates after it are made again. Each is named on the console.

    Raises:
        ValueError: all that were written to their end are damaged.
    """
    damaged: dict[str, str] = {}
    whole = None
    for path in _newest_first(directory):
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


def newest_marked(directory: Path) -> Path | None:
    """The newest checkpoint that was written to its end; None before the first."""
    return next((path for path in _newest_first(directory) if (path / MARKER).exists()), None)


def _newest_first(directory: Path) -> list[Path]:
    found = (path for path in directory.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name))
    return sorted(found, key=checkpoint_step, reverse=True)


def checkpoint_step(checkpoint: Path) -> int:
    """The updates that a checkpoint has behind it, as its name says."""
    return int(checkpoint.name.rpartition("-")[2])


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a marked checkpoint, or None; one marked before lists were kept has to have its states."""
    found = damage(checkpoint)
    if found is not None:
        return found
    facts = marked_facts(checkpoint)
    if not isinstance(facts.get("seconds"), int | float):
        return f"{MARKER} lacks its seconds"
    if "files" not in facts:
        return next((f"{state} is missing" for state, names in STATES if not _any(checkpoint, names)), None)
    return None


def _any(checkpoint: Path, names: tuple[str, ...]) -> bool:
    return any((checkpoint / name).exists() for name in names)
