"""What the runs of a study, or any run directories, gave: one JSON object that reports are made of."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from wavepos.data.probe_tasks import is_probe
from wavepos.experiments.folders import (
    EVALUATIONS,
    RunFolders,
    config_in,
    evaluation_path,
    is_finished,
    read_evaluation,
)
from wavepos.experiments.known import KnownOutcomes
from wavepos.experiments.study import Method, Study, comparable
from wavepos.positions import parse_layers
from wavepos.runs import OF_FINISHED, RECORD, check_fields, environment, finished_run, position_name, read_run
from wavepos.training.config import TrainConfig

FORMAT = 1
"""Of the result: raise it when its fields change their meaning."""
BINS = 32


def study_result(
    study: Study, root: Path, failures: Sequence[tuple[str, str]] = (), known: KnownOutcomes | None = None
) -> dict[str, Any]:
    """The result of a study as far as its runs are finished.

    Args:
        study: the study.
        root: folder of the run directories.
        failures: title and error of the runs that failed.
        known: outcomes of other places, for what is not done in root.

    Returns:
        {"name", "title", "baseline", "outcomes", "unfinished", "failures", "notes", "environment"}; an outcome is a
        row of one seed: name, seed, config, parameters, tokens, seconds, losses and evaluations.
    """
    folders = RunFolders(root)
    outcomes, unfinished = [], []
    for run in study.runs:
        folder = folders.folder(run.config)
        found = [path for e in run.evaluations if (path := evaluation_path(folder, e)).exists()]
        done = is_finished(folder) and len(found) == len(run.evaluations)
        if not done and known is not None and (held := known.outcome(run)) is not None:
            outcomes.append(held)
            continue
        if is_finished(folder) and (found or not run.evaluations):
            outcomes.append(_outcome(run.name, run.config, folder, found))
        if not done:
            unfinished.append(f"{run.name}, seed {run.config.seed}")
    return {
        "format": FORMAT,
        "name": study.name,
        "title": study.title,
        "baseline": study.baseline,
        "outcomes": outcomes,
        "unfinished": unfinished,
        "failures": [{"run": title, "error": error} for title, error in failures],
        "notes": list(study.notes),
        "published": study.published,
        "facts": {name: dict(facts) for name, facts in study.facts.items()},
        "environment": environment(),
    }


def runs_result(
    directories: Sequence[Path], baseline: str | None, methods: Callable[[int], Mapping[str, Method]]
) -> dict[str, Any]:
    """The result of any finished run directories, with all evaluations that a study has left in them.

    Args:
        directories: of runs; a folder of run directories stands for all in it.
        baseline: name of a method, or None: RoPE where it is among them, else the first.
        methods: for a trained length, the methods that have a name in tables; others go by `position_name`.

    Raises:
        FileNotFoundError, ValueError: no run there, or an unfinished one; a baseline that is not among them.
    """
    outcomes: list[dict[str, Any]] = []
    probes: list[str] = []
    for folder in _run_directories(directories):
        finished_run(folder)
        config = config_in(folder)
        if config is None:
            raise ValueError(f"the config in {folder / RECORD} is not one of this version")
        if is_probe(config.corpus):
            probes.append(folder.name)
        else:
            outcomes += _by_reading(folder, config, methods(config.seq_len))
    if not outcomes:
        raise ValueError(
            f"runs must hold one on a text, got {len(probes)} on probes: `wavepos study retrieval` has those"
        )
    _tell_apart(outcomes)
    found = list(dict.fromkeys(outcome["name"] for outcome in outcomes))
    if baseline is not None and baseline not in found:
        raise ValueError(f"baseline must be one of {', '.join(map(repr, found))}, got {baseline!r}")
    return {
        "format": FORMAT,
        "name": "runs",
        "title": f"{len(outcomes)} runs compared",
        "baseline": baseline or ("RoPE" if "RoPE" in found else found[0]),
        "outcomes": outcomes,
        "unfinished": [],
        "failures": [],
        "notes": [f"Runs on probes, left to `wavepos study retrieval`: {', '.join(probes)}."] if probes else [],
        "environment": environment(),
    }


def _tell_apart(outcomes: Sequence[dict[str, Any]]) -> None:
    """Runs that would stand in one cell of a table get their directories' names."""
    cells = [(o["name"], o["seed"], *comparable(o["config"])) for o in outcomes]
    for outcome, cell in zip(outcomes, cells, strict=True):
        if cells.count(cell) > 1:
            outcome["name"] += f" ({outcome['folder']})"


def _run_directories(directories: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for directory in directories:
        inside = [path.parent for path in sorted(directory.glob(f"*/{RECORD}")) if is_finished(path.parent)]
        found += [directory] if (directory / RECORD).exists() or not inside else inside
    return list(dict.fromkeys(found))


def _by_reading(folder: Path, config: TrainConfig, methods: Mapping[str, Method]) -> list[dict[str, Any]]:
    """One outcome per position that the run was read with: a row each."""
    trained = parse_layers(config.position)
    known = {name: method for name, method in methods.items() if parse_layers(method.position) == trained}

    def named(read_with: Any) -> str:
        of_table = next((name for name, method in known.items() if method.read_with == read_with), None)
        if of_table is not None or read_with is None:
            return of_table or position_name(config)
        return f"{named(None)}, read with {json.dumps(read_with)}"

    groups: dict[str, list[Path]] = {named(None): []}
    for path in sorted((folder / EVALUATIONS).glob("*.json")):
        read_with = read_evaluation(path)["evaluation"]["read_with"]
        groups.setdefault(named(read_with), []).append(path)
    return [_outcome(row, config, folder, paths) for row, paths in groups.items() if paths or row == named(None)]


def _outcome(name: str, config: TrainConfig, folder: Path, evaluations: Sequence[Path]) -> dict[str, Any]:
    record = read_run(folder)
    check_fields(record, OF_FINISHED, folder)
    return {
        "name": name,
        "seed": config.seed,
        "folder": folder.name,
        "config": record["config"],
        **{key: value for key, value in record.items() if key not in ("status", "config")},
        "evaluations": [_shortened(read_evaluation(path)) for path in evaluations],
    }


def _shortened(evaluation: dict[str, Any]) -> dict[str, Any]:
    """An evaluation as a result holds it: the losses by place in bins, the environment of the run alone."""
    kept = {key: value for key, value in evaluation.items() if key not in ("environment", "loss_by_position")}
    if "recalled" in evaluation:
        return kept
    losses = evaluation["loss_by_position"]
    return {**kept, "loss_by_place": None if losses is None else binned(losses)}


def binned(losses: Sequence[float]) -> list[tuple[int, int, float]]:
    """Means of the losses from place start up to, without, place stop, in bins that widen with the place."""
    edges = sorted({round(len(losses) ** (i / BINS)) for i in range(BINS + 1)} | {0})
    return [(start, stop, round(sum(losses[start:stop]) / (stop - start), 4)) for start, stop in pairwise(edges)]
