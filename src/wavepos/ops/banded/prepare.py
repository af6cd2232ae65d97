"""A call in the form of the operator: table and bias are zero beyond their ends, and there is a key per position."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from wavepos.ops.call import Call
from wavepos.ops.gates import gate_sums
from wavepos.ops.mask import Mask
from wavepos.positions.terms import ScoreTerms


def prepared(call: Call) -> Call:
    """The same attention, with a table [1 or H,R,E] and a bias [H,R] of one length that are zero beyond it, and c.

    Causal calls get keys 0 … query_offset + T − 1: those ahead are left out, those missing put in and masked.
    """
    r_BHTE, table_XRE = relative_term(call)
    bias_HR = None if call.terms.bias_HR is None else call.without_tail(call.terms.bias_HR)
    table_XRE, bias_HR = _equally_long(table_XRE, bias_HR)
    k, v, padding = _a_key_per_position(call)
    terms = ScoreTerms(
        q_BHTD=call.terms.q_BHTD,
        k_BGSD=k,
        r_BHTE=r_BHTE,
        table=table_XRE,
        bias_HR=bias_HR,
        tail="zero",
        relative_scale=call.relative_scale,
    )
    mask = Mask(
        num_queries=call.mask.num_queries,
        num_keys=k.shape[2],
        query_offset=call.mask.query_offset,
        causal=call.mask.causal,
        key_padding_BS=padding,
        document_ids_BS=call.mask.document_ids_BS,
    )
    sums_BHS = _sums(call, k.shape[2])
    return Call(terms=terms, v_BGSD=v, mask=mask, softmax_scale=call.softmax_scale, sums_BHS=sums_BHS)


def relative_term(call: Call) -> tuple[Tensor | None, Tensor | None]:
    """r and the table, [1 or H,R,E] and zero beyond R, in their low-rank form where the position knows one."""
    terms = call.terms
    if terms.r_BHTE is None or terms.table is None:
        return None, None
    product = None if call.factors is None else call.factors(terms)
    if product is not None:
        return torch.matmul(terms.r_BHTE, product.basis_KE.mT), product.coefficients_RK[None]
    return terms.r_BHTE, call.without_tail(terms.table if terms.table.dim() == 3 else terms.table[None])


def _sums(call: Call, num_keys: int) -> Tensor | None:
    """c of as many keys, the last value held where keys are put in."""
    gates, known = call.terms.gates_BHS, call.mask.num_keys
    if gates is None:
        return None
    sums_BHS = gate_sums(gates, known)[..., :num_keys].expand(call.terms.q_BHTD.shape[0], -1, -1)
    if num_keys <= known:
        return sums_BHS
    return torch.cat([sums_BHS, sums_BHS[..., -1:].expand(*sums_BHS.shape[:2], num_keys - known)], -1)


def _equally_long(table_XRE: Tensor | None, bias_HR: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Zeros put in beyond the shorter one's end, where it is zero."""
    if table_XRE is None or bias_HR is None or table_XRE.shape[1] == bias_HR.shape[1]:
        return table_XRE, bias_HR
    length = max(table_XRE.shape[1], bias_HR.shape[1])
    table_XRE = pad(table_XRE, (0, 0, 0, length - table_XRE.shape[1]))
    return table_XRE, pad(bias_HR, (0, length - bias_HR.shape[1]))


def _a_key_per_position(call: Call) -> tuple[Tensor, Tensor, Tensor | None]:
    k, v, mask = call.terms.k_BGSD, call.v_BGSD, call.mask
    padding, end = mask.key_padding_BS, mask.query_offset + mask.num_queries
    missing = end - mask.num_keys
    if not mask.causal or missing == 0:
        return k, v, padding
    if missing < 0:
        return k[:, :, :end], v[:, :, :end], None if padding is None else padding[:, :end]
    if padding is None:
        padding = torch.ones(k.shape[0], mask.num_keys, dtype=torch.bool, device=k.device)
    rows = (0, 0, 0, missing)
    return pad(k, rows), pad(v, rows), pad(padding, (0, missing))
