"""Calls that are one call of PyTorch's attention: without a mask or a table, and of a single query, as in decoding."""

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from wavepos.ops.banded.prepare import relative_terms
from wavepos.ops.call import Call
from wavepos.ops.gates import gates_of, query_differences
from wavepos.ops.mask import Mask, hide
from wavepos.positions.terms import at_least_float32


def is_single(call: Call) -> bool:
    """Whether `single_attention` computes it."""
    mask = call.mask
    if mask.num_queries == 1:
        return True
    if not {"table", "bias_HR", "gates_BHS"}.isdisjoint(call.terms.in_use()):
        return False
    if mask.key_padding_BS is not None or mask.document_ids_BS is not None or mask.window is not None:
        return False
    return not mask.causal or (mask.query_offset == 0 and mask.num_queries <= mask.num_keys)


def single_attention(call: Call) -> Tensor:
    """[B,H,T,D]. The mask of a single query is a row; of the keys those in its window are read."""
    q, mask = call.terms.q_BHTD, call.mask
    keys, k, v = _keys(mask), call.terms.k_BGSD, call.v_BGSD
    if keys.stop - keys.start < mask.num_keys:
        k, v = k[:, :, keys], v[:, :, keys]
    if mask.num_queries > 1:
        return scaled_dot_product_attention(q, k, v, is_causal=mask.causal, **call.sdpa_options)
    row, seen = _row(call, keys)
    out = scaled_dot_product_attention(q, k, v, attn_mask=row, **call.sdpa_options)
    return out if seen is None else torch.where(seen, out, 0.0)


def _keys(mask: Mask) -> slice:
    """The keys that direction and window leave to any query; one of them all may hide where there is none."""
    lowest, highest = mask.displacements()
    end = min(mask.num_keys, mask.query_offset + mask.num_queries - lowest)
    return slice(max(0, min(mask.query_offset - highest, end - 1)), end)


def _row(call: Call, keys: slice) -> tuple[Tensor | None, Tensor | None]:
    """What is added to one query's scores, [B,H,1,S], and whether it sees any key, [B,1,1,1]; None: nothing, yes."""
    q, mask = call.terms.q_BHTD, call.mask
    row = _bias(call, keys)
    allowed = mask.allowed_by_key(slice(0, 1), keys)
    if mask.query_offset - keys.start > mask.displacements()[1]:  # the window lies behind the last key
        allowed = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=q.device)
    if allowed is None:
        return row, None
    seen = allowed.any(-1, keepdim=True)
    row = torch.zeros((), dtype=call.mask_dtype, device=q.device) if row is None else row
    return hide(row.expand(*q.shape[:3], keys.stop - keys.start), allowed, seen), seen


def _bias(call: Call, keys: slice) -> Tensor | None:
    """relative_scale · r·p(δ) + b[δ] + c of a single query and those keys, [B or 1,H,1,S] in `Call.mask_dtype`."""
    query, num_keys, row = call.mask.query_offset - keys.start, keys.stop - keys.start, None
    r_BHTE, table_XRE, bias_HR, first = relative_terms(call)
    values = []
    if r_BHTE is not None and table_XRE is not None:
        wide = at_least_float32(r_BHTE) * call.relative_scale
        table_XRE = table_XRE.to(wide.dtype)
        shared = table_XRE.shape[0] == 1  # one product of two matrices; broadcast over heads it takes twice as long
        values.append(linear(wide, table_XRE[0]) if shared else torch.matmul(wide, table_XRE.mT))
    if bias_HR is not None:
        values.append(bias_HR[None, :, None])
    for each in values:
        before = query - (first + each.shape[-1] - 1)  # keys before that of the last entry; negative: entries too many
        behind = num_keys - 1 - query + first
        if max(before, behind) < num_keys:  # else no entry is any key's
            placed = torch.constant_pad_nd(each.flip(-1), (before, behind)).to(call.mask_dtype)
            row = placed if row is None else row + placed
    if call.terms.gates_BHS is not None:
        placed = query_differences(gates_of(call.terms.gates_BHS, keys), num_keys, query).to(call.mask_dtype)
        row = placed if row is None else row + placed
    return row
