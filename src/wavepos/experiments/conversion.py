"""A RoPE model that is given wavelets: by training all of it, by LoRA, and beside them RoPE that is dropped."""

from typing import Any

from wavepos.experiments.study import Evaluation, Study, StudyOptions, StudyRun, continued
from wavepos.training.config import TrainConfig

SEQ_LEN = 128
STEPS = 400
UPDATES = 100
LEARNING_RATE, LORA_LEARNING_RATE = 5e-4, 5e-3
"""Of the updates after the conversion; low-rank updates take ten times as much."""
RANK = 16
READ = Evaluation(lengths=tuple(SEQ_LEN * 2**i for i in range(4)), protocols=("whole",), tokens=16_384)


def convert(options: StudyOptions) -> Study:
    """Is a trained RoPE model converted to wavelets by LoRA as well as by training all of it, and does it read on?"""
    options.size_among("convert", ("cpu",))
    if options.methods is not None:
        raise ValueError("study 'convert' compares ways of converting, so it takes no methods: --only chooses its rows")
    runs: list[StudyRun] = []
    for seed in range(options.num_seeds(1)):
        parent = rope_config(options.corpus or "stdlib", seed)
        runs.append(StudyRun(name="RoPE", config=parent, evaluations=(READ,)))
        runs += [
            StudyRun(name=name, config=_converted(parent, **changes), evaluations=(READ,), begins_with=parent)
            for name, changes in conversions().items()
        ]
    return Study(
        name="convert",
        title=f"A small RoPE Qwen3 and what {UPDATES} updates make of it at {SEQ_LEN} tokens",
        runs=tuple(runs),
        baseline="RoPE",
        needs="nothing: Python's standard library is the text; some 12 minutes of one CPU core; wavepos[lora]",
        notes=(
            f"The model is trained from scratch with RoPE, {STEPS} updates of 2,048 tokens. Every other run goes on "
            f"from it for {UPDATES} updates, RoPE itself too. Learning rates are {LORA_LEARNING_RATE:g} for LoRA and "
            f"{LEARNING_RATE:g} where all weights are trained; neither was tuned.",
        ),
    )


def conversions() -> dict[str, dict[str, Any]]:
    """The rows that go on from the RoPE model: what differs in their configs."""
    wavelets = {"method": "wavelet", "query_bias": "recency"}
    lora = {"rank": RANK}
    return {
        "RoPE": {"position": {"method": "rotary"}},
        "Wavelet, recency start": {"position": wavelets},
        "Wavelet, recency start, LoRA": {"position": wavelets, "lora": lora, "learning_rate": LORA_LEARNING_RATE},
        "RoPE, dropped": {"position": {"method": "nope"}},
    }


def rope_config(corpus: str, seed: int) -> TrainConfig:
    """A small Qwen3 with RoPE, trained from scratch."""
    return TrainConfig(
        model="qwen3",
        size="tiny",
        position={"method": "rotary"},
        corpus=corpus,
        tokenizer="bpe:2048",
        seq_len=SEQ_LEN,
        steps=STEPS,
        batch_tokens=2048,
        learning_rate=2e-3,
        warmup_steps=30,
        final_learning_rate=2e-4,
        weight_decay=0.1,
        seed=seed,
        save_every=50,
    )


def _converted(parent: TrainConfig, **changes: Any) -> TrainConfig:
    rate = changes.pop("learning_rate", LEARNING_RATE)
    warmup = UPDATES // 10
    return continued(
        parent, **changes, steps=UPDATES, warmup_steps=warmup, learning_rate=rate, final_learning_rate=rate / 10
    )
