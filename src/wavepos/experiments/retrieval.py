"""Retrieval by distance: every method trained on probes whose answers are known, and read far beyond L_train."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from wavepos.data.probe_tasks import PREFIX, PROBES, open_probe
from wavepos.data.probes import Probe
from wavepos.evaluate.retrieval import Retrieval
from wavepos.experiments.methods import REGISTERED_BY, table1_methods
from wavepos.experiments.study import Method, Study, StudyOptions, StudyRun, select_methods, with_baseline
from wavepos.training.config import TrainConfig
from wavepos.training.recipes import size_recipe

SEEDS = 5
SEQ_LEN = 128
"""L_train."""
DISTANCES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""In units of L_train; with half of the context before the answer, sequences of twice the distance are read."""
STEPS: Mapping[str, int] = {"mqar": 1500, "needles": 1500, "copy": 800, "flipflop": 1000, "tracking": 1200}
"""Updates; the report says how many seeds had learnt their task in range by then."""
QUESTIONS, MOST_EXAMPLES = 256, 64
"""At each distance and depth; of flip-flop, with one in an example, fewer: standard errors of 3 to 6 points a seed."""
CLOSED = "RoPE, closed window"
"""The control that must fail: 2 layers × (window − 1) < L_train, so nothing beyond L_train can reach a question."""


def retrieval(options: StudyOptions) -> Study:
    """Who finds what lies far back? Five tasks with known answers, accuracy by distance to 16 × L_train."""
    options.size_among("retrieval", ("cpu",))
    probes = PROBES.values() if options.corpus is None else (open_probe(options.corpus),)
    methods = select_methods(options.methods, probe_methods(SEQ_LEN))
    return Study(
        name="retrieval",
        title=f"Retrieval by distance, trained on {SEQ_LEN} tokens",
        runs=tuple(run for probe in probes for run in _runs(probe, methods, options)),
        baseline=with_baseline("RoPE", methods),
        needs="nothing; about two minutes per run on one CPU core; --corpus task:mqar for one task",
        notes=_notes(tuple(probes)),
        imports=REGISTERED_BY,
    )


def probe_methods(seq_len: int) -> dict[str, Method]:
    """Table 1's methods, and a closed window; of the two layers a pattern of local and global ones has one of each."""
    known = table1_methods(seq_len)
    for name, method in known.items():
        if isinstance(method.position, dict) and "every" in method.position:
            known[name] = dataclasses.replace(method, position={**method.position, "every": 2})
    first = list(known)[: list(known).index("ALiBi") + 1]
    window = Method(position={"method": "rotary", "window": seq_len // 2})
    return {**{name: known[name] for name in first}, CLOSED: window, **known}


def retrieval_config(probe: Probe, position: Any, seed: int) -> TrainConfig:
    """A run: two layers of width 128, L_train 128, updates of 16 examples."""
    given = dataclasses.replace(size_recipe("probe"), tokenizer=PREFIX + probe.name, steps=STEPS[probe.name], seed=seed)
    return TrainConfig(**dataclasses.asdict(given), size="probe", position=position, corpus=PREFIX + probe.name)


def _runs(probe: Probe, methods: Mapping[str, Method], options: StudyOptions) -> Iterator[StudyRun]:
    """First one seed of all methods, then the second, …"""
    questions = min(QUESTIONS, MOST_EXAMPLES * probe.questions)
    for seed in range(options.num_seeds(SEEDS)):
        for name, method in methods.items():
            yield StudyRun(
                name=name,
                config=retrieval_config(probe, method.position, seed),
                evaluations=(Retrieval(distances=DISTANCES, questions=questions, read_with=method.read_with),),
            )


def _notes(probes: tuple[Probe, ...]) -> tuple[str, ...]:
    return (
        *(
            f"{probe.title} ({PREFIX}{probe.name}): {probe.asks} Chance {probe.chance:.3g}"
            + (f"; {probe.guess:.3g} for a guess among the answers in the context." if probe.listed else ".")
            for probe in probes
        ),
        f"{CLOSED}: 2 layers × (window − 1) is less than L_train, so beyond L_train it can only guess.",
    )
