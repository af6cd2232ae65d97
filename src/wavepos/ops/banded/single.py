"""Calls that are one call of PyTorch's attention: without a mask or a table, and of a single query, as in decoding."""

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from wavepos.ops.banded.prepare import relative_term
from wavepos.ops.call import Call
from wavepos.ops.gates import gate_differences
from wavepos.ops.mask import hide
from wavepos.positions.terms import at_least_float32


def is_single(call: Call) -> bool:
    """Whether `single_attention` computes it."""
    mask = call.mask
    if mask.num_queries == 1:
        return True
    if not {"table", "bias_HR", "gates_BHS"}.isdisjoint(call.terms.in_use()):
        return False
    if mask.key_padding_BS is not None or mask.document_ids_BS is not None:
        return False
    return not mask.causal or (mask.query_offset == 0 and mask.num_queries <= mask.num_keys)


def single_attention(call: Call) -> Tensor:
    """[B,H,T,D]. The mask of a single query is a row, and its bias stands on the last R keys."""
    q, mask = call.terms.q_BHTD, call.mask
    end = mask.query_offset + mask.num_queries if mask.causal else mask.num_keys
    k, v = call.terms.k_BGSD[:, :, :end], call.v_BGSD[:, :, :end]
    grouped = k.shape[1] != q.shape[1]
    if mask.num_queries > 1:
        return scaled_dot_product_attention(
            q, k, v, is_causal=mask.causal, scale=call.softmax_scale, enable_gqa=grouped
        )
    row, seen = _row(call, k.shape[2])
    out = scaled_dot_product_attention(q, k, v, attn_mask=row, scale=call.softmax_scale, enable_gqa=grouped)
    return out if seen is None else torch.where(seen, out, 0.0)


def _row(call: Call, num_keys: int) -> tuple[Tensor | None, Tensor | None]:
    """What is added to one query's scores, [B,H,1,S], and whether it sees any key, [B,1,1,1]; None: nothing, yes."""
    q, row = call.terms.q_BHTD, None
    for values in _by_displacement(call):
        missing = call.mask.query_offset + 1 - values.shape[-1]
        placed = pad(values.flip(-1), (missing, 0))[..., :num_keys].to(q.dtype)
        row = placed if row is None else row + placed
    gates_BHTS = gate_differences(call, torch.tensor([call.mask.query_offset], device=q.device))
    if gates_BHTS is not None:
        placed = gates_BHTS[..., :num_keys].to(q.dtype)
        row = placed if row is None else row + placed
    allowed = call.mask.allowed_by_key(slice(0, 1), slice(0, num_keys))
    if allowed is None:
        return row, None
    seen = allowed.any(-1, keepdim=True)
    row = torch.zeros((), dtype=q.dtype, device=q.device) if row is None else row
    return hide(row.expand(*q.shape[:3], num_keys), allowed, seen), seen


def _by_displacement(call: Call) -> list[Tensor]:
    """relative_scale · r·p(δ) and b[δ] for δ = 0, 1, … of a single query, [B or 1,H,1,R]."""
    values = []
    r_BHTE, table_XRE = relative_term(call)
    if r_BHTE is not None and table_XRE is not None:
        wide = at_least_float32(r_BHTE)
        values.append(torch.matmul(wide, table_XRE.to(wide.dtype).mT) * call.relative_scale)
    if call.terms.bias_HR is not None:
        values.append(call.without_tail(call.terms.bias_HR)[None, :, None])
    return values
