"""A study of your own. Run it with `wavepos study examples/my_study.py`; add --seeds 3, --dry-run, --jobs 2, …"""

import sysconfig
from functools import partial
from typing import Any

from wavepos.experiments.study import Evaluation, Study, StudyOptions, StudyRun
from wavepos.training.config import TrainConfig

METHODS: dict[str, dict[str, Any]] = {
    "RoPE": {"method": "rotary"},
    "RoPE, theta = 32": {"method": "rotary", "theta": 32.0},
    "Wavelet, two scales": {"method": "wavelet", "scales": [1.0, 8.0]},
}


def study(options: StudyOptions) -> Study:
    """Two RoPEs and a wavelet on one file of Python's library, trained on 32 tokens, read at up to 128."""
    corpus = options.corpus or f"text:{sysconfig.get_path('stdlib')}/argparse.py"
    model = partial(TrainConfig, size="tiny", corpus=corpus, tokenizer="bpe:400", seq_len=32)
    train = partial(model, steps=8, batch_tokens=256, learning_rate=3e-3, warmup_steps=2)
    read = Evaluation(lengths=(32, 64, 128), tokens=512)
    runs = [
        StudyRun(name=name, config=train(position=position, seed=seed), evaluations=(read,))
        for seed in range(options.num_seeds(1))
        for name, position in METHODS.items()
    ]
    return Study(name="my-study", title="Does a small theta help?", runs=tuple(runs), baseline="RoPE")
