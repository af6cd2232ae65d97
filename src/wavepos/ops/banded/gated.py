"""What gates ask of the far part besides a row: their gradients from fused calls, and which keys may be left out."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from wavepos.ops.banded.band import Band
from wavepos.ops.call import Call

_STEP = 64
"""The first key of a call is a multiple of this."""
_MULTIPLE = 8
"""Kernels read rows that begin at multiples of 16 bytes."""


class Columns:
    """Further dimensions of a fused backward call whose gradients are sums of the gradient of the scores, dS.

    Where queries hold 1 and keys 0 no score changes, and the gradient of a key there is softmax_scale · Σ_m dS[m,n]; so
    is that of a query, Σ_n dS[m,n], where keys hold 1 and queries 0. Each query head of a key/value head has a
    dimension of its own for the first; the last one is the second.
    """

    def __init__(self, head_dim: int, heads_per_group: int) -> None:
        self._head_dim, self._count = head_dim, heads_per_group
        self._last = head_dim + heads_per_group
        self._width = self._last + 1
        self._width += -self._width % _MULTIPLE

    @classmethod
    def of(cls, call: Call) -> "Columns":
        """Those that a call needs."""
        q, k = call.terms.q_BHTD, call.terms.k_BGSD
        return cls(q.shape[-1], q.shape[1] // k.shape[1])

    def zeros(self, x: Tensor) -> Tensor:
        return pad(x, (0, self._width - self._head_dim))

    def keys(self, k_BGSD: Tensor) -> Tensor:
        wide = self.zeros(k_BGSD)
        wide[..., self._last] = 1.0
        return wide

    def queries(self, q_BHTD: Tensor) -> Tensor:
        wide = self.zeros(q_BHTD)
        for head in range(self._count):
            wide[:, head :: self._count, :, self._head_dim + head] = 1.0
        return wide

    def sums_of_keys(self, dk_BGKD: Tensor) -> Tensor:
        """softmax_scale · Σ_m dS[m,n] of every query head, [B,H,K]."""
        return dk_BGKD[..., self._head_dim : self._last].mT.flatten(1, 2)

    def sums_of_queries(self, dq_BHTD: Tensor) -> Tensor:
        """softmax_scale · Σ_n dS[m,n], [B,H,T]."""
        return dq_BHTD[..., self._last]


def first_keys(call: Call, band: Band) -> list[list[list[int]]] | None:
    """For every block of queries, batch row and key/value head a key before which no key has a weight; None: key 0.

    A query m of the block that begins at o gives its own key, which every window holds, a weight of at least
    exp(own − lse), and a key n beyond the band one of at most exp(softmax_scale·|q_m|·max|k| + c[o] − c[n] − lse), for
    c never rises. Where the second is below the first by log S − log ε for every query of the block, all such keys
    together weigh less than ε beside one. That takes norms and a product per query; where the device would have to wait
    for it (GPUs) it is not asked.
    """
    q, k, sums_BHS, blocks = call.terms.q_BHTD, call.terms.k_BGSD, call.sums_BHS, list(band.blocks())
    assert sums_BHS is not None and band.block is not None
    if q.device.type != "cpu" or not blocks or bool((sums_BHS[..., 1:] > sums_BHS[..., :-1]).any()):
        return None
    ahead_BHT = _advantage(call, slice(blocks[0].start, None))
    whole_BHT = pad(ahead_BHT, (0, -ahead_BHT.shape[-1] % band.block), value=-torch.inf)
    blocks_BHNC = whole_BHT.view(*whole_BHT.shape[:2], -1, band.block)
    margin = 1.0 + math.log(k.shape[2]) - math.log(torch.finfo(call.wide_dtype).eps)
    limit_BHN = blocks_BHNC.amax(-1).double() * (1.0 + 1e-5) + margin
    bound_BHN = sums_BHS[..., [band.query_offset + x.start for x in blocks]]
    bound_BHN = bound_BHN + torch.where(limit_BHN.isfinite(), limit_BHN, torch.inf)
    # c falls along the keys: the first that does not exceed the bound
    found_BHN = torch.searchsorted(-sums_BHS, -bound_BHN)
    found_BGN = found_BHN.view(*k.shape[:2], -1, found_BHN.shape[-1]).amin(2) // _STEP * _STEP
    firsts: list[list[list[int]]] = found_BGN.permute(2, 0, 1).tolist()
    return firsts


def _advantage(call: Call, rows: slice) -> Tensor:
    """By how much the score of a key beyond the band may exceed that of the query's own key before gates, [B,H,T]."""
    terms, dtype = call.terms, call.wide_dtype
    batch, num_groups, _, head_dim = terms.k_BGSD.shape
    q_BHTD = terms.q_BHTD[:, :, rows].to(dtype)
    q_BGJTD = q_BHTD.view(batch, num_groups, -1, q_BHTD.shape[2], head_dim)
    own_keys = slice(call.mask.query_offset + rows.start, call.mask.query_offset + call.mask.num_queries)
    own_BGJT = torch.einsum("bgjtd,bgtd->bgjt", q_BGJTD, terms.k_BGSD[:, :, own_keys].to(dtype))
    longest_BG = torch.linalg.vector_norm(terms.k_BGSD, dim=-1, dtype=dtype).amax(-1)
    most_BGJT = torch.linalg.vector_norm(q_BGJTD, dim=-1) * longest_BG[..., None, None]
    ahead_BHT: Tensor = (most_BGJT - own_BGJT).flatten(1, 2) * call.softmax_scale
    if terms.r_BHTE is not None and terms.table is not None:
        own = terms.r_BHTE[:, :, rows].to(dtype) @ terms.table[:, :1].to(dtype).mT
        ahead_BHT = ahead_BHT - own[..., 0] * call.relative_scale
    if terms.bias_HR is not None:
        ahead_BHT = ahead_BHT - terms.bias_HR[:, :1].to(dtype)
    return ahead_BHT
