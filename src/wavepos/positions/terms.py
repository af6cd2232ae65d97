"""The score formula that every position fills in and every attention backend computes (docs/math.md, section 2).

Shape suffixes, everywhere: B batch, H query heads, G key/value heads, T queries, S keys, D head dim, E width of the
relative term, R table length in displacements.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

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

    def in_use(self) -> frozenset[str]:
        """The names of the fields that say something: every one that is not its default, also of a class derived."""
        found = set()
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor) or (value is not None and value != field.default):
                found.add(field.name)
        return frozenset(found)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The name and value of every tensor in the fields."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                yield field.name, value
            elif isinstance(value, LowRank):
                yield from ((field.name, factor) for factor in (value.coefficients_RK, value.basis_KE))

    def at_displacement(self, values: Tensor, displacement_TS: Tensor) -> Tensor:
        """values[..., m, δ(m, n)] as [..., T, S], with the tail beyond the last entry; undefined below the first."""
        last = values.shape[-1] - 1
        index_TS = displacement_TS - self.first_displacement
        at = values.gather(-1, index_TS.clamp(0, last).expand(*values.shape[:-1], -1))
        return at.masked_fill(index_TS > last, 0.0) if self.tail == "zero" else at


class Position(nn.Module, ABC):
    """A positional method: it turns queries and keys into `ScoreTerms` and knows nothing of how they are computed."""

    shared_by_layers: bool
    """Whether one instance serves every layer of a model (it holds nothing that a layer would learn for itself)."""

    needs_table: bool = True
    """Whether scores hold a term over displacements (False: NoPE and Rotary)."""

    per_head: bool = False
    """Whether it holds something for each query head, so that a device with some of the heads must know which."""

    rotates: bool = False
    """Whether q and k themselves depend on where they stand (Rotary)."""

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
    """A fixed table over δ = 0 … length − 1 that is computed once a device and grows to the longest length asked for.

    It is no buffer on purpose: `model.to(bfloat16)` must not round it, and a checkpoint must not hold it. Under
    torch.compile its contents are constants of the graph.

    Args:
        compute: the table of a length, made on the CPU; displacements along the second-last axis.
        limit: the length that is never exceeded when the table grows ahead of what is asked.
    """

    def __init__(self, compute: Callable[[int], Tensor], limit: int | None = None) -> None:
        self._compute = compute
        self._limit = limit
        self._tables: dict[torch.device, Tensor] = {}
        self._low_rank: dict[tuple[torch.device, torch.dtype], tuple[int, LowRank | None]] = {}

    def get(self, length: int, device: torch.device) -> Tensor:
        """Entries 0 … length − 1, on that device."""
        table: Tensor = self._at_least(self._grown(length), device)
        return table[..., :length, :]

    def low_rank(self, length: int, device: torch.device, dtype: torch.dtype) -> LowRank | None:
        """Entries 0 … length − 1 as factors good to the dtype's rounding; None where their rank is not low."""
        factors = self._factors(self._grown(length), device, dtype)
        if factors is None:
            return None
        return LowRank(coefficients_RK=factors[0][:length], basis_KE=factors[1])

    def _grown(self, length: int) -> int:
        """The length to compute: of a few values only, so that torch.compile meets few."""
        grown = 64
        while grown < length:
            grown *= 2
        return grown if self._limit is None else min(grown, self._limit)

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator] # torch's decorator has no types
    def _at_least(self, length: int, device: torch.device) -> Tensor:
        table = self._tables.get(device)
        if table is None or table.shape[-2] < length:
            with torch.inference_mode(False), torch.device("cpu"):
                table = self._compute(length).to(device)
            self._tables[device] = table
        return table

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator] # torch's decorator has no types
    def _factors(self, length: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        table: Tensor = self._at_least(length, torch.device("cpu"))
        known = self._low_rank.get((device, dtype))
        if known is None or known[0] != table.shape[-2]:
            with torch.inference_mode(False):
                known = (table.shape[-2], low_rank(table, dtype))
            self._low_rank[device, dtype] = known
        factors = known[1]
        return None if factors is None else (factors.coefficients_RK.to(device), factors.basis_KE.to(device))

    def __deepcopy__(self, memo: dict[int, Any]) -> "TableCache":
        return TableCache(copy.deepcopy(self._compute, memo), self._limit)

    def __getstate__(self) -> dict[str, object]:
        return {"_compute": self._compute, "_limit": self._limit, "_tables": {}, "_low_rank": {}}


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is where it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def require_positive_int(name: str, value: int) -> None:
    """Raise ValueError unless value is a whole number above zero."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
