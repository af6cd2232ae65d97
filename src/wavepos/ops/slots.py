"""Attention whose queries stand at a position that is known on the device only: a compiled step with a static cache.

Keys stand in S slots, of which those beyond the last query are empty. The bias of every slot is gathered by its
displacement, so memory is T·S: right for the one query of a decoding step or the few of a speculative one.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wavepos.ops.mask import Mask, hide
from wavepos.positions.terms import ScoreTerms, at_least_float32


def slot_attention(terms: ScoreTerms, v_BGSD: Tensor, mask: Mask, query_offset: Tensor, softmax_scale: float) -> Tensor:
    """Causal attention of T queries at query_offset … query_offset + T − 1, [B,H,T,D] in q's dtype.

    Args:
        terms: tables that cover every displacement of the S slots.
        v_BGSD: values.
        mask: padding; its own query_offset is not read.
        query_offset: int64, without dimensions.
        softmax_scale: factor on q·k.
    """
    q, num_keys = terms.q_BHTD, mask.num_keys
    query = torch.arange(mask.num_queries, device=q.device) + query_offset
    displacement_TS = query[:, None] - torch.arange(num_keys, device=q.device)
    allowed = displacement_TS >= 0
    by_key = mask.allowed_by_key(slice(0, mask.num_queries), slice(0, num_keys))
    if by_key is not None:
        allowed = allowed & by_key
    bias = torch.zeros((), dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
    if terms.r_BHTE is not None and terms.table is not None:
        scale = softmax_scale if terms.relative_scale is None else terms.relative_scale
        wide = at_least_float32(terms.r_BHTE)
        products_BHTR = torch.matmul(wide, terms.table.to(wide.dtype).mT) * scale
        bias = bias + terms.at_displacement(products_BHTR, displacement_TS)
    if terms.bias_HR is not None:
        bias_HTR = terms.bias_HR[:, None].expand(-1, mask.num_queries, -1)
        bias = bias + terms.at_displacement(bias_HTR, displacement_TS)
    seen = allowed.any(-1, keepdim=True)
    bias = hide(bias, allowed, seen).to(q.dtype).expand(*q.shape[:3], num_keys)
    out = scaled_dot_product_attention(
        q, terms.k_BGSD, v_BGSD, attn_mask=bias, scale=softmax_scale, enable_gqa=terms.k_BGSD.shape[1] != q.shape[1]
    )
    return torch.where(seen, out, 0.0)
