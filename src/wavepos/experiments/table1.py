"""The paper's Table 1 at three sizes, and a ladder of budgets: every method trained alike, read at many lengths."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from wavepos.experiments.methods import REGISTERED_BY, table1_methods
from wavepos.experiments.study import (
    Evaluation,
    Method,
    SizeName,
    Study,
    StudyOptions,
    StudyRun,
    select_methods,
    with_baseline,
)
from wavepos.training.config import TrainConfig
from wavepos.training.recipes import recipe

WIKIPEDIA = "jsonl:../shared/data/enwiki.jsonl.xz"
WIKITEXT = "wikitext103-plain:../shared/data/wikitext-103"
NEEDS: dict[SizeName, str] = {
    "cpu": "English Wikipedia as JSON lines (--corpus); 2,048,000 tokens per run, about 4 minutes on 2 CPU cores; "
    "WikiText-103 as second text",
    "gpu": "English Wikipedia as JSON lines (--corpus), 24 million tokens; at most 8 minutes per run on one H100",
    "paper": "WikiText-103 (--corpus), 21 billion tokens per run: days on one H100 each",
}
CPU_STEPS = 1000
LADDER_METHODS = ("RoPE", "ALiBi", "Wavelet", "Wavelet, recency start")
LADDER_STEPS = (500, CPU_STEPS, 2000, 8000)


def table1(options: StudyOptions) -> Study:
    """Table 1: perplexity of every method at and beyond the trained length, divided into L_train and whole."""
    size = options.size_among("table1", ("cpu", "gpu", "paper"))
    runs: list[StudyRun] = []
    methods: dict[str, Method] = {}
    for seq_len in {"cpu": (256,), "gpu": (512,), "paper": (512, 1024)}[size]:
        chosen = select_methods(options.methods, table1_methods(seq_len))
        runs += _grid(size, seq_len, chosen, options)
        methods |= chosen
    return Study(
        name="table1",
        title=f"Table 1 at size {size}: perplexity beyond the trained length",
        runs=tuple(sorted(runs, key=lambda run: (methods[run.name].seeds == 1, run.config.seed))),
        baseline=with_baseline("RoPE", methods),
        needs=NEEDS[size],
        imports=REGISTERED_BY,
        published="1",
    )


def ladder(options: StudyOptions) -> Study:
    """A ladder of budgets: do the methods' curves cross as they are trained longer?"""
    options.size_among("ladder", ("cpu",))
    known = table1_methods(256)
    first = {name: dataclasses.replace(known[name], seeds=1) for name in LADDER_METHODS}
    methods = select_methods(options.methods, {**known, **first})
    if options.methods is None:
        methods = first
    runs = [
        dataclasses.replace(run, config=cpu_config(run.config.position, run.config.corpus, run.config.seed, steps))
        for steps in LADDER_STEPS
        for run in _grid("cpu", 256, methods, options)
    ]
    return Study(
        name="ladder",
        title="A ladder of budgets: 1, 2, 4 and 16 million tokens",
        runs=tuple(runs),
        baseline=with_baseline("RoPE", methods),
        needs="as table1 --size cpu, which trains the 2 million; 2, 8 and 32 minutes per run on 2 CPU cores",
    )


def cpu_grid(methods: Mapping[str, Method], options: StudyOptions) -> tuple[StudyRun, ...]:
    """The runs of size cpu for any methods, first one seed of all, then the second, …"""
    return tuple(sorted(_grid("cpu", 256, methods, options), key=lambda run: run.config.seed))


def cpu_config(position: Mapping[str, Any], corpus: str, seed: int, steps: int = CPU_STEPS) -> TrainConfig:
    """A run of size cpu: 2.2M parameters, L_train 256, updates of 2,048 tokens.

    The stream's bound is that of the longest budget, so that all budgets see the same text in the same blocks.
    """
    return TrainConfig(
        size="tiny",
        position=dict(position),
        corpus=corpus,
        tokenizer="bpe:4096",
        max_tokens=24_000_000,
        seq_len=256,
        steps=steps,
        batch_tokens=2048,
        learning_rate=3e-3,
        warmup_steps=50,
        final_learning_rate=3e-4,
        seed=seed,
        save_every=100,
        log_every=10,
        validate_every=100,
    )


def gpu_config(position: Mapping[str, Any], corpus: str, seed: int) -> TrainConfig:
    """A run of size gpu: about 29M parameters, L_train 512, 98 million tokens, four passes over 24 million."""
    return TrainConfig(
        size="small",
        position=dict(position),
        corpus=corpus,
        tokenizer="bpe:8192",
        max_tokens=24_000_000,
        seq_len=512,
        steps=1500,
        batch_tokens=65_536,
        micro_batch_tokens=32_768,
        learning_rate=1e-3,
        warmup_steps=100,
        final_learning_rate=1e-4,
        weight_decay=0.1,
        seed=seed,
        save_every=250,
        log_every=10,
        validate_every=250,
    )


def paper_config(position: Mapping[str, Any], corpus: str, seed: int, seq_len: int) -> TrainConfig:
    """A run of the paper (A.7), at one of its two trained lengths."""
    config = recipe("paper", corpus=corpus, position=dict(position))
    return dataclasses.replace(config, seq_len=seq_len, seed=seed)


def _grid(size: SizeName, seq_len: int, methods: Mapping[str, Method], options: StudyOptions) -> list[StudyRun]:
    runs = []
    for name, method in methods.items():
        for seed in range(options.num_seeds(method.seeds)):
            config = _config(size, seq_len, method.position, options.corpus, seed)
            wanted = _evaluations(size, seq_len, config.corpus)
            read = tuple(dataclasses.replace(evaluation, read_with=method.read_with) for evaluation in wanted)
            runs.append(StudyRun(name=name, config=config, evaluations=read))
    return runs


def _config(size: SizeName, seq_len: int, position: Mapping[str, Any], corpus: str | None, seed: int) -> TrainConfig:
    match size:
        case "cpu":
            return cpu_config(position, corpus or WIKIPEDIA, seed)
        case "gpu":
            return gpu_config(position, corpus or WIKIPEDIA, seed)
        case "paper":
            return paper_config(position, corpus or "wikitext103", seed, seq_len)


def _evaluations(size: SizeName, seq_len: int, corpus: str) -> Sequence[Evaluation]:
    """The held-out text of the corpus by all protocols, and other texts by the paper's two."""
    if size == "paper":
        lengths = tuple(sorted({seq_len, 512, 1012, 1512, 2512}))
        return (Evaluation(lengths=lengths, protocols=("nonoverlapping", "whole"), tokens=None),)
    lengths = tuple(seq_len * 2**i // 2 for i in range(6))
    others = (other for other in (WIKITEXT, "stdlib") if other != corpus)
    return (
        Evaluation(lengths=lengths),
        *(Evaluation(corpus=other, lengths=lengths, protocols=("nonoverlapping", "whole")) for other in others),
    )
