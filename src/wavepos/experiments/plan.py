"""What a study would do: its runs with parameters, tokens, time on this machine and memory, without training any."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from wavepos.console import console, progress
from wavepos.data import open_probe
from wavepos.evaluate.retrieval import Retrieval, spots
from wavepos.experiments.folders import is_finished, short_count
from wavepos.experiments.study import AnyEvaluation, Study
from wavepos.experiments.tasks import Task
from wavepos.models.loading import default_device
from wavepos.positions import parse_layers
from wavepos.positions.layers import with_each
from wavepos.runs import RECORD, environment, slug
from wavepos.storage import write_json
from wavepos.training.build import build_model
from wavepos.training.config import TrainConfig, uses_bf16
from wavepos.training.memory import memory_plan, planned_vocabulary

SPEEDS = "speeds.json"
MEASURED_TOKENS = 2048
REPEATS = 3
SLOW_SECONDS = 2.0
FORWARD_SHARE = 1.0 / 3.0
"""Of a training step's time: a forward pass is about a third of it."""
EQUAL_LENGTH = 768
"""Tokens at which attention costs the small models of probes as much as all else."""


def print_study_plan(study: Study, tasks: Sequence[Task], root: Path) -> None:
    """Print every run of a study, and what all that is missing takes.

    Args:
        study: the study.
        tasks: as `plan_tasks` gives them.
        root: folder of the run directories; measured speeds are kept there.
    """
    speeds = Speeds(root / SPEEDS)
    table = Table("row", "run", "parameters", "tokens", "minutes here", "GiB", "state", title=study.title)
    missing = 0.0
    with progress("Measuring a step of each kind of model") as update:
        for number, task in enumerate(tasks):
            update(number, len(tasks), task.title)
            vocab_size, _ = planned_vocabulary(task.config.tokenizer)
            memory = memory_plan(task.config, vocab_size)
            seconds = _seconds(task, speeds, vocab_size)
            missing += seconds
            rows = [str(study.rows.index(run.name) + 1) for run in study.runs if run.config == task.config]
            table.add_row(
                ", ".join(dict.fromkeys(rows)),
                task.folder.name,
                f"{int(memory['parameters']):,}",
                short_count(task.config.steps * task.config.batch_tokens),
                f"{seconds / 60.0:.1f}",
                f"{memory['total']:.2f}",
                _state(task),
            )
    console.print(table)
    for number, name in enumerate(study.rows, start=1):
        console.print(f"row {number}: {name}", markup=False, highlight=False)
    for note in study.notes:
        console.print(note, markup=False, highlight=False)
    console.print(
        f"{len(tasks)} runs; what is missing takes about {missing / 3600.0:.1f} hours on this machine, one at a time",
        highlight=False,
    )


class Speeds:
    """Seconds per training token on this machine, measured once per kind of model and kept.

    Args:
        path: file of what was measured before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def seconds_per_token(self, config: TrainConfig, vocab_size: int) -> float:
        """Of forward and backward pass at the trained length."""
        made = environment()
        machine = made["gpu"] or f"{made['cpu']} {made['threads']} threads"
        parts = (machine, config.model, config.size, _kind(config), str(config.seq_len), config.precision)
        key = " ".join(slug(str(part)) for part in parts)
        if key not in self._known:
            self._known[key] = measure(config, vocab_size)
            write_json(self._path, self._known)
        return self._known[key]


def measure(config: TrainConfig, vocab_size: int) -> float:
    """Seconds per token of the quickest of a few steps on random tokens; of one block alone where that is slow."""
    device = default_device()
    model = build_model(config, vocab_size).to(device).train()
    generator = torch.Generator().manual_seed(0)

    def step(blocks: int) -> float:
        ids = torch.randint(vocab_size, (blocks, config.seq_len), generator=generator).to(device)
        started = time.monotonic()
        with torch.autocast(device, torch.bfloat16, uses_bf16(config.precision)):
            loss = model(input_ids=ids, shift_labels=ids).loss
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.monotonic() - started) / ids.numel()

    first = min(step(1), step(1))  # the first of all loads libraries
    if first * config.seq_len > SLOW_SECONDS:
        return first
    share = min(config.micro_batch_tokens or config.batch_tokens, MEASURED_TOKENS)
    return min(step(max(1, share // config.seq_len)) for _ in range(REPEATS))


def _kind(config: TrainConfig) -> str:
    """What a step's time depends on: the method and its mother wavelet, not its numbers."""

    def kind(parsed: Any) -> str:
        window = f" window {parsed.window}" if parsed.window else ""
        return f"{parsed.method} {getattr(parsed, 'wavelet', '')} {getattr(parsed, 'query_bias', None) or ''}{window}"

    kinds = with_each(parse_layers(config.position), kind)
    return kinds if isinstance(kinds, str) else json.dumps(kinds)


def _seconds(task: Task, speeds: Speeds, vocab_size: int) -> float:
    """Of what is missing of a task."""
    train_tokens = 0 if is_finished(task.folder) else task.config.steps * task.config.batch_tokens
    read = sum(_tokens_read(evaluation, task.config) for evaluation in task.missing)
    if not train_tokens and not read:
        return 0.0
    return speeds.seconds_per_token(task.config, vocab_size) * (train_tokens + FORWARD_SHARE * read)


def _tokens_read(evaluation: AnyEvaluation, config: TrainConfig) -> float:
    """Tokens of forward passes: sliding windows are read twice, the division into L_train once for all lengths."""
    if isinstance(evaluation, Retrieval):
        probe = open_probe(config.corpus)
        lengths = [spot.length for spot in spots(probe, config.seq_len, evaluation)]
        examples = -(-evaluation.questions // probe.questions)
        return examples * sum(length * (1.0 + length / EQUAL_LENGTH) for length in lengths)
    tokens = evaluation.tokens or 250_000
    times = {"nonoverlapping": 1.0 / len(evaluation.lengths), "whole": 1.0, "sliding": 2.0}
    return tokens * len(evaluation.lengths) * sum(times[kind] for kind in evaluation.protocols)


def _state(task: Task) -> str:
    if task.is_done:
        return "done"
    if is_finished(task.folder):
        return f"{len(task.missing)} to measure"
    return "begun" if (task.folder / RECORD).exists() else "new"
