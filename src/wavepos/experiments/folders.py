"""Run directories of all studies, side by side in one folder, found by what they hold and not by their name."""

from pathlib import Path
from typing import Any

from wavepos.evaluate.retrieval import Retrieval
from wavepos.experiments.study import AnyEvaluation
from wavepos.runs import RECORD, fingerprint, read_run, run_name, slug, stored_config
from wavepos.storage import read_record
from wavepos.training.config import TrainConfig

DEFAULT_RUNS = Path("runs/studies")
FAILURE, LOCK, EVALUATIONS, RETRIEVALS = "failure.json", ".lock", "evaluations", "retrieval"


def short_count(number: int) -> str:
    """A number of tokens as a few characters: 640, 2.05M, 21.1B."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return str(number)


class RunFolders:
    """The run directories below one folder, by config; those that `wavepos train` made count as well.

    Args:
        root: folder whose subfolders are run directories; need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, list[Path]] = {}
        for path in sorted(root.glob(f"*/{RECORD}")):
            config = config_in(path.parent)
            if config is not None:
                self._known.setdefault(fingerprint(config), []).append(path.parent)

    def folder(self, config: TrainConfig) -> Path:
        """The directory that holds the run, finished rather than begun, or the one that it will have."""
        found = self._known.get(fingerprint(config), [])
        return min(
            found, key=lambda path: (not is_finished(path), path.name), default=self.root / run_name(config, exact=True)
        )


def config_in(folder: Path) -> TrainConfig | None:
    """The config of the run in a directory; None where there is none, or none of this version."""
    record = _record(folder)
    try:
        return None if record is None else stored_config(TrainConfig, record)
    except ValueError:
        return None


def _record(folder: Path) -> dict[str, Any] | None:
    """run.json of a directory, or None; ValueError if it is damaged."""
    return read_run(folder) if (folder / RECORD).exists() else None


def is_finished(folder: Path) -> bool:
    """Whether the run in the directory was trained to its end."""
    record = _record(folder)
    return record is not None and record.get("status") == "finished"


def evaluation_path(folder: Path, evaluation: AnyEvaluation) -> Path:
    """Where the result of an evaluation of a run lies."""
    if isinstance(evaluation, Retrieval):
        return folder / RETRIEVALS / f"{fingerprint(evaluation)[:8]}.json"
    corpus = slug(evaluation.corpus or "own")
    return folder / EVALUATIONS / f"{corpus}-{evaluation.split}-{fingerprint(evaluation)[:8]}.json"


def read_evaluation(path: Path) -> dict[str, Any]:
    """The result of an evaluation of a run.

    Raises:
        ValueError: it is damaged.
    """
    advice = "delete it, and the study's command measures it again"
    record = read_record(path, advice)
    if not isinstance(record.get("evaluation"), dict):
        raise ValueError(f"{path} holds no evaluation: {advice}")
    return record
