"""What the tests of the fused kernel share: on a GPU it runs native, elsewhere under Triton's interpreter."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wavepos import ALiBi, LearnedRelative, NoPE, Rotary, ShawRelative, T5Bias, Wavelet
from wavepos.positions import Position, ScoreTerms
from wavepos.testing import Case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE == "cuda" else [])  # the interpreter's is wrong
BAND = 44  # what the wavelets below reach
LENGTHS = [1, 17, 63, 111, BAND - 1, BAND, BAND + 1, 2 * BAND + 5]
LONG = 600 if DEVICE == "cuda" else 111  # long enough for tiles beyond the table; native tiles are larger
WIDE = 250 if DEVICE == "cuda" else 75  # wide enough for tiles that lie inside the table


class Projected(Position):
    """A term whose r is a projection of its own width, with a learned table: zero beyond it, or its last entry."""

    def __init__(self, reach: int = 30, width: int = 16, clamp: bool = False) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.empty(64, width))
        self.table = nn.Parameter(torch.empty(reach, width))
        self.clamp = clamp
        self.reset_parameters()

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        r_BHTE = q_BHTD @ self.projection.to(q_BHTD.dtype)
        tail = "clamp" if self.clamp else "zero"
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, r_BHTE=r_BHTE, table=self.table, tail=tail)

    def reset_parameters(self) -> None:
        generator = torch.Generator().manual_seed(1)
        for weight in (self.projection, self.table):
            nn.init.normal_(weight, std=0.3, generator=generator)


def drawn(position: Position, seed: int = 0) -> Position:
    """The position with weights of its own distribution, the same in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        position.reset_parameters()
    return position


def t5(seed: int = 0) -> Position:
    return drawn(T5Bias(2, num_buckets=8, max_distance=21), seed)


def wavelet() -> Wavelet:
    return Wavelet(64, scales=(1, 2))


POSITIONS: dict[str, Callable[[], Position]] = {
    "nope": NoPE,
    "rotary": lambda: Rotary(64),
    "alibi": lambda: ALiBi(2),
    "t5": lambda: t5(),
    "shaw": lambda: drawn(ShawRelative(64, max_distance=20)),
    "shaw_short": lambda: drawn(ShawRelative(64, max_distance=1)),
    "wavelet": wavelet,
    "wavelet_biased": lambda: Wavelet(64, scales=(1, 2), query_bias="recency", num_heads=2),
    "learned_relative": lambda: drawn(LearnedRelative(relative_dim=16, extent=30)),
    "projected": Projected,
    "projected_point": lambda: Projected(reach=1),
    "projected_wide": lambda: Projected(reach=WIDE),
    "projected_clamped": lambda: Projected(reach=WIDE, clamp=True),
}


def case(num_queries: int, num_keys: int | None = None, **changes: Any) -> Case:
    fields = {"batch": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 64, "device": DEVICE, **changes}
    return Case(num_queries=num_queries, num_keys=num_queries if num_keys is None else num_keys, **fields)
