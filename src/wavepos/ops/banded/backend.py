"""Exact attention in memory linear in the length: a near band with the table, and plain causal attention beyond it.

Beyond the table's R displacements every score is q·k alone, so queries m ≥ R with keys n ≤ m − R are one causal call
of a fused kernel; the band between is computed window by window. The two meet in their log-sum-exps. The backward pass
recomputes the band and gives the fused kernel's backward the output and log-sum-exp of the whole, as in ring attention.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from wavepos.ops.banded.operator import banded_operator
from wavepos.ops.derivatives import refuse_forward_mode, refuse_function_transforms
from wavepos.ops.mask import Mask, hide
from wavepos.positions.tables import LowRank
from wavepos.positions.terms import ScoreTerms, at_least_float32

Factors = Callable[[ScoreTerms], LowRank | None]
"""What `Position.factors` is: the table of the terms as a product, or None."""


def banded_attention(
    terms: ScoreTerms, v_BGSD: Tensor, mask: Mask, softmax_scale: float, factors: Factors | None = None
) -> Tensor:
    """Attention for any terms, [B,H,T,D] in q's dtype; memory grows as T + S.

    Args:
        terms: what the position says.
        v_BGSD: values.
        mask: which keys a query sees.
        softmax_scale: factor on q·k.
        factors: asked for the table as a product, which makes the near part cheaper; None: the table is taken as it is.

    Raises:
        ValueError: a table or a bias without causal.
        RuntimeError: a derivative that there is none of, as in torch.func.jvp.
    """
    if refusal := banded_refusal(terms, mask):
        raise ValueError(refusal)
    inputs = (terms.q_BHTD, terms.k_BGSD, v_BGSD, terms.r_BHTE, terms.table, terms.bias_HR)
    refuse_forward_mode("banded", *inputs)
    if mask.num_queries == 1 or _is_plain(terms, mask):
        return _one_call(terms, v_BGSD, mask, softmax_scale, factors)
    refuse_function_transforms("banded", *inputs)
    r_BHTE, table_XRE = _relative(terms, factors)
    bias_HR = None if terms.bias_HR is None else _without_tail(terms.bias_HR, terms, dim=1)
    table_XRE, bias_HR = _equally_long(table_XRE, bias_HR)
    k, v, padding = _as_many_keys_as_positions(terms.k_BGSD, v_BGSD, mask)
    out: Tensor
    out, _, _ = banded_operator(
        terms.q_BHTD, k, v, r_BHTE, table_XRE, bias_HR, padding, mask.document_ids_BS,
        mask.query_offset, mask.causal, softmax_scale,
        softmax_scale if terms.relative_scale is None else terms.relative_scale,
    )  # fmt: skip
    return out


def banded_refusal(terms: ScoreTerms, mask: Mask) -> str | None:
    """Why the banded backend cannot compute these terms; None where it can."""
    if not mask.causal and (terms.table is not None or terms.bias_HR is not None):
        return "backend='banded' takes tables over displacements with causal=True only, got causal=False"
    return None


def _is_plain(terms: ScoreTerms, mask: Mask) -> bool:
    """Whether one call of PyTorch's attention without a mask computes it."""
    if terms.table is not None or terms.bias_HR is not None:
        return False
    if mask.key_padding_BS is not None or mask.document_ids_BS is not None:
        return False
    return not mask.causal or (mask.query_offset == 0 and mask.num_queries <= mask.num_keys)


def _one_call(terms: ScoreTerms, v_BGSD: Tensor, mask: Mask, softmax_scale: float, factors: Factors | None) -> Tensor:
    """Without a mask, or for a single query, whose mask is a row: its bias stands on the last R keys."""
    end = mask.query_offset + mask.num_queries if mask.causal else mask.num_keys
    k, v = terms.k_BGSD[:, :, :end], v_BGSD[:, :, :end]
    grouped = k.shape[1] != terms.q_BHTD.shape[1]
    if mask.num_queries > 1:
        return scaled_dot_product_attention(
            terms.q_BHTD, k, v, is_causal=mask.causal, scale=softmax_scale, enable_gqa=grouped
        )
    row, seen = _row_bias(terms, mask, k.shape[2], softmax_scale, factors)
    out = scaled_dot_product_attention(terms.q_BHTD, k, v, attn_mask=row, scale=softmax_scale, enable_gqa=grouped)
    return out if seen is None else torch.where(seen, out, 0.0)


def _row_bias(
    terms: ScoreTerms, mask: Mask, num_keys: int, softmax_scale: float, factors: Factors | None
) -> tuple[Tensor | None, Tensor | None]:
    """What is added to one query's scores, [B,H,1,S], and whether it sees any key, [B,1,1,1]; None: nothing, yes."""
    q, row = terms.q_BHTD, None
    for values in _row_values(terms, softmax_scale, factors):
        missing = mask.query_offset + 1 - values.shape[-1]
        placed = pad(values.flip(-1), (missing, 0))[..., :num_keys].to(q.dtype)
        row = placed if row is None else row + placed
    allowed = mask.allowed_by_key(slice(0, 1), slice(0, num_keys))
    if allowed is None:
        return row, None
    seen = allowed.any(-1, keepdim=True)
    row = torch.zeros((), dtype=q.dtype, device=q.device) if row is None else row
    return hide(row.expand(*q.shape[:3], num_keys), allowed, seen), seen


def _row_values(terms: ScoreTerms, softmax_scale: float, factors: Factors | None) -> list[Tensor]:
    """relative_scale · r·p(δ) and b[δ] for δ = 0, 1, … of a single query, [B or 1,H,1,R]."""
    values = []
    r_BHTE, table_XRE = _relative(terms, factors)
    if r_BHTE is not None and table_XRE is not None:
        scale = softmax_scale if terms.relative_scale is None else terms.relative_scale
        wide = at_least_float32(r_BHTE)
        values.append(torch.matmul(wide, table_XRE.to(wide.dtype).mT) * scale)
    if terms.bias_HR is not None:
        values.append(_without_tail(terms.bias_HR, terms, dim=1)[None, :, None])
    return values


def _relative(terms: ScoreTerms, factors: Factors | None) -> tuple[Tensor | None, Tensor | None]:
    """r and the table, [1 or H,R,E] and zero beyond R, in their low-rank form where the position knows one."""
    if terms.r_BHTE is None or terms.table is None:
        return None, None
    product = None if factors is None else factors(terms)
    if product is not None:
        return torch.matmul(terms.r_BHTE, product.basis_KE.mT), product.coefficients_RK[None]
    table = terms.table if terms.table.dim() == 3 else terms.table[None]
    return terms.r_BHTE, _without_tail(table, terms, dim=1)


def _without_tail(values: Tensor, terms: ScoreTerms, dim: int) -> Tensor:
    """The last entry taken from all: the softmax does not see a constant a row, and beyond the table is zero."""
    if terms.tail != "clamp":
        return values
    wide = values.to(torch.promote_types(values.dtype, terms.q_BHTD.dtype))
    return wide - wide.narrow(dim, wide.shape[dim] - 1, 1)


def _equally_long(table_XRE: Tensor | None, bias_HR: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Zeros put in beyond the shorter one's end, where it is zero."""
    if table_XRE is None or bias_HR is None or table_XRE.shape[1] == bias_HR.shape[1]:
        return table_XRE, bias_HR
    length = max(table_XRE.shape[1], bias_HR.shape[1])
    table_XRE = pad(table_XRE, (0, 0, 0, length - table_XRE.shape[1]))
    return table_XRE, pad(bias_HR, (0, length - bias_HR.shape[1]))


def _as_many_keys_as_positions(k_BGSD: Tensor, v_BGSD: Tensor, mask: Mask) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys 0 … query_offset + T − 1 in causal attention: those ahead left out, those missing put in and masked."""
    padding, end = mask.key_padding_BS, mask.query_offset + mask.num_queries
    missing = end - mask.num_keys
    if not mask.causal or missing == 0:
        return k_BGSD, v_BGSD, padding
    if missing < 0:
        return k_BGSD[:, :, :end], v_BGSD[:, :, :end], None if padding is None else padding[:, :end]
    if padding is None:
        padding = torch.ones(k_BGSD.shape[0], mask.num_keys, dtype=torch.bool, device=k_BGSD.device)
    rows = (0, 0, 0, missing)
    return pad(k_BGSD, rows), pad(v_BGSD, rows), pad(padding, (0, missing))
