"""Keys and values that are not finite: they reach the queries that see them, and no other.

A hidden key has weight 0, and 0 · NaN is NaN: in the product of weights and values, and in every gradient. So a call
that hides keys from some of its queries is computed without those that are not finite, and the rows of the queries that
see one are NaN. Keys that are hidden from some query are looked at, where looking does not stop the device.
"""

import dataclasses
import math

import torch
from torch import Tensor

from wavepos.ops.call import Call, Implementation
from wavepos.positions.tables import no_mode_is_active

_BLOCK = 256
"""Queries that are asked at once which keys they see: memory stays linear in the length."""


def compute_finite(backend: Implementation, call: Call) -> Tensor:
    """What a backend computes of a call, where keys that are not finite and hidden do not matter."""
    keys = _hidden_from_some(call)
    if keys.start >= keys.stop or not _may_look(call) or _all_finite(call, keys):
        return backend.compute(call)
    terms, v_BGSD = call.terms, call.v_BGSD
    spoilt_BGS = ~(terms.k_BGSD.isfinite() & v_BGSD.isfinite()).all(-1)
    k_BGSD, v_BGSD = (x.masked_fill(spoilt_BGS[..., None], 0.0) for x in (terms.k_BGSD, v_BGSD))
    terms = dataclasses.replace(terms, k_BGSD=k_BGSD)
    out = backend.compute(dataclasses.replace(call, terms=terms, v_BGSD=v_BGSD))
    rows_BHT1 = _seeing(call, spoilt_BGS).repeat_interleave(out.shape[1] // spoilt_BGS.shape[1], 1)[..., None]
    if out.requires_grad:  # a gradient that enters such a row is no number either
        out.register_hook(  # type: ignore[no-untyped-call]
            lambda grad: grad.masked_fill(rows_BHT1 & (grad != 0.0), torch.nan)
        )
    return out + torch.zeros_like(rows_BHT1, dtype=out.dtype).masked_fill(rows_BHT1, torch.nan)


def _hidden_from_some(call: Call) -> slice:
    """The keys among which are all that some query does not see; a single query's are PyTorch's own concern."""
    mask = call.mask
    if call.is_empty or mask.num_queries == 1 or call.device_offset is not None:
        return slice(0, 0)
    if mask.key_padding_BS is not None or mask.document_ids_BS is not None or mask.window is not None:
        return slice(0, mask.num_keys)
    return slice(mask.query_offset + 1, mask.num_keys) if mask.causal else slice(0, 0)


def _may_look(call: Call) -> bool:
    tensors = call.terms.k_BGSD, call.v_BGSD
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return no_mode_is_active() and all(x.device.type == "cpu" and not wrapped(x) for x in tensors)


def _all_finite(call: Call, keys: slice) -> bool:
    given = (x[:, :, keys].detach() for x in (call.terms.k_BGSD, call.v_BGSD))
    return all(math.isfinite(end) for x in given for end in x.aminmax())


def _seeing(call: Call, spoilt_BGS: Tensor) -> Tensor:
    """Whether a query sees one of these keys, [B,G,T]."""
    mask, rows = call.mask, []
    for start in range(0, mask.num_queries, _BLOCK):
        size = min(_BLOCK, mask.num_queries - start)
        block = dataclasses.replace(mask, num_queries=size, query_offset=mask.query_offset + start)
        rows.append((block.allowed(spoilt_BGS.device) & spoilt_BGS[:, :, None]).any(-1))
    return torch.cat(rows, -1)
