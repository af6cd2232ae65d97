"""Run directories of all studies, side by side in one folder, found by what they hold and not by their name."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from wavepos.experiments.study import Evaluation
from wavepos.positions import parse_position
from wavepos.training.config import TrainConfig

DEFAULT_RUNS = Path("runs/studies")
RECORD, FAILURE, LOCK, EVALUATIONS = "run.json", "failure.json", ".lock", "evaluations"


def fingerprint(config: TrainConfig) -> str:
    """A hex digest, equal for equal configs. Fields at their default do not enter: new ones change nothing."""
    return _digest(_distinct(config))


def run_slug(config: TrainConfig) -> str:
    """A readable name of a run that ends in the start of its fingerprint."""
    parts = [
        *([config.model] if config.model != "baevski-auli" else []),
        config.size,
        describe_position(config.position),
        f"L{config.seq_len}",
        short_count(config.steps * config.batch_tokens),
        f"seed{config.seed}",
        fingerprint(config)[:8],
    ]
    return "-".join(slug(part) for part in parts)


def short_count(number: int) -> str:
    """A number of tokens as a few characters: 640, 2.05M, 21.1B."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return str(number)


def describe_position(position: dict[str, Any]) -> str:
    """The method and what it has beside its defaults, short."""
    parsed = parse_position(position)
    parts = [parsed.method]
    for name, value in _distinct(parsed).items():
        if isinstance(value, str):
            parts.append(value)
        elif isinstance(value, list | tuple):
            parts.append(f"{name} {value[0]:g} to {value[-1]:g}")
        elif isinstance(value, dict):
            parts.append(f"{name} {value.get('factor', '')}".strip())
        else:
            parts.append(f"{name} {value:g}")
    return " ".join(parts)


def slug(text: str) -> str:
    """Text as a part of a file name."""
    kept = "".join(c if c.isalnum() or c == "." else "-" for c in text.lower())
    return "-".join(part for part in kept.split("-") if part)


class RunFolders:
    """The run directories below one folder, by config; those that `wavepos train` made count as well.

    Args:
        root: folder whose subfolders are run directories; need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, list[Path]] = {}
        for path in sorted(root.glob(f"*/{RECORD}")):
            config = stored_config(path)
            if config is not None:
                self._known.setdefault(fingerprint(config), []).append(path.parent)

    def folder(self, config: TrainConfig) -> Path:
        """The directory that holds the run, finished rather than begun, or the one that it will have."""
        found = self._known.get(fingerprint(config), [])
        return min(found, key=lambda path: (not is_finished(path), path.name), default=self.root / run_slug(config))


def stored_config(path: Path) -> TrainConfig | None:
    """The config of a run.json, with today's defaults for fields it lacks; None where it cannot be read as one."""
    try:
        return TrainConfig(**json.loads(path.read_text(encoding="utf-8"))["config"])
    except (ValueError, TypeError, KeyError):
        return None


def read_record(folder: Path) -> dict[str, Any] | None:
    """run.json of a directory, or None."""
    path = folder / RECORD
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def is_finished(folder: Path) -> bool:
    """Whether the run in the directory was trained to its end."""
    record = read_record(folder)
    return record is not None and record.get("status") == "finished"


def evaluation_path(folder: Path, evaluation: Evaluation) -> Path:
    """Where the result of an evaluation of a run lies."""
    corpus = slug(evaluation.corpus or "own")[-40:]
    return folder / EVALUATIONS / f"{corpus}-{evaluation.split}-{_digest(_distinct(evaluation))[:8]}.json"


def _distinct(data: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their default, dataclasses in them likewise."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(data):
        value = getattr(data, field.name)
        if value == field.default:
            continue
        if field.name == "position":
            parsed = parse_position(value)
            value = {"method": parsed.method, **_distinct(parsed)}
        elif dataclasses.is_dataclass(value):
            value = {"rope_type": getattr(value, "rope_type", ""), **_distinct(value)}
        found[field.name] = value
    return found


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
