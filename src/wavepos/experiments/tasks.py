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

from wavepos.console import Update
from wavepos.data import TokenFile, open_corpus, open_probe, prepare_split, prepare_training
from wavepos.data.probe_tasks import is_probe
from wavepos.evaluate.perplexity import Perplexity, evaluate_protocols, perplexity_record, table_protocols
from wavepos.evaluate.retrieval import Retrieval, measure_retrieval, recalled_record, spots
from wavepos.evaluate.run import text_size
from wavepos.experiments.folders import FAILURE, LOCK, RunFolders, evaluation_path, is_finished
from wavepos.experiments.study import AnyEvaluation, Evaluation, Study
from wavepos.models.loading import default_device, load_model, load_saved_tokenizer
from wavepos.positions.user_modules import import_all
from wavepos.runs import MODEL, environment, write_json
from wavepos.training.config import TrainConfig, uses_bf16
from wavepos.training.trainer import train

LOCK_SECONDS = 0.1
WAIT_SECONDS = 2.0
"""Between looks at a run that another process works on."""
_KINDS: dict[str, type[AnyEvaluation]] = {kind.__name__: kind for kind in (Evaluation, Retrieval)}


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
    evaluations: tuple[AnyEvaluation, ...]
    imports: tuple[str, ...] = ()
    begins_with: TrainConfig | None = None

    @property
    def is_done(self) -> bool:
        """Whether it is trained and everything measured."""
        return is_finished(self.folder) and not self.missing

    @property
    def missing(self) -> tuple[AnyEvaluation, ...]:
        """What is not measured yet."""
        return tuple(e for e in self.evaluations if not evaluation_path(self.folder, e).exists())

    def to_json(self) -> str:
        """For another process; `task_from_json` reads it."""
        evaluations = [{"kind": type(e).__name__, **dataclasses.asdict(e)} for e in self.evaluations]
        return json.dumps({**dataclasses.asdict(self), "folder": str(self.folder), "evaluations": evaluations})


def task_from_json(text: str) -> Task:
    """The task that `Task.to_json` wrote; first imports what it names."""
    fields: dict[str, Any] = json.loads(text)
    import_all(fields["imports"])
    return Task(
        title=fields["title"],
        folder=Path(fields["folder"]),
        config=TrainConfig(**fields["config"]),
        evaluations=tuple(_KINDS[e.pop("kind")](**e) for e in fields["evaluations"]),
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
        open_probe(corpus) if is_probe(corpus) else open_corpus(corpus)
    read = dict.fromkeys(_text(evaluation) for run in study.runs for evaluation in run.evaluations)
    for corpus in (text for text in read if text is not None):
        try:
            open_corpus(corpus)
        except FileNotFoundError as error:
            absent[corpus] = f"Not read, for it is not here: {error}"
    runs = (
        dataclasses.replace(run, evaluations=tuple(e for e in run.evaluations if _text(e) not in absent))
        for run in study.runs
    )
    return dataclasses.replace(study, runs=tuple(runs)), list(absent.values())


def _text(evaluation: AnyEvaluation) -> str | None:
    """The text that is read beside that of the training, if any."""
    return evaluation.corpus if isinstance(evaluation, Evaluation) else None


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
    data = prepare_training(
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


def _evaluate(folder: Path, config: TrainConfig, evaluations: Sequence[AnyEvaluation], update: Update) -> None:
    for evaluation in evaluations:
        started = time.monotonic()
        if isinstance(evaluation, Retrieval):
            record = _retrieval(folder, config, evaluation, update)
        else:
            record = _perplexity(folder, config, evaluation, update)
        whole = {
            "evaluation": dataclasses.asdict(evaluation),
            **record,
            "precision": "bf16" if uses_bf16(config.precision) else "fp32",
            "seconds": round(time.monotonic() - started, 1),
            "environment": environment(),
        }
        write_json(evaluation_path(folder, evaluation), whole)


def _perplexity(folder: Path, config: TrainConfig, evaluation: Evaluation, update: Update) -> dict[str, Any]:
    tokenizer = load_saved_tokenizer(folder / MODEL)
    corpus = evaluation.corpus or config.corpus
    bound = None if evaluation.tokens is None else evaluation.tokens + 1
    tokens = prepare_split(corpus, evaluation.split, tokenizer, max_tokens=bound, ended=False)
    results = _perplexities(folder, config, evaluation, tokens, update)
    whole = next((result for result in reversed(results) if result.protocol.kind == "whole"), None)
    return {
        "corpus": corpus,
        "tokens": tokens.num_tokens - 1,
        "bytes": tokens.num_bytes,
        "perplexities": [perplexity_record(result) for result in results],
        "loss_by_position": None if whole is None else [round(value, 4) for value in whole.loss_by_position],
    }


def _perplexities(
    folder: Path, config: TrainConfig, evaluation: Evaluation, tokens: TokenFile, update: Update
) -> list[Perplexity]:
    protocols = table_protocols(evaluation.lengths, config.seq_len, evaluation.protocols)
    model, device = _model(folder, evaluation)
    with torch.autocast(device, torch.bfloat16, uses_bf16(config.precision)):
        return evaluate_protocols(
            model.token_losses,
            tokens.ids,
            protocols,
            text=text_size(tokens),
            device=device,
            update=lambda done, total, note="": update(done, total, f"reading {tokens.corpus}: {note}"),
        )


def _retrieval(folder: Path, config: TrainConfig, evaluation: Retrieval, update: Update) -> dict[str, Any]:
    probe = open_probe(config.corpus)
    model, device = _model(folder, evaluation)
    with torch.autocast(device, torch.bfloat16, uses_bf16(config.precision)):
        recalled = measure_retrieval(
            lambda ids: model(input_ids=ids, use_cache=False).logits,
            probe,
            spots(probe, config.seq_len, evaluation),
            evaluation,
            device=device,
            update=update,
        )
    return {"probe": probe.name, "chance": probe.chance, "recalled": [recalled_record(one) for one in recalled]}


def _model(folder: Path, evaluation: AnyEvaluation) -> tuple[Any, str]:
    device = default_device()
    model: Any = load_model(folder / MODEL, position=evaluation.read_with)
    return model.to(device), device
