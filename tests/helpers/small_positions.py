"""Every position, small, with learned parameters that matter, for the tests of attention."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from wavepos import (
    ALiBi,
    Cable,
    ForgetGate,
    Kerple,
    LearnedRelative,
    NoPE,
    Rotary,
    ShawRelative,
    T5Bias,
    TransformerXLRelative,
    Wavelet,
)
from wavepos.positions import Position, ScoreTerms
from wavepos.positions.terms import ReadsGates
from wavepos.testing import Case

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
    "forget_gate": lambda: ForgetGate(NUM_HEADS),
    "cable": lambda: Cable(NUM_HEADS),
    "wavelet-forget": lambda: Wavelet(
        HEAD_DIM, scales=SMALL_GRID, query_bias="recency", num_heads=NUM_HEADS, gate="forget"
    ),
    "learned_relative": lambda: LearnedRelative(relative_dim=4, extent=WIDTH),
}

OFFSETS = (
    (1, 1, 0),
    (1, 90, 89),
    (1, 90, 40),
    (70, 200, 130),
    (3, 200, 197),
    (50, 60, 0),
    (30, 90, 20),
    (50, 60, 30),
    (20, 60, 100),
    (40, 60, 100),
    (1, 60, 100),
)
"""Numbers of queries and of keys, and the offset of the first query: inside, at the end, past the end."""

GATED = ("forget_gate", "cable", "wavelet-forget")
"""Those that read gates."""

BOTH_WAYS = {
    **{name: POSITIONS[name] for name in POSITIONS if name not in (*GATED, "t5", "shaw", "learned_relative")},
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


class WithGates(ReadsGates):
    """Any position, with gates beside it."""

    def __init__(self, inner: Position) -> None:
        super().__init__()
        self.inner = inner

    def gates(self, logits_BHS: Tensor) -> Tensor:
        return logsigmoid(logits_BHS.float())

    def terms(
        self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0, gates_BHS: Tensor | None = None
    ) -> ScoreTerms:
        return dataclasses.replace(self.inner.terms(q_BHTD, k_BGSD, q_offset=q_offset), gates_BHS=gates_BHS)

    def reset_parameters(self) -> None:
        self.inner.reset_parameters()


def beside(name: str) -> WithGates:
    return WithGates(position(name))


def read(built: Position, case: Case) -> dict[str, Tensor | None]:
    """What the position reads of a hidden state beside q and k, as `attention` takes it."""
    return {"relative_states": case.relative_states(built), "gates": case.gates(built)}


def heads(name: str) -> int:
    return 12 if name == "alibi-12" else NUM_HEADS
