"""The specification: dense attention in float32, to be read beside the score formula of `positions/terms.py`."""

import torch
from torch import Tensor
from torch.nn.functional import dropout as random_dropout

from wavepos.ops.call import TABLE_TERMS, Call, Implementation
from wavepos.ops.gates import gate_differences
from wavepos.ops.mask import hide


def _weights(call: Call) -> Tensor:
    """softmax over the keys seen of the scores s[h,m,n] (Eq. 10 and its further terms).

    s[h,m,n] = softmax_scale · q_m·k_n + relative_scale · r_m·p(δ) + b[h,δ] + c[h,m] − c[h,n]

    Returns:
        [B,H,T,S], float32 (float64 for float64 input); the rows of queries that see no key are zero.
    """
    terms, mask = call.terms, call.mask
    dtype = call.wide_dtype
    scores_BHTS = call.softmax_scale * _dot_products(terms.q_BHTD.to(dtype), terms.k_BGSD.to(dtype))
    displacement_TS = mask.displacement_TS(terms.q_BHTD.device)
    if terms.r_BHTE is not None and terms.table is not None:
        products_BHTR = call.relative_scale * torch.matmul(terms.r_BHTE.to(dtype), terms.table.to(dtype).mT)
        scores_BHTS = scores_BHTS + terms.at_displacement(products_BHTR, displacement_TS)
    if terms.bias_HR is not None:
        num_queries = terms.q_BHTD.shape[2]
        bias_HTR = terms.bias_HR.to(dtype)[:, None].expand(-1, num_queries, -1)
        scores_BHTS = scores_BHTS + terms.at_displacement(bias_HTR, displacement_TS)
    if terms.gates_BHS is not None:
        query_T = torch.arange(mask.num_queries, device=terms.q_BHTD.device) + mask.query_offset
        scores_BHTS = scores_BHTS + gate_differences(terms.gates_BHS, mask.num_keys, query_T).to(dtype)
    allowed = mask.allowed(terms.q_BHTD.device)
    return hide(scores_BHTS, allowed, allowed.any(-1, keepdim=True)).softmax(dim=-1) * allowed


def _attention(call: Call) -> Tensor:
    """Weights times values, [B,H,T,D] in q's dtype; memory grows as T·S."""
    weights, v_BGSD = _weights(call), call.v_BGSD
    if call.dropout > 0.0:
        weights = random_dropout(weights, call.dropout)
    groups = v_BGSD.shape[1]
    out = torch.matmul(_grouped(weights, groups), v_BGSD.to(weights.dtype)[:, :, None])
    return out.flatten(1, 2).to(call.terms.q_BHTD.dtype)


def _dot_products(q_BHTD: Tensor, k_BGSD: Tensor) -> Tensor:
    return torch.matmul(_grouped(q_BHTD, k_BGSD.shape[1]), k_BGSD.mT[:, :, None]).flatten(1, 2)


def _grouped(x_BH: Tensor, num_groups: int) -> Tensor:
    """[B,H,...] as [B,G,H/G,...]: the query heads of one key/value head side by side."""
    heads_per_group = x_BH.shape[1] // max(num_groups, 1)
    return x_BH.reshape(x_BH.shape[0], num_groups, heads_per_group, *x_BH.shape[2:])


_SERVES = TABLE_TERMS | {"first_displacement", "gates_BHS"}
REFERENCE = Implementation(label="backend='reference'", serves=_SERVES, limits=lambda call: None, compute=_attention)
WEIGHTS = Implementation(label="attention_map", serves=_SERVES, limits=lambda call: None, compute=_weights)
