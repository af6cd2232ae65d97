"""The main job: small models, one a positional method, trained alike on real text and read at many lengths."""

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wavepos.console import console, progress
from wavepos.data import PreparedData, prepare, prepare_split
from wavepos.evaluate import evaluate_protocols, perplexity_record, table_protocols
from wavepos.evaluate.run import text_size
from wavepos.models.loading import load_model
from wavepos.positions import parse_position, position_dict
from wavepos.runs import MODEL, environment, opened_record, run_name, write_json
from wavepos.training.build import build_model
from wavepos.training.config import TrainConfig, uses_bf16
from wavepos.training.trainer import train

METHODS: dict[str, dict[str, Any]] = {
    "NoPE": {"method": "nope"},
    "RoPE": {"method": "rotary"},
    "Transformer-XL": {"method": "transformer_xl"},
    "ALiBi": {"method": "alibi"},
    "Wavelet": {"method": "wavelet"},
    "Wavelet, recency start": {"method": "wavelet", "query_bias": "recency"},
}
LENGTH_FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0)
DEFAULT_MINUTES = 10.0
STEPS_IN_DEFAULT_MINUTES = 320
FEWEST_STEPS = 20
SHARE_FOR_TRAINING = 0.8
SCORED_TOKENS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """What the comparison covers.

    Attributes:
        methods: name in the table to the position's JSON object.
        seeds: seeds 0 … seeds − 1 are run for each method.
        corpus: as `wavepos.data.prepare` takes it.
        minutes: time that all of it may take; the updates a model gets follow from it and are the same for all.
        size, tokenizer, seq_len, batch_tokens, learning_rate: of each model and its training.
    """

    methods: dict[str, dict[str, Any]]
    seeds: int = 1
    corpus: str = "stdlib"
    minutes: float = DEFAULT_MINUTES
    tokenizer: str = "bpe:2048"
    seq_len: int = 128
    batch_tokens: int = 2048
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")
        if not self.minutes > 0.0:
            raise ValueError(f"minutes must be positive, got {self.minutes}")

    def run(self, position: dict[str, Any], seed: int, steps: int) -> TrainConfig:
        """The training of one method with one seed."""
        return TrainConfig(
            size="tiny",
            position=position,
            corpus=self.corpus,
            tokenizer=self.tokenizer,
            seq_len=self.seq_len,
            steps=steps,
            batch_tokens=self.batch_tokens,
            learning_rate=self.learning_rate,
            warmup_steps=min(30, steps // 5),
            seed=seed,
            save_every=10 * max(1, steps // 40),
        )


def select_methods(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Methods by their name in the table (any case), by method name, or as a JSON object.

    Raises:
        ValueError: an unknown name or config.
    """
    known = {name.lower(): name for name in METHODS}
    chosen: dict[str, dict[str, Any]] = {}
    for name in names:
        if name.lower() in known:
            chosen[known[name.lower()]] = METHODS[known[name.lower()]]
            continue
        try:
            position = position_dict(parse_position(name))
        except ValueError as error:
            raise ValueError(
                f"methods takes {', '.join(map(repr, METHODS))}, a method's name or a JSON object: {error}"
            ) from error
        shown = (title for title, method in METHODS.items() if position_dict(parse_position(method)) == position)
        chosen[next(shown, name)] = position
    return chosen


def demo(config: DemoConfig, out: Path) -> dict[str, Any]:
    """Run the comparison, or what is missing of it, and return its result.

    Args:
        config: what to compare.
        out: directory of the runs and of results.json.

    Returns:
        Methods, lengths, perplexities by protocol, losses by position, learning curves, environment.
    """
    with progress("Reading the corpus") as update:
        data = prepare(
            config.corpus,
            config.tokenizer,
            progress=lambda stage, done, total: update(done, total, stage),
        )
    console.print(
        f"{config.corpus}: {data.train.num_tokens:,} tokens to train on, "
        f"{min(SCORED_TOKENS, data.valid.num_tokens - 1):,} to score",
        highlight=False,
    )
    steps = _steps(config, data, out)
    folder = out / "runs" / f"{steps}-updates"
    outcomes: list[dict[str, Any]] = []
    for seed in range(config.seeds):
        for name, position in config.methods.items():
            run = config.run(position, seed, steps)
            title = f"{len(outcomes) + 1}/{config.seeds * len(config.methods)} {name}"
            outcomes.append(_outcome(name, run, folder / run_name(run), data, title))
    result = {
        "config": dataclasses.asdict(config),
        "steps": steps,
        "scored_tokens": min(SCORED_TOKENS, data.valid.num_tokens - 1),
        "lengths": lengths(config),
        "outcomes": outcomes,
        "environment": environment(),
    }
    write_json(out / "results.json", result)
    return result


def lengths(config: DemoConfig) -> list[int]:
    """The lengths read: 0.5 to 8 times L_train."""
    return _lengths(config.seq_len)


def _lengths(train_len: int) -> list[int]:
    return [max(1, int(factor * train_len)) for factor in LENGTH_FACTORS]


def _outcome(name: str, run: TrainConfig, folder: Path, data: PreparedData, title: str) -> dict[str, Any]:
    """Train and evaluate one model, or read what was found before."""
    path = folder / "outcome.json"
    if path.exists():
        opened_record(run, folder, data)  # refuses what was trained on other text
        console.print(f"{title}: found in {folder}", highlight=False, markup=False)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    with progress(title) as update:
        last = time.monotonic()

        def observe(step: int, steps: int, loss: float | None) -> None:
            nonlocal last
            speed, last = run.batch_tokens / max(1e-9, time.monotonic() - last), time.monotonic()
            update(step, steps, f"loss {loss:.2f}, {speed / 1000:.1f}k tokens/s" if loss is not None else "")

        record = train(run, folder, data, observe)
    model: Any = load_model(folder / MODEL)
    scored_text = prepare_split(run.corpus, "valid", data.tokenizer, max_tokens=SCORED_TOKENS + 1, ended=False)
    protocols = table_protocols(_lengths(run.seq_len), run.seq_len)
    with progress(f"{title}: reading") as update, torch.autocast("cpu", torch.bfloat16, uses_bf16(run.precision)):
        scored = 0

        def count(targets: int) -> None:
            nonlocal scored
            scored += targets
            update(scored, len(protocols) * (scored_text.num_tokens - 1), f"{scored:,} tokens scored")

        perplexities = evaluate_protocols(
            model.token_losses,
            scored_text.ids,
            protocols,
            text=text_size(scored_text),
            progress=count,
        )
    longest = next(p for p in reversed(perplexities) if p.protocol.kind == "whole")
    outcome = {
        "name": name,
        "position": run.position,
        "seed": run.seed,
        "parameters": record["parameters"],
        "train_tokens": record["train_tokens"],
        "train_seconds": record["train_seconds"],
        "losses": record["losses"],
        "perplexities": [perplexity_record(result) for result in perplexities],
        "environment": environment(),
        "loss_by_position": [round(value, 4) for value in longest.loss_by_position],
    }
    write_json(path, outcome)
    return outcome


def _steps(config: DemoConfig, data: PreparedData, out: Path) -> int:
    """Updates each model gets: fixed by `minutes`, or fewer where this machine would not be done by then.

    Measured once and kept, so that a second run finds the same runs.
    """
    path = out / "plans.json"
    plans: dict[str, int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    runs = config.seeds * len(config.methods)
    key = f"{config.corpus} {config.tokenizer} {config.minutes:g} minutes {runs} runs"
    if key not in plans:
        seconds = _seconds_per_update(config, data)
        fitting = int(SHARE_FOR_TRAINING * config.minutes * 60.0 / runs / seconds)
        if fitting < FEWEST_STEPS:
            raise ValueError(
                f"minutes={config.minutes:g} leaves {max(0, fitting)} updates a model on this machine "
                f"({seconds:.2f} s an update, {runs} models), at least {FEWEST_STEPS} are needed: "
                f"give more minutes or fewer methods or seeds"
            )
        plans[key] = min(fitting, round(STEPS_IN_DEFAULT_MINUTES * config.minutes / DEFAULT_MINUTES))
        console.print(f"{seconds:.2f} s an update: {plans[key]} updates a model", highlight=False)
        write_json(path, plans)
    return plans[key]


def _seconds_per_update(config: DemoConfig, data: PreparedData) -> float:
    """Seconds of the quickest of a few updates of a wavelet method, or of the first: what the machine can do."""
    positions = sorted(config.methods.values(), key=lambda position: position["method"] != "wavelet")
    run = config.run(positions[0], 0, FEWEST_STEPS)
    model = build_model(run, len(data.tokenizer)).train()
    ids = torch.from_numpy(data.train.ids[: run.batch_tokens].astype("int64")).view(-1, run.seq_len)
    times = []
    for _ in range(6):
        started = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16, uses_bf16(run.precision)):
            loss = model(ids, labels=ids).loss
        loss.backward()
        times.append(time.monotonic() - started)
    return min(times)
