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
    sums_BHS, blocks = call.sums_BHS, list(band.blocks())
    assert sums_BHS is not None and band.block is not None
    if not blocks or not _may_prune(call):
        return None
    ahead_BHT = _advantage(call, slice(blocks[0].start, None))
    whole_BHT = pad(ahead_BHT, (0, -ahead_BHT.shape[-1] % band.block), value=-torch.inf)
    most_BHN = whole_BHT.view(*whole_BHT.shape[:2], -1, band.block).amax(-1)
    found_BGN = _found(call, sums_BHS[..., [band.query_offset + x.start for x in blocks]], most_BHN)
    firsts: list[list[list[int]]] = found_BGN.permute(2, 0, 1).tolist()
    return firsts


def first_keys_of_masked(call: Call, band: Band) -> Tensor | None:
    """For every query of a call with padding or documents a key before which none has a weight, [B,G,T]; None: key 0.

    All keys are near there. The bound is that of `first_keys` for the query alone, so it holds for keys beyond the
    table, with the last key that the query sees in the place of its own, which may be hidden. A query that sees no key
    leaves out all; where the last key kept is of another document or outside of the window, none.
    """
    sums_BHS, mask, offset = call.sums_BHS, call.mask, band.query_offset
    masked = mask.key_padding_BS is not None or mask.document_ids_BS is not None
    if sums_BHS is None or not masked or offset + band.num_queries > band.num_keys or not _may_prune(call):
        return None
    position_T = torch.arange(offset, offset + band.num_queries, device=sums_BHS.device)
    last_BT, seen_BT = position_T.expand(sums_BHS.shape[0], -1), torch.ones((), dtype=torch.bool)
    if mask.key_padding_BS is not None:
        kept_BS = torch.where(mask.key_padding_BS, torch.arange(band.num_keys, device=sums_BHS.device), -1)
        last_BT = kept_BS.cummax(1).values[:, position_T]
        seen_BT = position_T - last_BT < (mask.window or band.num_keys)
        if mask.document_ids_BS is not None:
            ids_BS = mask.document_ids_BS
            seen_BT = seen_BT & (ids_BS.gather(1, last_BT.clamp_min(0)) == ids_BS[:, position_T])
    most_BHT = _advantage(call, slice(0, None), last_BT.clamp_min(0))
    bounded_BT, unknown_BT = seen_BT & (last_BT >= 0), torch.where(last_BT < 0, -torch.inf, torch.inf)
    most_BHT = torch.where(bounded_BT[:, None], most_BHT, unknown_BT[:, None].to(most_BHT.dtype))
    sums_BHT = sums_BHS.gather(2, last_BT.clamp_min(0)[:, None].expand(-1, sums_BHS.shape[1], -1))
    found_BGT = _found(call, sums_BHT, most_BHT)
    return found_BGT.minimum((position_T - max(0, band.first + band.table_length - 1)).clamp_min(0))


def _may_prune(call: Call) -> bool:
    """Whether looking is cheap and c never rises, as the bound takes it."""
    sums_BHS = call.sums_BHS
    if sums_BHS is None or sums_BHS.device.type != "cpu":
        return False
    return not bool((sums_BHS[..., 1:] > sums_BHS[..., :-1]).any())


def _found(call: Call, sums_BHN: Tensor, most_BHN: Tensor) -> Tensor:
    """The first key, a multiple of the step, whose weight may matter to any head of a key/value head, [B,G,N].

    Args:
        call: the call.
        sums_BHN: c of the queries.
        most_BHN: by how much a key's score may exceed that of the query's own key before gates; −inf: no key matters.
    """
    k, sums_BHS = call.terms.k_BGSD, call.sums_BHS
    assert sums_BHS is not None
    margin = 1.0 + math.log(k.shape[2]) - math.log(torch.finfo(call.wide_dtype).eps)
    limit_BHN = most_BHN.double() * (1.0 + 1e-5) + margin
    bound_BHN = sums_BHN + limit_BHN.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    # c falls along the keys: the first that does not exceed the bound
    found_BHN = torch.searchsorted(-sums_BHS, -bound_BHN)
    return found_BHN.view(*k.shape[:2], -1, found_BHN.shape[-1]).amin(2) // _STEP * _STEP


def _advantage(call: Call, rows: slice, key_BT: Tensor | None = None) -> Tensor:
    """By how much the score of a key beyond the band may exceed that of one key per query before gates, [B,H,T].

    key_BT: those keys' positions; None: the query's own.
    """
    terms, dtype = call.terms, call.wide_dtype
    batch, num_groups, _, head_dim = terms.k_BGSD.shape
    q_BHTD = terms.q_BHTD[:, :, rows].to(dtype)
    q_BGJTD = q_BHTD.view(batch, num_groups, -1, q_BHTD.shape[2], head_dim)
    own = torch.arange(call.mask.num_queries, device=q_BHTD.device)[rows] + call.mask.query_offset
    key_BT = own.expand(batch, -1) if key_BT is None else key_BT
    k_BGTD = terms.k_BGSD.gather(2, key_BT[:, None, :, None].expand(-1, num_groups, -1, head_dim)).to(dtype)
    own_BGJT = torch.einsum("bgjtd,bgtd->bgjt", q_BGJTD, k_BGTD)
    longest_BG = torch.linalg.vector_norm(terms.k_BGSD, dim=-1, dtype=dtype).amax(-1)
    most_BGJT = torch.linalg.vector_norm(q_BGJTD, dim=-1) * longest_BG[..., None, None]
    ahead_BHT: Tensor = (most_BGJT - own_BGJT).flatten(1, 2) * call.softmax_scale
    displacement_BT = own - key_BT
    if terms.r_BHTE is not None and terms.table is not None:
        table_BXTE = _at_displacements(terms.table, displacement_BT).to(dtype)
        products_BHT = (terms.r_BHTE[:, :, rows].to(dtype) * table_BXTE).sum(-1)
        ahead_BHT = ahead_BHT - products_BHT * call.relative_scale
    if terms.bias_HR is not None:
        ahead_BHT = ahead_BHT - _at_displacements(terms.bias_HR, displacement_BT).to(dtype)
    return ahead_BHT


def _at_displacements(values_XR: Tensor, displacement_BT: Tensor) -> Tensor:
    """values[x, δ, …] as [B,x,T,…], zero beyond the last entry; the first is that of displacement 0."""
    inside_BT = displacement_BT < values_XR.shape[1]
    at = values_XR[:, torch.where(inside_BT, displacement_BT, 0)].transpose(0, 1)
    return at * inside_BT.view(inside_BT.shape[0], 1, -1, *(1,) * (at.dim() - 3))
