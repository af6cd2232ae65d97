"""The demo: a small study on Python's standard library: trained short, read long, beside a reference of several seeds.

Its budget is in tokens, so that a run never depends on the machine nor on how many runs there are.
"""

import json
from pathlib import Path
from typing import Any

from wavepos.experiments.methods import fit_scales
from wavepos.experiments.study import (
    Evaluation,
    Method,
    Study,
    StudyOptions,
    StudyRun,
    select_methods,
    with_baseline,
)
from wavepos.training.config import TrainConfig

SEQ_LEN = 128
STEPS = 200
SCORED_TOKENS = 16_384
REFERENCE = "demo.json"
"""In results/ of a checkout: the report.json of several seeds of the demo."""
LENGTHS = (64, 128, 256, 512, 1024)


def demo_methods() -> dict[str, Method]:
    """Seven methods; the wavelets with scales that fit the trained length, and with the paper's."""
    fit = {"method": "wavelet", "scales": list(fit_scales(SEQ_LEN))}
    rows: dict[str, dict[str, Any]] = {
        "NoPE": {"method": "nope"},
        "RoPE": {"method": "rotary"},
        "Transformer-XL": {"method": "transformer_xl"},
        "ALiBi": {"method": "alibi"},
        "Wavelet": {"method": "wavelet"},
        "Wavelet, fit grid": fit,
        "Wavelet, fit grid, recency start": {**fit, "query_bias": "recency"},
    }
    return {name: Method(position=position) for name, position in rows.items()}


def demo(options: StudyOptions) -> Study:
    """Seven small models, one per method: train on 128 tokens, read up to 1,024."""
    options.size_among("demo", ("cpu",))
    methods = select_methods(options.methods, demo_methods())
    evaluation = Evaluation(lengths=LENGTHS, tokens=SCORED_TOKENS)
    runs = [
        StudyRun(
            name=name,
            config=demo_config(method.position, options.corpus or "stdlib", seed),
            evaluations=(evaluation,),
        )
        for seed in range(options.num_seeds(1))
        for name, method in methods.items()
    ]
    return Study(
        name="demo",
        title=f"Train on {SEQ_LEN} tokens, read up to {LENGTHS[-1]:,}: {len(methods)} positional methods",
        runs=tuple(runs),
        baseline=with_baseline("RoPE", methods),
        needs="nothing: Python's standard library is the text; some 5 minutes on 2 CPU cores",
        notes=(
            f"At so small a budget ({STEPS} updates of 2,048 tokens) the order of the methods says how quickly each is "
            "learned: the paper trains some 50,000 times longer.",
        ),
    )


def demo_config(position: dict[str, Any], corpus: str, seed: int) -> TrainConfig:
    """A run of the demo: 2.2M parameters, 409,600 tokens."""
    return TrainConfig(
        size="tiny",
        position=position,
        corpus=corpus,
        tokenizer="bpe:2048",
        seq_len=SEQ_LEN,
        steps=STEPS,
        batch_tokens=2048,
        learning_rate=3e-3,
        warmup_steps=30,
        seed=seed,
        save_every=50,
    )


def demo_reference() -> dict[str, Any] | None:
    """The result of several seeds that a checkout brings along, or None."""
    path = Path(__file__).resolve().parents[3] / "results" / REFERENCE
    if not path.is_file():
        return None
    reference: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return reference
