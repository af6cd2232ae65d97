"""The score formula that every position fills in and every attention backend computes (docs/math.md, section 2).

Shape suffixes, everywhere: B batch, H query heads, G key/value heads, T queries, S keys, D head dim, E width of the
relative term, R table length in displacements.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wavepos.positions.low_rank import LowRank, low_rank

Tail = Literal["zero", "clamp", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTerms:
    """What a position says of the scores, with displacement δ = m − n (query position minus key position):

        s[h,m,n] = softmax_scale · q_m·k_n + relative_scale · r_m·p(δ) + b[h,δ]

    Attributes:
        q_BHTD: queries, [B,H,T,D].
        k_BGSD: keys, [B,G,S,D].
        r_BHTE: what the table is multiplied with, [B,H,T,E]; None without a relative term.
        table: p(δ) for δ = first_displacement, first_displacement + 1, …; float32, [R,E], or [H,R,E] if heads differ.
        bias_HR: b[h,δ], added without softmax_scale; float32, [H,R].
        tail: what holds from displacement first_displacement + R on: "zero", or "clamp" (the last entry holds), or
            "none": table and bias cover every displacement that a causal query of this call meets.
        first_displacement: the displacement of entry 0; 0 in causal attention.
        relative_scale: the factor on r·p; None: softmax_scale.
        low_rank: what a position that never learns its table may add: the table as a product, good to r's rounding.
    """

    q_BHTD: Tensor
    k_BGSD: Tensor
    r_BHTE: Tensor | None = None
    table: Tensor | None = None
    bias_HR: Tensor | None = None
    tail: Tail = "none"
    first_displacement: int = 0
    relative_scale: float | None = None
    low_rank: LowRank | None = None


class Position(nn.Module, ABC):
    """A positional method: it turns queries and keys into `ScoreTerms` and knows nothing of how they are computed."""

    shared_by_layers: bool
    """Whether one instance serves every layer of a model (it holds nothing that a layer would learn for itself)."""

    needs_table: bool = True
    """Whether scores hold a term over displacements (False: NoPE and Rotary)."""

    @abstractmethod
    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        """The terms for queries at positions q_offset … q_offset + T − 1 and keys at 0 … S − 1."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Set every learned parameter to its starting value; nothing for methods without any."""


class ReadsRelativeStates(Position):
    """A position whose r is a projection of its own of the hidden state, handed to `attention` beside q and k."""

    @abstractmethod
    def terms(
        self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0, relative_states_BHTE: Tensor | None = None
    ) -> ScoreTerms:
        """The terms; ValueError without relative states or with some that do not fit q."""


class TableCache:
    """A table over δ = 0 … length − 1 that is computed once a device and grows to the longest length asked for.

    It is no buffer on purpose: `model.to(bfloat16)` must not round it, and a checkpoint must not hold it.
    """

    def __init__(self) -> None:
        self._tables: dict[torch.device, Tensor] = {}
        self._low_rank: dict[tuple[torch.device, torch.dtype], LowRank | None] = {}

    def get(
        self, length: int, device: torch.device, compute: Callable[[int], Tensor], limit: int | None = None
    ) -> Tensor:
        """Entries 0 … length − 1 along the table's second-last axis, on that device.

        Args:
            length: displacements asked for.
            device: where the table is wanted.
            compute: the table of a length, made on the CPU.
            limit: the length that is never exceeded when the table grows ahead of what is asked.
        """
        table = self._tables.get(device)
        if table is None or table.shape[-2] < length:
            grown = max(64, 1 << (length - 1).bit_length())
            with torch.device("cpu"):
                table = compute(grown if limit is None else min(grown, limit)).to(device)
            self._tables[device] = table
            self._low_rank = {key: factors for key, factors in self._low_rank.items() if key[0] != device}
        return table[..., :length, :]

    def low_rank(self, length: int, device: torch.device, dtype: torch.dtype) -> LowRank | None:
        """Entries 0 … length − 1 of what `get` has computed as factors good to the dtype's rounding, if there are any."""
        if (device, dtype) not in self._low_rank:
            self._low_rank[device, dtype] = low_rank(self._tables[device], dtype)
        factors = self._low_rank[device, dtype]
        return None if factors is None else factors.first(length)

    def __deepcopy__(self, memo: object) -> "TableCache":
        return TableCache()

    def __getstate__(self) -> dict[str, object]:
        return {"_tables": {}, "_low_rank": {}}


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is where it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def require_positive_int(name: str, value: int) -> None:
    """Raise ValueError unless value is a whole number above zero."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
