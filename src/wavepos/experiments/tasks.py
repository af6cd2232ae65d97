"""One run of a study: train it or find it, then measure what is asked and not yet known. One process at a time."""

import dataclasses
import json
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from transformers import AutoTokenizer

from wavepos.console import Update
from wavepos.data import TokenFile, open_corpus, prepare, prepare_split
from wavepos.evaluate.perplexity import Perplexity, evaluate_protocols, perplexity_record, table_protocols
from wavepos.evaluate.run import text_size
from wavepos.experiments.folders import FAILURE, LOCK, RunFolders, evaluation_path, is_finished
from wavepos.experiments.study import Evaluation, Study
from wavepos.models.loading import load_model
from wavepos.positions.user_modules import import_all
from wavepos.runs import MODEL, environment, write_json
from wavepos.training.config import TrainConfig, uses_bf16
from wavepos.training.trainer import train

LOCK_SECONDS = 0.1
WAIT_SECONDS = 2.0
"""Between looks at a run that another process works on."""


class Busy(Exception):
    """Another process works on the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run directory and all that a study wants of it.

    Attributes:
        title: for progress.
        folder: the run directory.
        config: of the training.
        evaluations: each once.
        imports: modules, or users' .py files, that register what the config needs: for every process at the task.
        begins_with: config of the run, in the same folder of runs, that it goes on from.
    """

    title: str
    folder: Path
    config: TrainConfig
    evaluations: tuple[Evaluation, ...]
    imports: tuple[str, ...] = ()
    begins_with: TrainConfig | None = None

    @property
    def is_done(self) -> bool:
        """Whether it is trained and everything measured."""
        return is_finished(self.folder) and not self.missing

    @property
    def missing(self) -> tuple[Evaluation, ...]:
        """What is not measured yet."""
        return tuple(e for e in self.evaluations if not evaluation_path(self.folder, e).exists())

    def to_json(self) -> str:
        """For another process; `task_from_json` reads it."""
        return json.dumps({**dataclasses.asdict(self), "folder": str(self.folder)})


def task_from_json(text: str) -> Task:
    """The task that `Task.to_json` wrote; first imports what it names."""
    fields: dict[str, Any] = json.loads(text)
    import_all(fields["imports"])
    return Task(
        title=fields["title"],
        folder=Path(fields["folder"]),
        config=TrainConfig(**fields["config"]),
        evaluations=tuple(Evaluation(**evaluation) for evaluation in fields["evaluations"]),
        imports=tuple(fields["imports"]),
        begins_with=None if fields["begins_with"] is None else TrainConfig(**fields["begins_with"]),
    )


def without_absent_corpora(study: Study) -> tuple[Study, list[str]]:
    """The study without evaluations on texts that are not here, and a sentence about each such text.

    Raises:
        FileNotFoundError, ValueError: a corpus to train on is not here.
    """
    absent: dict[str, str] = {}
    for corpus in dict.fromkeys(run.config.corpus for run in study.runs):
        open_corpus(corpus)
    for corpus in dict.fromkeys(e.corpus for run in study.runs for e in run.evaluations if e.corpus is not None):
        try:
            open_corpus(corpus)
        except FileNotFoundError as error:
            absent[corpus] = f"Not read, for it is not here: {error}"
    runs = (
        dataclasses.replace(run, evaluations=tuple(e for e in run.evaluations if e.corpus not in absent))
        for run in study.runs
    )
    return dataclasses.replace(study, runs=tuple(runs)), list(absent.values())


def perform(task: Task, update: Update) -> None:
    """Train and measure what is missing of a task.

    Raises:
        Busy: another process works on it.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the training's state has been saved.
        Exception: whatever went wrong; it is also written into the directory, until the run succeeds.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(task.folder / LOCK, timeout=LOCK_SECONDS):
            (task.folder / FAILURE).unlink(missing_ok=True)
            try:
                if not is_finished(task.folder):
                    _train(task, update)
                _evaluate(task.folder, task.config, task.missing, update)
            except Exception as error:
                write_failure(task.folder, f"{type(error).__name__}: {error}", traceback.format_exc())
                raise
    except Timeout as error:
        raise Busy(f"another process works on {task.folder}") from error


def is_busy(folder: Path) -> bool:
    """Whether another process works on the run in the directory."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0.0):
            return False
    except Timeout:
        return True


def write_failure(folder: Path, error: str, details: str) -> None:
    """Say in the directory why its run failed."""
    write_json(folder / FAILURE, {"error": error, "details": details})


def _train(task: Task, update: Update) -> None:
    config = task.config
    data = prepare(
        config.corpus,
        config.tokenizer,
        max_tokens=config.max_tokens,
        update=lambda done, total, note="": update(done, total, f"reading {note}"),
    )
    train(config, task.folder, data, update, imports=task.imports, weights=_weights(task, update))


def _weights(task: Task, update: Update) -> Path | None:
    """Where the model lies that a run goes on from; trained here, or waited for, if it is not there yet."""
    if task.begins_with is None:
        return None
    parent = Task(
        title="the run that it goes on from",
        folder=RunFolders(task.folder.parent).folder(task.begins_with),
        config=task.begins_with,
        evaluations=(),
        imports=task.imports,
    )
    while not is_finished(parent.folder):
        try:
            perform(parent, update)
        except Busy:
            update(0.0, None, f"waiting for {parent.folder.name}")
            time.sleep(WAIT_SECONDS)
    return parent.folder / MODEL


def _evaluate(folder: Path, config: TrainConfig, evaluations: Sequence[Evaluation], update: Update) -> None:
    if not evaluations:
        return
    tokenizer = AutoTokenizer.from_pretrained(folder / MODEL)
    for evaluation in evaluations:
        corpus = evaluation.corpus or config.corpus
        started = time.monotonic()
        bound = None if evaluation.tokens is None else evaluation.tokens + 1
        tokens = prepare_split(corpus, evaluation.split, tokenizer, max_tokens=bound, ended=False)
        results = _perplexities(folder, config, evaluation, tokens, update)
        whole = next((result for result in reversed(results) if result.protocol.kind == "whole"), None)
        record = {
            "evaluation": dataclasses.asdict(evaluation),
            "corpus": corpus,
            "tokens": tokens.num_tokens - 1,
            "bytes": tokens.num_bytes,
            "precision": "bf16" if uses_bf16(config.precision) else "fp32",
            "perplexities": [perplexity_record(result) for result in results],
            "loss_by_position": None if whole is None else [round(value, 4) for value in whole.loss_by_position],
            "seconds": round(time.monotonic() - started, 1),
            "environment": environment(),
        }
        write_json(evaluation_path(folder, evaluation), record)


def _perplexities(
    folder: Path, config: TrainConfig, evaluation: Evaluation, tokens: TokenFile, update: Update
) -> list[Perplexity]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = load_model(folder / MODEL, position=evaluation.read_with).to(device)
    protocols = table_protocols(evaluation.lengths, config.seq_len, evaluation.protocols)
    with torch.autocast(device, torch.bfloat16, uses_bf16(config.precision)):
        return evaluate_protocols(
            model.token_losses,
            tokens.ids,
            protocols,
            text=text_size(tokens),
            device=device,
            update=lambda done, total, note="": update(done, total, f"reading {tokens.corpus}: {note}"),
        )
