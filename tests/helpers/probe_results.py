"""A result of probes as the study writes it, with given accuracies in place of measured ones."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from wavepos.data import PROBES
from wavepos.evaluate.retrieval import Recalled, Retrieval, recalled_record, spots
from wavepos.experiments.retrieval import SEQ_LEN, retrieval_config
from wavepos.runs import environment


def made_probes(seeds: Sequence[int] = (0, 1)) -> dict[str, Any]:
    """Two methods × two tasks × seeds; accuracy falls with the seed and, deeper in the context, by a tenth."""
    outcomes, made = [], environment()
    for name in ("mqar", "flipflop"):
        for method, start in (("RoPE", 0.5), ("ALiBi", 0.96)):
            for seed in seeds:
                probe = PROBES[name]
                asked = Retrieval(distances=(0.25, 2.0, 4.0), questions=1000)
                recalled = [
                    Recalled(spot=spot, questions=1000, correct=1000 * (start - 0.1 * seed - 0.1 * (spot.depth > 0)))
                    for spot in spots(probe, SEQ_LEN, asked)
                ]
                config = retrieval_config(probe, {"method": "nope"}, seed)
                evaluation = {
                    "evaluation": dataclasses.asdict(asked),
                    "probe": name,
                    "chance": probe.chance,
                    "recalled": [recalled_record(one) for one in recalled],
                }
                outcomes.append(
                    {
                        "name": method,
                        "seed": seed,
                        "folder": f"{name}-{method}-{seed}",
                        "config": dataclasses.asdict(config),
                        "train_seconds": 10.0,
                        "environment": made,
                        "evaluations": [evaluation],
                    }
                )
    study = {"name": "retrieval", "title": "Probes", "baseline": "RoPE", "notes": ["A note."]}
    return {**study, "outcomes": outcomes, "unfinished": ["NoPE, seed 0"], "failures": [], "environment": made}
