"""A really small study: a text of a few words, models of four updates."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wavepos.experiments.study import Evaluation, Study, StudyRun
from wavepos.runs import environment
from wavepos.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    words = ["wave", "near", "far", "and", "of", "the", "<b>&amp;"]
    lines = [" ".join(rng.choice(words, size=9)) for _ in range(400)]
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"text:{path}"


@pytest.fixture(scope="session")
def small_config(corpus: str) -> Callable[..., TrainConfig]:
    def make(method: str = "nope", seed: int = 0, steps: int = 4) -> TrainConfig:
        return TrainConfig(
            size="tiny",
            position={"method": method},
            corpus=corpus,
            tokenizer="bpe:300",
            seq_len=16,
            steps=steps,
            batch_tokens=32,
            learning_rate=1e-3,
            warmup_steps=1,
            seed=seed,
            save_every=2,
            log_every=1,
        )

    return make


@pytest.fixture(scope="session")
def small_study(small_config: Callable[..., TrainConfig]) -> Callable[..., Study]:
    def make(methods: tuple[str, ...] = ("nope", "alibi"), seeds: int = 1, steps: int = 4) -> Study:
        evaluation = Evaluation(lengths=(8, 16, 32), tokens=128)
        runs = [
            StudyRun(name=method, config=small_config(method, seed, steps), evaluations=(evaluation,))
            for seed in range(seeds)
            for method in methods
        ]
        return Study(name="small", title="A small study", runs=tuple(runs), baseline=methods[0])

    return make


@pytest.fixture
def python() -> Callable[..., "subprocess.Popen[str]"]:
    """Start a Python process that imports this source tree."""

    def start(*arguments: str, cwd: Path) -> "subprocess.Popen[str]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return start


@pytest.fixture(scope="session")
def make_result(small_config: Callable[..., TrainConfig]) -> Callable[..., dict]:
    """A result with given mean losses: method to seed to nats per token, or to a list of them, one per length."""

    def make(losses: dict[str, dict[int, float | list[float]]], lengths: tuple[int, ...] = (16,)) -> dict:
        made = environment()
        outcomes = []
        for name, by_seed in losses.items():
            for seed, given in by_seed.items():
                nats = given if isinstance(given, list) else [given] * len(lengths)
                perplexities = [
                    {
                        "kind": "whole",
                        "seq_len": length,
                        "per_token": math.exp(value),
                        "per_word": math.exp(2.0 * value),
                        "tokens": 1000,
                        "nats": 1000.0 * value,
                        "bits_per_byte": value / 3.0,
                    }
                    for length, value in zip(lengths, nats, strict=True)
                ]
                outcomes.append(
                    {
                        "name": name,
                        "seed": seed,
                        "folder": f"{name}-{seed}",
                        "config": json.loads(json.dumps(dataclasses.asdict(small_config(seed=seed)))),
                        "parameters": 2_000_000,
                        "train_tokens": 128,
                        "train_seconds": 10.0 + seed,
                        "losses": [[1, 6.0], [4, 5.0]],
                        "environment": made,
                        "evaluations": [
                            {
                                "evaluation": dataclasses.asdict(Evaluation(lengths=lengths)),
                                "corpus": "text:/somewhere/else.txt",
                                "perplexities": perplexities,
                                "loss_by_place": [(0, 1, 6.0), (1, 16, 5.0)],
                            }
                        ],
                    }
                )
        return {
            "format": 1,
            "name": "made",
            "title": "A made-up result",
            "baseline": "RoPE",
            "outcomes": outcomes,
            "unfinished": [],
            "failures": [],
            "notes": [],
            "environment": made,
        }

    return make
