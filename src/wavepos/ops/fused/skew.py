"""The relative logits r_m·p(δ), δ = −A … R − 1, laid out so that a tile of keys is a tile of aligned columns.

Query row i holds displacement δ in column first + i mod 16 − δ. Its key n = query_offset + i − δ then stands in column
n − 16·⌊i/16⌋ + key_column: consecutive keys are consecutive columns, and every 16th key begins at a multiple of 16.
Rows that share i mod 16 share their columns, so the logits are 16 plain matrix products with 16 shifted copies of the
table, all of them aligned as well; their gradients with respect to r and the table are the transposed products.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

SKEW = 16
GUARD = 256  # entries in front of the logits: a tile on the table's edge may reach that far before its first row


@dataclass(frozen=True, slots=True)
class SkewLayout:
    """Where the logits of `num_queries` rows and displacements −ahead … reach − 1 lie."""

    reach: int
    num_queries: int
    query_offset: int
    ahead: int = 0

    @property
    def length(self) -> int:
        """Displacements of a row."""
        return self.ahead + self.reach

    @property
    def first(self) -> int:
        """Column of displacement 0 in rows with i mod 16 = 0."""
        return self.reach - 1 + (self.query_offset - self.reach + 1) % SKEW

    @property
    def key_column(self) -> int:
        """What is added to n − 16·⌊i/16⌋ for key n's column; a multiple of 16, negative for late queries."""
        return self.first - self.query_offset

    @property
    def pitch(self) -> int:
        """Columns of a row, unused ones included; a multiple of 16."""
        return _round_up(self.first + self.ahead + SKEW)

    @property
    def rows(self) -> int:
        """Rows of one head: num_queries, rounded up to a multiple of 16."""
        return _round_up(self.num_queries)


def relative_logits(r_BHTE: Tensor, table_RE: Tensor, layout: SkewLayout) -> Tensor:
    """r_m·p(δ), [B·H·rows/16, 16, pitch] in r's dtype; zero in unused columns and rows."""
    r = _by_residue(r_BHTE, layout)
    shape = (r.shape[1], SKEW, layout.pitch)
    logits = r.new_empty(GUARD + math.prod(shape))[GUARD:].view(shape)
    torch.bmm(r, _shifted_copies(table_RE.to(r.dtype), layout).mT, out=logits.transpose(0, 1))
    return logits


def grad_r(dlogits: Tensor, table_RE: Tensor, layout: SkewLayout, shape: torch.Size) -> Tensor:
    """The gradient of r, of that shape, in the logits' dtype."""
    dr = dlogits.new_empty(dlogits.shape[0], SKEW, shape[-1])
    torch.bmm(dlogits.transpose(0, 1), _shifted_copies(table_RE.to(dlogits.dtype), layout), out=dr.transpose(0, 1))
    return dr.view(*shape[:2], layout.rows, shape[-1])[:, :, : shape[2]].contiguous()


def grad_table(dlogits: Tensor, r_BHTE: Tensor, layout: SkewLayout) -> Tensor:
    """The gradient of the table, [A+R,E], float32: a sum over batch, heads and queries."""
    products = torch.bmm(dlogits.permute(1, 2, 0), _by_residue(r_BHTE, layout)).float()
    return _displacements(products, layout).sum(0).flip(0)


def grad_bias(dlogits_BHTW: Tensor, layout: SkewLayout) -> Tensor:
    """The gradient of a bias that all rows of a head share, [H,A+R], float32: a sum over batch and queries."""
    batch, num_heads = dlogits_BHTW.shape[:2]
    rows = dlogits_BHTW.view(batch, num_heads, -1, SKEW, layout.pitch).sum((0, 2), dtype=torch.float32)
    return _displacements(rows.permute(1, 2, 0).contiguous(), layout).sum(0).flip(0).mT.contiguous()


def _round_up(length: int) -> int:
    return -(-length // SKEW) * SKEW


def _by_residue(r_BHTE: Tensor, layout: SkewLayout) -> Tensor:
    """Rows by i mod 16: [16, B·H·rows/16, E], a view unless rows are missing."""
    missing = layout.rows - layout.num_queries
    padded = pad(r_BHTE, (0, 0, 0, missing)) if missing else r_BHTE
    return padded.reshape(-1, SKEW, r_BHTE.shape[-1]).transpose(0, 1)


def _shifted_copies(table_RE: Tensor, layout: SkewLayout) -> Tensor:
    """For each i mod 16 the table by columns of the logits, [16,pitch,E], zero in unused columns."""
    copies = table_RE.new_zeros(SKEW, layout.pitch, table_RE.shape[1])
    _displacements(copies, layout).copy_(table_RE.flip(0))
    return copies


def _displacements(columns: Tensor, layout: SkewLayout) -> Tensor:
    """The used columns of a contiguous [16,pitch,X] as a view [16,A+R,X], displacements falling."""
    width = columns.shape[2]
    strides = ((layout.pitch + 1) * width, width, 1)
    return columns.as_strided((SKEW, layout.length, width), strides, (layout.first - layout.reach + 1) * width)
