"""The far part of attention with gates: c[h,m] − c[h,n] as a row that is added to the scores of a block of queries.

What depends on the query alone is a constant of its row, which a softmax does not see. So of c[m] − c[n] a fused call
needs c[o] − c[n] only, with o the first query of its block: a row of numbers at most 0 whose rounding is that of the
scores themselves, however long the sequence. The rest, c[m] − c[o], is added to the log-sum-exps before the near part
is merged in. A block meets the keys before its band in one call without a causal mask; the staircase between is near.

On a CPU, keys whose weight is zero to the accumulation's rounding are left out, by a bound and not by a threshold
(`_first_keys`), so that a steep gate costs no more than the window that it is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from wavepos.ops.banded.band import Band
from wavepos.ops.banded.far import flash_backward, flash_forward
from wavepos.ops.banded.totals import Grads, Output
from wavepos.ops.call import Call

_STEP = 64
"""The first key of a call is a multiple of this."""
_MULTIPLE = 8
"""Kernels read rows that begin at multiples of 16 bytes."""


def gated_far_forward(call: Call, band: Band, output: Output) -> None:
    """Write the far part's output and log-sum-exp into the rows from the first that has one on."""
    rows = slice(band.first_far_row, None)
    output.out_BHTD[:, :, rows], output.lse_BHT[:, :, rows] = 0.0, -torch.inf
    for run in _runs(call, band):
        q, k, v = run.queries(call.terms.q_BHTD), run.keys(call.terms.k_BGSD), run.keys(call.v_BGSD)
        out, lse = flash_forward(q, k, v, False, call.softmax_scale, run.row(call, band))
        run.queries(output.out_BHTD).copy_(out)
        torch.add(lse, run.column(call, band), out=run.queries(output.lse_BHT))


def gated_far_backward(call: Call, band: Band, grad_BHTD: Tensor, output: Output, grads: Grads) -> None:
    """Write the far part of the gradients of q, k, v and c, zero where there is none."""
    for x in (grads.dq_BHTD, grads.dk_BGSD, grads.dv_BGSD):
        x.zero_()
    head_dim = grad_BHTD.shape[-1]
    heads_per_group = grad_BHTD.shape[1] // call.terms.k_BGSD.shape[1]
    columns = _Columns(head_dim, heads_per_group) if grads.dsums_BHS is not None else None
    k, v = call.terms.k_BGSD, call.v_BGSD
    if columns is not None:
        k, v = columns.keys(k), columns.zeros(v)
    for run in _runs(call, band):
        q, grad, out = (run.queries(x) for x in (call.terms.q_BHTD, grad_BHTD, output.out_BHTD))
        if columns is not None:
            q, grad, out = columns.queries(q), columns.zeros(grad), columns.zeros(out)
        lse = run.queries(output.lse_BHT) - run.column(call, band)
        dq, dk, dv = flash_backward(
            grad, (out, lse), (q, run.keys(k), run.keys(v)), False, call.softmax_scale, run.row(call, band)
        )
        run.queries(grads.dq_BHTD).copy_(dq[..., :head_dim])
        run.keys(grads.dk_BGSD).add_(dk[..., :head_dim])
        run.keys(grads.dv_BGSD).add_(dv[..., :head_dim])
        if columns is not None and grads.dsums_BHS is not None:
            dsums_BHS, own = run.of_heads(grads.dsums_BHS), run.query_positions(band)
            dsums_BHS[:, :, run.key_positions].sub_(columns.sums_of_keys(dk), alpha=1.0 / call.softmax_scale)
            dsums_BHS[:, :, own].add_(columns.sums_of_queries(dq), alpha=1.0 / call.softmax_scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One fused call: queries of one block, the keys before their band, some batch rows and key/value heads."""

    rows: slice
    key_positions: slice
    batch: slice
    groups: slice
    heads_per_group: int

    def of_heads(self, x_BH: Tensor) -> Tensor:
        heads = slice(self.groups.start * self.heads_per_group, self.groups.stop * self.heads_per_group)
        return x_BH[self.batch, heads]

    def queries(self, x_BHT: Tensor) -> Tensor:
        return self.of_heads(x_BHT)[:, :, self.rows]

    def keys(self, x_BGS: Tensor) -> Tensor:
        return x_BGS[self.batch, self.groups, self.key_positions]

    def query_positions(self, band: Band) -> slice:
        return slice(band.query_offset + self.rows.start, band.query_offset + self.rows.stop)

    def row(self, call: Call, band: Band) -> Tensor:
        """c[o] − c[n] of the keys, [B,H,1,K]."""
        sums_BHS, origin = self._sums(call, band)
        return (origin - sums_BHS[:, :, self.key_positions])[:, :, None].to(_wide(call))

    def column(self, call: Call, band: Band) -> Tensor:
        """c[m] − c[o] of the queries, [B,H,C]."""
        sums_BHS, origin = self._sums(call, band)
        return (sums_BHS[:, :, self.query_positions(band)] - origin).to(_wide(call))

    def _sums(self, call: Call, band: Band) -> tuple[Tensor, Tensor]:
        assert call.sums_BHS is not None
        sums_BHS = self.of_heads(call.sums_BHS)
        first = band.query_offset + self.rows.start
        return sums_BHS, sums_BHS[:, :, first : first + 1]


class _Columns:
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


def _runs(call: Call, band: Band) -> Iterator[_Run]:
    """The fused calls of the far part: one per block where all heads begin at one key, else one per run of heads."""
    if band.block is None:
        return
    batch, num_groups = call.terms.k_BGSD.shape[:2]
    heads_per_group = call.terms.q_BHTD.shape[1] // num_groups
    starts = list(range(band.first_far_row, band.num_queries, band.block))
    first_keys = _first_keys(call, band)
    for index, start in enumerate(starts):
        rows, end = slice(start, min(start + band.block, band.num_queries)), band.first_near_key(start)
        firsts = [[0] * num_groups] * batch if first_keys is None else first_keys[index]
        for rows_of_batch, groups, first in _rectangles(firsts):
            if first < end:
                yield _Run(
                    rows=rows,
                    key_positions=slice(first, end),
                    batch=rows_of_batch,
                    groups=groups,
                    heads_per_group=heads_per_group,
                )


def _rectangles(firsts: list[list[int]]) -> Iterator[tuple[slice, slice, int]]:
    """Batch rows and key/value heads that begin at the same key: all, or the neighbours of one batch row."""
    if all(first == firsts[0][0] for row in firsts for first in row):
        yield slice(0, len(firsts)), slice(0, len(firsts[0])), firsts[0][0]
        return
    for index, row in enumerate(firsts):
        begin = 0
        for group in range(1, len(row) + 1):
            if group == len(row) or row[group] != row[begin]:
                yield slice(index, index + 1), slice(begin, group), row[begin]
                begin = group


def _first_keys(call: Call, band: Band) -> list[list[list[int]]] | None:
    """For every block of queries, batch row and key/value head a key before which no key has a weight; None: key 0.

    A query m of the block that begins at o gives its own key a weight of at least exp(own − lse), and a key n beyond
    the band one of at most exp(softmax_scale·|q_m|·max|k| + c[o] − c[n] − lse), for c never rises. Where the second is
    below the first by log S − log ε for every query of the block, all such keys together weigh less than ε beside one.
    That takes norms and a product per query; where the device would have to wait for it (GPUs) it is not asked.
    """
    q, k, sums_BHS = call.terms.q_BHTD, call.terms.k_BGSD, call.sums_BHS
    first = band.first_far_row
    assert sums_BHS is not None and band.block is not None
    if q.device.type != "cpu" or first == band.num_queries or bool((sums_BHS[..., 1:] > sums_BHS[..., :-1]).any()):
        return None
    ahead_BHT = _advantage(call, band)
    whole_BHT = pad(ahead_BHT, (0, -ahead_BHT.shape[-1] % band.block), value=-torch.inf)
    blocks_BHNC = whole_BHT.view(*whole_BHT.shape[:2], -1, band.block)
    margin = 1.0 + math.log(k.shape[2]) - math.log(torch.finfo(_wide(call)).eps)
    limit_BHN = blocks_BHNC.amax(-1).double() * (1.0 + 1e-5) + margin
    origins = torch.arange(band.query_offset + first, band.query_offset + band.num_queries, band.block)
    bound_BHN = sums_BHS[..., origins] + torch.where(limit_BHN.isfinite(), limit_BHN, torch.inf)
    # c falls along the keys: the first that does not exceed the bound
    found_BHN = torch.searchsorted(-sums_BHS, -bound_BHN)
    found_BGN = found_BHN.view(*k.shape[:2], -1, found_BHN.shape[-1]).amin(2) // _STEP * _STEP
    firsts: list[list[list[int]]] = found_BGN.permute(2, 0, 1).tolist()
    return firsts


def _advantage(call: Call, band: Band) -> Tensor:
    """By how much the score of a key beyond the band may exceed that of the query's own key before gates, [B,H,T]."""
    terms, dtype, rows = call.terms, _wide(call), slice(band.first_far_row, None)
    batch, num_groups, _, head_dim = terms.k_BGSD.shape
    q_BHTD = terms.q_BHTD[:, :, rows].to(dtype)
    q_BGJTD = q_BHTD.view(batch, num_groups, -1, q_BHTD.shape[2], head_dim)
    own_keys = slice(band.query_offset + band.first_far_row, band.query_offset + band.num_queries)
    own_BGJT = torch.einsum("bgjtd,bgtd->bgjt", q_BGJTD, terms.k_BGSD[:, :, own_keys].to(dtype))
    longest_BG = torch.linalg.vector_norm(terms.k_BGSD, dim=-1, dtype=dtype).amax(-1)
    most_BGJT = torch.linalg.vector_norm(q_BGJTD, dim=-1) * longest_BG[..., None, None]
    ahead_BHT: Tensor = (most_BGJT - own_BGJT).flatten(1, 2) * call.softmax_scale
    if terms.r_BHTE is not None and terms.table is not None:
        first_XE1 = terms.table[:, 0, :, None].to(dtype)
        ahead_BHT = ahead_BHT - (terms.r_BHTE[:, :, rows].to(dtype) @ first_XE1)[..., 0] * call.relative_scale
    if terms.bias_HR is not None:
        ahead_BHT = ahead_BHT - terms.bias_HR[:, :1].to(dtype)
    return ahead_BHT


def _wide(call: Call) -> torch.dtype:
    return torch.promote_types(call.terms.q_BHTD.dtype, torch.float32)
