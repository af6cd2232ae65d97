"""Attention whose queries stand at a position that is known on the device only: a compiled step with a static cache.

Keys stand in S slots, of which those beyond the last query are empty. The bias of every slot is gathered by its
displacement, so memory is T·S: right for the one query of a decoding step or the few of a speculative one.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wavepos.ops.call import DENSE_LIMIT, TABLE_TERMS, Call, Implementation
from wavepos.ops.gates import gate_differences
from wavepos.ops.mask import hide
from wavepos.positions.terms import at_least_float32


def _attention(call: Call) -> Tensor:
    """Causal attention of T queries at device_offset … device_offset + T − 1, [B,H,T,D] in q's dtype."""
    keys, bias, seen = _biased(call)
    q, num_keys = call.terms.q_BHTD, keys.slots.shape[0]
    bias = bias.to(call.mask_dtype).expand(*q.shape[:3], num_keys)
    out = scaled_dot_product_attention(q, keys.k_BGSD, keys.v_BGSD, attn_mask=bias, **call.sdpa_options)
    return torch.where(seen, out, 0.0)


def _weights(call: Call) -> Tensor:
    """The weights of the same, [B,H,T,S]; slots that no query sees have none."""
    keys, bias, seen = _biased(call)
    dtype, q = call.wide_dtype, call.terms.q_BHTD
    k_BHSD = keys.k_BGSD.repeat_interleave(q.shape[1] // keys.k_BGSD.shape[1], dim=1)
    scores = call.softmax_scale * torch.matmul(q.to(dtype), k_BHSD.to(dtype).mT) + bias
    near = torch.where(seen, scores.softmax(-1), 0.0)
    return near.new_zeros(*near.shape[:3], call.mask.num_keys).index_copy(-1, keys.slots, near)


def _biased(call: Call) -> tuple["_Keys", Tensor, Tensor]:
    """The keys, what is added to their scores, −∞ where they are not seen, and whether a query sees any.

    The tables of the terms cover every displacement of the S slots.
    """
    terms, mask = call.terms, call.mask
    assert call.device_offset is not None
    q, num_queries = terms.q_BHTD, mask.num_queries
    query = torch.arange(num_queries, device=q.device) + call.device_offset
    keys = _within_window(call)
    num_keys = keys.slots.shape[0]
    displacement_TS = query[:, None] - keys.slots
    allowed = mask.allowed_by_distance(displacement_TS)
    if keys.padding_BS is not None:
        allowed = allowed & keys.padding_BS[:, None, None]
    bias = torch.zeros((), dtype=call.wide_dtype, device=q.device)
    if terms.r_BHTE is not None and terms.table is not None:
        wide = at_least_float32(terms.r_BHTE)
        products_BHTR = torch.matmul(wide, terms.table.to(wide.dtype).mT) * call.relative_scale
        bias = bias + terms.at_displacement(products_BHTR, displacement_TS)
    if terms.bias_HR is not None:
        bias_HTR = terms.bias_HR[:, None].expand(-1, num_queries, -1)
        bias = bias + terms.at_displacement(bias_HTR, displacement_TS)
    if keys.gates_BHS is not None and num_keys > 0:
        bias = bias + gate_differences(keys.gates_BHS, num_keys, query - keys.slots[0]).to(bias.dtype)
    seen = allowed.any(-1, keepdim=True)
    return keys, hide(bias, allowed, seen), seen


class _Keys(NamedTuple):
    """Keys beside each other: their slots and what there is one of per key; a gate that all have stays one."""

    slots: Tensor
    k_BGSD: Tensor
    v_BGSD: Tensor
    padding_BS: Tensor | None
    gates_BHS: Tensor | None


def _within_window(call: Call) -> _Keys:
    """Those of all slots, or of as many as the windows of all queries cover."""
    mask, k, v, gates = call.mask, call.terms.k_BGSD, call.v_BGSD, call.terms.gates_BHS
    covered = mask.num_keys if mask.window is None else mask.window + mask.num_queries - 1
    slots = torch.arange(min(covered, mask.num_keys), device=k.device)
    if covered >= mask.num_keys or call.device_offset is None:
        return _Keys(slots, k, v, mask.key_padding_BS, gates)
    first = call.device_offset + mask.num_queries - covered
    slots = slots + first.clamp(0, mask.num_keys - covered)
    padding = None if mask.key_padding_BS is None else mask.key_padding_BS.index_select(1, slots)
    if gates is not None and gates.shape[-1] > 1:
        gates = gates.index_select(-1, slots)
    return _Keys(slots, k.index_select(2, slots), v.index_select(2, slots), padding, gates)


def _limits(call: Call) -> str | None:
    mask, offset = call.mask, call.device_offset
    if offset is None or offset.dim() != 0 or offset.dtype != torch.int64:
        got = "none" if offset is None else f"{offset.dtype} of shape {tuple(offset.shape)}"
        return f"{SLOTS.label} must be int64 without dimensions, got {got}"
    if mask.num_queries > mask.num_keys > 0:
        return f"{SLOTS.label} serves at most one query a slot, got {mask.num_queries} for {mask.num_keys} slots"
    if not mask.causal or mask.document_ids_BS is not None or call.dropout > 0.0:
        return f"{SLOTS.label} takes causal=True, no dropout and no document_ids"
    if call.num_scores > DENSE_LIMIT:
        return f"{SLOTS.label} serves up to {DENSE_LIMIT} scores (B·H·T·S), got {call.num_scores}: give an int"
    return None


SLOTS = Implementation(
    label="a tensor as query_offset",
    serves=TABLE_TERMS | {"first_displacement", "gates_BHS"},
    limits=_limits,
    compute=_attention,
    takes_device_offset=True,
)
SLOT_WEIGHTS = dataclasses.replace(SLOTS, compute=_weights)
