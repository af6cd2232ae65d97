"""What results hold of runs whose directories need not be here: their outcomes count as done and are reported again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wavepos.evaluate.retrieval import Retrieval
from wavepos.experiments.study import Evaluation, StudyRun
from wavepos.runs import fingerprint, stored_config
from wavepos.training.config import TrainConfig


class KnownOutcomes:
    """The outcomes in some results, by the config of their runs.

    Args:
        paths: of results, such as report.json of a report or results/NAME.json.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that is no result of runs of this version.
    """

    def __init__(self, paths: Sequence[Path] = ()) -> None:
        self._outcomes: dict[str, dict[str, Any]] = {}
        self._measured: dict[str, dict[str, dict[str, Any]]] = {}
        for path in paths:
            for outcome in _outcomes_in(path):
                try:
                    run = fingerprint(stored_config(TrainConfig, outcome))
                    measured = {_evaluation(record["evaluation"]): record for record in outcome["evaluations"]}
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{outcome.get('name')!r} in {path} is not of this version: {error}") from error
                self._outcomes.setdefault(run, outcome)
                self._measured.setdefault(run, {}).update(measured)

    def outcome(self, run: StudyRun) -> dict[str, Any] | None:
        """What is known of a run, as `study_result` holds it; None unless all of its evaluations are."""
        key = fingerprint(run.config)
        measured = self._measured.get(key, {})
        wanted = [fingerprint(evaluation) for evaluation in run.evaluations]
        if key not in self._outcomes or not set(wanted) <= set(measured):
            return None
        return {**self._outcomes[key], "name": run.name, "evaluations": [measured[one] for one in wanted]}


def _outcomes_in(path: Path) -> list[dict[str, Any]]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"known takes results of studies, got {path}, which is not JSON: {error}") from error
    outcomes = result.get("outcomes") if isinstance(result, dict) else None
    if not isinstance(outcomes, list) or not all(_is_outcome(outcome) for outcome in outcomes):
        raise ValueError(f"known takes results of studies that train, such as a report's report.json, got {path}")
    return outcomes


def _is_outcome(outcome: Any) -> bool:
    records = outcome.get("evaluations") if isinstance(outcome, dict) else None
    return isinstance(records, list) and all(
        isinstance(r, dict) and isinstance(r.get("evaluation"), dict) for r in records
    )


def _evaluation(fields: Mapping[str, Any]) -> str:
    return fingerprint(Retrieval(**fields) if "distances" in fields else Evaluation(**fields))
