"""Position interpolation carried over to wavelets (section 7.2), beside RoPE's scalings, and RoPE that is dropped.

A trained model is read with another position, and goes on training with it, in blocks of the length that it is meant
for.
"""

import dataclasses
from typing import Any

from wavepos.experiments.study import (
    Evaluation,
    Method,
    Study,
    StudyOptions,
    StudyRun,
    continued,
    select_methods,
    with_baseline,
)
from wavepos.experiments.table1 import WIKIPEDIA, cpu_config
from wavepos.training.config import TrainConfig

SEQ_LEN = 256
FACTORS = (2, 4, 8)
SEEDS = 3
UPDATES = 100
LEARNING_RATE = 3e-4
"""Of the updates at the beginning: what the run that they go on from ended with."""
READ = Evaluation(lengths=tuple(SEQ_LEN * 2**i for i in range(5)), protocols=("whole",))


def stretch(options: StudyOptions) -> Study:
    """Does position interpolation carry over to the wavelets' scale, at reading time and after 100 more updates?"""
    options.size_among("stretch", ("cpu",))
    methods = select_methods(options.methods, stretch_methods())
    seeds = range(options.num_seeds(SEEDS))
    parents = {
        (name, seed): cpu_config(method.position, options.corpus or WIKIPEDIA, seed)
        for seed in seeds
        for name, method in methods.items()
    }
    read = [
        StudyRun(name=name, config=parent, evaluations=(dataclasses.replace(READ, read_with=methods[name].read_with),))
        for (name, _), parent in parents.items()
    ]
    trained = [
        StudyRun(name=name, config=config, evaluations=(READ,), begins_with=parent)
        for (name, _), parent in parents.items()
        for config in _continued(name, methods[name], parent)
    ]
    return Study(
        name="stretch",
        title=f"Stretched wavelets, scaled and dropped RoPE: at reading time and after {UPDATES} more updates",
        runs=(*read, *trained),
        baseline=with_baseline("RoPE", methods),
        needs=f"as table1 --size cpu, whose runs it goes on from; then {UPDATES} updates of 2,048 tokens a run",
        notes=(
            f"Runs trained at {SEQ_LEN} tokens from the start are read as they are, with another position. The others "
            f"went on from them, {UPDATES} updates with that position, in blocks of the length in their table's title.",
        ),
    )


def stretch_methods() -> dict[str, Method]:
    """The rows: what is trained at L_train, and the position that it is read and trained on with."""
    rope: dict[str, Any] = {"method": "rotary"}
    wavelets: dict[str, dict[str, Any]] = {
        "Wavelet": {"method": "wavelet"},
        "Wavelet, recency start": {"method": "wavelet", "query_bias": "recency"},
    }
    rows = {"RoPE": Method(position=rope)}
    for factor in FACTORS:
        linear = {"rope_type": "linear", "factor": float(factor)}
        rows[f"RoPE, linear {factor}x"] = Method(position=rope, read_with={**rope, "scaling": linear})
    for factor in FACTORS:
        yarn = {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": SEQ_LEN}
        rows[f"RoPE, YaRN {factor}x"] = Method(position=rope, read_with={**rope, "scaling": yarn})
    ntk = {"rope_type": "dynamic", "factor": 1.0, "max_position_embeddings": SEQ_LEN}
    rows["RoPE, dynamic NTK"] = Method(position=rope, read_with={**rope, "scaling": ntk})
    rows["RoPE, dropped"] = Method(position=rope, read_with={"method": "nope"})
    for name, wavelet in wavelets.items():
        rows[name] = Method(position=wavelet)
        for factor in FACTORS:
            stretched = {**wavelet, "stretch": float(factor)}
            rows[f"{name}, stretched {factor}x"] = Method(position=wavelet, read_with=stretched)
    return rows


def _continued(name: str, method: Method, parent: TrainConfig) -> list[TrainConfig]:
    """The runs that go on: at the length that a scaling is for, dropped RoPE at L_train, unchanged ones at all."""
    factors = [factor for factor in FACTORS if name.endswith(f" {factor}x")]
    if method.read_with is None:
        factors = [1, *FACTORS]
    elif name == "RoPE, dropped":
        factors = [1]
    return [
        continued(
            parent,
            position=method.read_with or method.position,
            seq_len=factor * parent.seq_len,
            steps=UPDATES,
            learning_rate=LEARNING_RATE,
            final_learning_rate=LEARNING_RATE / 10,
            warmup_steps=UPDATES // 10,
            validate_every=None,
        )
        for factor in factors
    ]
