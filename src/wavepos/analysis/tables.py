"""What a relative table holds at a length: dead dimensions, rank, band, constants (for Tables 3 and 4).

A perplexity of Tables 3 and 4 compares grids of wavelets, but also how much of a grid is alive inside L_train, how many
independent functions of the displacement it spans, and how far it reaches; these are confounded there, and stand here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wavepos import Wavelet

DEAD_BELOW = 0.01
CONSTANT_ABOVE = 0.999
RANK_TOLERANCE = 0.01
BAND_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStatistics:
    """What a table p(δ) holds over δ = 0 … length − 1.

    Attributes:
        length: displacements looked at.
        dims: E.
        dead: dimensions with |p| < 0.01 at every displacement.
        constant: dimensions with p > 0.999 at every displacement; the softmax does not see what they add.
        rank: singular values of at least 0.01 times the largest.
        centred_rank: the same, of the table less its mean over the displacements: what the softmax can see.
        peak: the largest |p|.
        band: displacements from which on every |p| ≤ 0.001, whatever the length.
    """

    length: int
    dims: int
    dead: int
    constant: int
    rank: int
    centred_rank: int
    peak: float
    band: int


def table_statistics(position: Wavelet, length: int) -> TableStatistics:
    """The statistics of a wavelet position's table at a length.

    Args:
        position: whose table.
        length: displacements, such as L_train; a table may reach farther.

    Raises:
        ValueError: the length is not a positive whole number.
    """
    table = position.table(length).to(torch.float64)
    return TableStatistics(
        length=length,
        dims=table.shape[1],
        dead=int((table.abs().amax(0) < DEAD_BELOW).sum()),
        constant=int((table.amin(0) > CONSTANT_ABOVE).sum()),
        rank=numerical_rank(table),
        centred_rank=numerical_rank(table - table.mean(0)),
        peak=float(table.abs().max()),
        band=position.reach(BAND_TOLERANCE),
    )


def numerical_rank(table_RE: Tensor, tolerance: float = RANK_TOLERANCE) -> int:
    """The number of singular values above tolerance times the largest; 0 for a table of zeros."""
    singular = torch.linalg.svdvals(table_RE.to(torch.float64))
    return int((singular > tolerance * singular[0]).sum())
