"""Fixed tables over the displacement: kept once per device, and as products of two thin matrices where that is exact.

R table length in displacements, E width of a row, K rank.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

_MULTIPLE = 8
_WORTHWHILE = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """A table as a product: table ≈ coefficients · basis, so r·p(δ) = (r basisᵀ)·coefficients(δ).

    Attributes:
        coefficients_RK: one row per displacement.
        basis_KE: orthonormal rows.
    """

    coefficients_RK: Tensor
    basis_KE: Tensor


def low_rank(table_RE: Tensor, dtype: torch.dtype) -> LowRank | None:
    """The fewest factors whose every row lies within the dtype's rounding of the table's largest entry.

    Smooth functions of the displacement span few dimensions.

    Args:
        table_RE: float32 on the CPU, R displacements by E dimensions.
        dtype: that of the queries; the factors come in it.

    Returns:
        None where the factors would save little, and for float64, in which the table is exact by contract.
    """
    if dtype == torch.float64:
        return None
    left, singular, basis = torch.linalg.svd(table_RE.to(torch.float64), full_matrices=False)
    coefficients = left * singular
    left_out = coefficients.square().flip(1).cumsum(1).flip(1).amax(0).sqrt()
    rank = int((left_out > row_tolerance(dtype) * float(table_RE.abs().max())).sum())
    rank = -(-max(rank, 1) // _MULTIPLE) * _MULTIPLE
    if rank > _WORTHWHILE * table_RE.shape[1] or rank > basis.shape[0]:
        return None
    return LowRank(
        coefficients_RK=coefficients[:, :rank].to(dtype).contiguous(),
        basis_KE=basis[:rank].to(dtype).contiguous(),
    )


def row_tolerance(dtype: torch.dtype) -> float:
    """The largest norm of a row's error, in units of the table's largest entry: a fraction of what rounding costs."""
    return 2.0 * torch.finfo(dtype).eps if dtype == torch.float32 else torch.finfo(dtype).eps / 4.0


class TableCache:
    """A fixed table over δ = 0 … length − 1 that is computed once per device and grows to the longest length asked for.

    It is no buffer on purpose: `model.to(bfloat16)` must not round it, and a checkpoint must not hold it. Under
    torch.compile and torch.export its contents are constants of the graph. Threads may share it: a table is made
    whole, then put in place by one assignment, and a call returns the one that it made or met.

    Args:
        compute: the table of a length, made on the CPU; displacements along the second-last axis. With keys it is
            called as compute(length, key).
        limit: the length that is never exceeded when the table grows ahead of what is asked.
    """

    def __init__(self, compute: Callable[..., Tensor], limit: int | None = None) -> None:
        self._compute = compute
        self._limit = limit
        self._tables: dict[torch.device, tuple[int | None, Tensor]] = {}
        self._low_rank: dict[tuple[torch.device, torch.dtype], tuple[int, tuple[Tensor, Tensor] | None]] = {}

    def get(self, length: int, device: torch.device, key: int | None = None) -> Tensor:
        """Entries 0 … length − 1, on that device.

        Args:
            length: how many.
            device: where.
            key: what else determines the values, at least 0; the table of the latest key is kept. None: nothing does.
        """
        kept = self._tables.get(device) if no_mode_is_active() else None
        if kept is not None and kept[0] == key and kept[1].shape[-2] >= length:  # the way of every call but the first
            return _first(kept[1], length)
        constant = None if key is None else len(range(key))  # under torch.compile: a number, not a symbol
        table: Tensor = self._at_least(self._grown(length), device, constant)
        return table[..., :length, :]

    def low_rank(self, length: int, device: torch.device, dtype: torch.dtype) -> LowRank | None:
        """Entries 0 … length − 1 as factors good to the dtype's rounding; None where their rank is not low."""
        kept = self._low_rank.get((device, dtype)) if no_mode_is_active() else None
        if kept is not None and kept[0] >= length:
            factors = kept[1]
        else:
            factors = self._factors(self._grown(length), device, dtype)
        return None if factors is None else LowRank(coefficients_RK=_first(factors[0], length), basis_KE=factors[1])

    def _grown(self, length: Any) -> int:
        """The length to compute: of a few values only, so that torch.compile meets few."""
        grown, needed = 64, length
        if isinstance(length, torch.SymInt):  # a graph's table that is taken whole would be a case of its own
            needed = _bounds(length)[1] + 1
        if needed == math.inf:
            if self._limit is None:
                raise ValueError(
                    "a dynamic length of torch.export must have a maximum where tables grow with it, got none: "
                    "give Dim('T', max=2048), or another number, in dynamic_shapes"
                )
            return self._limit
        while grown < needed:
            grown *= 2
        return grown if self._limit is None else min(grown, self._limit)

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator] # torch's decorator has no types
    def _at_least(self, length: int, device: torch.device, key: int | None) -> Tensor:
        return _as_seen_by_modes(lambda target: self._kept(length, target, key), device)

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator] # torch's decorator has no types
    def _factors(self, length: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        with _outside_modes():
            table = self._kept(length, torch.device("cpu"), None)
            known = self._low_rank.get((device, dtype))
            if known is None or known[0] != table.shape[-2]:
                found = low_rank(table, dtype)
                on_device = None if found is None else (found.coefficients_RK.to(device), found.basis_KE.to(device))
                known = (table.shape[-2], on_device)
                self._low_rank[device, dtype] = known
        factors = known[1]
        if factors is None:
            return None
        coefficients, basis = factors
        return _as_seen_by_modes(lambda _: coefficients, device), _as_seen_by_modes(lambda _: basis, device)

    def _kept(self, length: int, device: torch.device, key: int | None) -> Tensor:
        """The table on a device, made where it is not kept; called outside all modes, so that it is a plain tensor."""
        known = self._tables.get(device)
        if known is not None and known[0] == key and known[1].shape[-2] >= length:
            return known[1]
        table = (self._compute(length) if key is None else self._compute(length, key)).to(device)
        if not isinstance(table, FakeTensor):
            self._tables[device] = key, table
        return table

    def __deepcopy__(self, memo: dict[int, Any]) -> "TableCache":
        return TableCache(copy.deepcopy(self._compute, memo), self._limit)

    def __getstate__(self) -> dict[str, object]:
        return {"_compute": self._compute, "_limit": self._limit, "_tables": {}, "_low_rank": {}}


def _first(table_RX: Tensor, length: int) -> Tensor:
    """Its first rows; a view is made only where it says something, for in generation each operation counts."""
    return table_RX if table_RX.shape[-2] == length else table_RX[..., :length, :]


def clipped(length: int, limit: int) -> int:
    """min(length, limit), without a look at a length of torch.export's that lies on one side of the limit for sure."""
    least, most = _bounds(length)
    if most <= limit:
        return length
    return limit if least >= limit else min(length, limit)


def _bounds(length: Any) -> tuple[Any, Any]:
    """The least and the most that a length can be; the most of torch.export's dimension without a maximum is inf."""
    if not isinstance(length, torch.SymInt):
        return length, length
    bounds = length.node.shape_env.bound_sympy(length.node.expr)
    return int(bounds.lower), int(bounds.upper) if bounds.upper.is_Integer else math.inf


def no_mode_is_active() -> bool:
    """Whether no tracing, export or fake tensors are on, so that what is kept can be handed out as it is."""
    return not torch.compiler.is_compiling() and not _get_current_dispatch_mode_stack()


@contextmanager
def _outside_modes() -> Iterator[None]:
    """No tracing, no fake tensors, no inference tensors, no other default device: what is made here is plain."""
    with _disable_current_modes(), torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        yield


def _as_seen_by_modes(make: Callable[[torch.device], Tensor], device: torch.device) -> Tensor:
    """What `make` gives on the device: a plain tensor, or a fake one for a mode that takes no plain ones.

    torch.export and torch.compile take plain tensors as constants; a bare `FakeTensorMode` takes fake ones only.
    """
    with _outside_modes():
        table = make(device)
    fake = next((mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, FakeTensorMode)), None)
    return table if fake is None or fake.allow_non_fake_inputs else fake.from_tensor(table)
