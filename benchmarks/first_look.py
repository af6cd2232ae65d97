"""The first look at a GPU, in minutes: is every backend right there, and how fast beside what a user has today?"""

import dataclasses
import math
import time
from pathlib import Path

from benchmarks.attention import AttentionConfig, attention_config
from benchmarks.run import BENCHMARKS, run_benchmark
from benchmarks.yardstick import yardstick_config
from wavepos.console import console

PEERS = (
    "rope",
    "rope-cudnn",
    "wavelet",
    "wavelet@banded",
    "alibi",
    "learned-relative",
    "bare@triton",
    "flex",
)
"""The baseline and its cuDNN form, ours, our kernel without a band, and FlexAttention with a captured bias."""
LENGTHS = (4096, 16384, 65536)


def first_look(device: str, minutes: float, out: Path, resume: bool) -> None:
    """The yardstick, then the attention benchmark in bfloat16, as far as the time goes.

    Args:
        device: cuda, or cpu to try it.
        minutes: of both together.
        out: directory of both results.
        resume: keep what is there already.

    Raises:
        ValueError: no time, or a device that is not there.
    """
    if not 0.0 < minutes < math.inf:
        raise ValueError(f"minutes must be finite and positive, got {minutes}: --minutes 8 would do")
    deadline = time.monotonic() + 60.0 * minutes
    configs = {"yardstick": yardstick_config(device), "attention": _attention(device)}
    benchmarks = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    for name, config in configs.items():
        try:
            run_benchmark(benchmarks[name], config, out, resume, deadline)
        except TimeoutError as error:
            console.print(f"{name}: {error}; --resume goes on with it", highlight=False, markup=False)


def _attention(device: str) -> AttentionConfig:
    config = attention_config(device)
    lengths, peers = (LENGTHS, PEERS) if device != "cpu" else ((512,), tuple(x for x in PEERS if "@triton" not in x))
    return dataclasses.replace(config, lengths=lengths, dtypes=("bf16",), peers=peers, seconds=1.0)
