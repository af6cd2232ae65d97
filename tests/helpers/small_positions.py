"""Every position, small, with learned parameters that matter, for the tests of attention."""

import torch
from torch import nn

from wavepos import (
    ALiBi,
    Kerple,
    LearnedRelative,
    NoPE,
    Rotary,
    ShawRelative,
    T5Bias,
    TransformerXLRelative,
    Wavelet,
)
from wavepos.positions import Position

NUM_HEADS, HEAD_DIM = 4, 16
SMALL_GRID = (1.0, 2.0)
WIDTH = Wavelet(HEAD_DIM, scales=SMALL_GRID).reach()

POSITIONS = {
    "nope": lambda: NoPE(),
    "rotary": lambda: Rotary(HEAD_DIM),
    "alibi": lambda: ALiBi(NUM_HEADS),
    "alibi-12": lambda: ALiBi(12),
    "kerple": lambda: Kerple(NUM_HEADS),
    "t5": lambda: T5Bias(NUM_HEADS, num_buckets=8, max_distance=WIDTH - 1),
    "shaw": lambda: ShawRelative(HEAD_DIM, max_distance=WIDTH - 1),
    "transformer_xl": lambda: TransformerXLRelative(HEAD_DIM, NUM_HEADS),
    "wavelet": lambda: Wavelet(HEAD_DIM, scales=SMALL_GRID),
    "wavelet-haar": lambda: Wavelet(HEAD_DIM, "haar", scales=(4.0, 8.0)),
    "wavelet-query-bias": lambda: Wavelet(HEAD_DIM, scales=SMALL_GRID, query_bias="recency", num_heads=NUM_HEADS),
    "learned_relative": lambda: LearnedRelative(relative_dim=4, extent=WIDTH),
}

BOTH_WAYS = {
    **{name: POSITIONS[name] for name in POSITIONS if name not in ("t5", "shaw", "learned_relative")},
    "t5": lambda: T5Bias(NUM_HEADS, num_buckets=16, max_distance=WIDTH - 1, bidirectional=True),
    "shaw": lambda: ShawRelative(HEAD_DIM, max_distance=WIDTH - 1, bidirectional=True),
    "wavelet-future": lambda: Wavelet(HEAD_DIM, scales=SMALL_GRID, direction="future"),
}
"""Those that say something of keys ahead of their query."""


def position(name: str, both_ways: bool = False) -> Position:
    """A position whose learned parameters matter."""
    torch.manual_seed(0)
    built = (BOTH_WAYS if both_ways else POSITIONS)[name]()
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.3)
    return built


def heads(name: str) -> int:
    return 12 if name == "alibi-12" else NUM_HEADS
