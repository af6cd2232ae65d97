"""A call in the form of the operator: table and bias over the displacements that it has, and zero beyond them."""

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from wavepos.ops.call import Call
from wavepos.ops.gates import position_sums
from wavepos.ops.mask import Mask
from wavepos.positions.terms import ScoreTerms


def prepared(call: Call) -> Call:
    """The same attention, with a table [1 or H,R,E] and a bias [H,R] of one length, zero beyond either end, and c.

    Both hold displacements of the call only. Causal calls lose the keys ahead of the last query.
    """
    mask, v = call.mask, call.v_BGSD
    r_BHTE, table_XRE, bias_HR, first = relative_terms(call)
    end = min(mask.num_keys, mask.query_offset + mask.num_queries) if mask.causal else mask.num_keys
    padding = mask.key_padding_BS
    terms = ScoreTerms(
        q_BHTD=call.terms.q_BHTD,
        k_BGSD=call.terms.k_BGSD[:, :, :end],
        r_BHTE=r_BHTE,
        table=table_XRE,
        bias_HR=bias_HR,
        tail="zero",
        first_displacement=first,
        relative_scale=call.relative_scale,
    )
    mask = Mask(
        num_queries=mask.num_queries,
        num_keys=end,
        query_offset=mask.query_offset,
        causal=mask.causal,
        window=mask.window,
        key_padding_BS=None if padding is None else padding[:, :end],
        document_ids_BS=mask.document_ids_BS,
    )
    return Call(terms=terms, v_BGSD=v[:, :, :end], mask=mask, softmax_scale=call.softmax_scale, sums_BHS=_sums(call))


def relative_terms(call: Call) -> tuple[Tensor | None, Tensor | None, Tensor | None, int]:
    """r, the table [1 or H,R,E], the bias [H,R], and the displacement of their first entry; zero beyond either end.

    The table is in its low-rank form where the position knows one. A query's scores may all lack the same number.
    """
    terms, first = call.terms, call.terms.first_displacement
    r_BHTE, table, bias = terms.r_BHTE, terms.table, terms.bias_HR
    starts = []
    if r_BHTE is not None and table is not None:
        product = None if call.factors is None else call.factors(terms)
        if product is not None:
            r_BHTE, table = linear(r_BHTE, product.basis_KE), product.coefficients_RK
        table, start = _fitted(call, table if table.dim() == 3 else table[None], first)
        starts.append(start)
    if bias is not None:
        bias, start = _fitted(call, bias, first)
        starts.append(start)
    if table is None or bias is None:
        return r_BHTE, table, bias, starts[0] if starts else 0
    first, last = min(starts), max(starts[0] + table.shape[1], starts[1] + bias.shape[1])
    table = pad(table, (0, 0, starts[0] - first, last - starts[0] - table.shape[1]))
    bias = pad(bias, (starts[1] - first, last - starts[1] - bias.shape[1]))
    return r_BHTE, table, bias, first


def _sums(call: Call) -> Tensor | None:
    """c at every position up to the last query's; beyond the last key that one's holds."""
    if call.terms.gates_BHS is None:
        return None
    end = call.mask.query_offset + call.mask.num_queries
    return position_sums(call.terms.gates_BHS, call.mask, call.terms.q_BHTD.shape[0])[..., :end]


def _fitted(call: Call, values_XR: Tensor, first: int) -> tuple[Tensor, int]:
    """A table [1 or H,R,…] or bias [H,R], cut to the call's displacements, and the displacement of its first entry.

    Zero holds beyond its ends, up to a constant per query, which no softmax sees: an end whose entry holds beyond it
    is taken from all. Where the call meets such entries on both sides, those ahead are put in.
    """
    lowest, highest = call.mask.displacements()
    last = first + values_XR.shape[1] - 1
    if call.terms.tail == "clamp":
        both = lowest < first and last < highest
        values_XR = call.without_tail(values_XR, of_last=both or lowest >= first)
        if both:
            ahead = values_XR[:, :1].expand(-1, first - lowest, *values_XR.shape[2:])
            values_XR, first = torch.cat([ahead, values_XR], dim=1), lowest
    start, end = max(0, lowest - first), min(highest - first + 1, values_XR.shape[1])
    if start == 0 and end == values_XR.shape[1]:
        return values_XR, first
    return values_XR[:, start:end], first + start
