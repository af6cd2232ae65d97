"""Tables as products of two thin matrices: smooth functions of the displacement span few dimensions."""

from dataclasses import dataclass

import torch
from torch import Tensor

_MULTIPLE = 8
_WORTHWHILE = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """table ≈ coefficients · basis, so r·p(δ) = (r basisᵀ)·coefficients(δ).

    Attributes:
        coefficients_RK: one row a displacement.
        basis_KE: orthonormal rows.
    """

    coefficients_RK: Tensor
    basis_KE: Tensor


def low_rank(table_RE: Tensor, dtype: torch.dtype) -> LowRank | None:
    """The fewest factors whose every row lies within the dtype's rounding of the table's largest entry.

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
