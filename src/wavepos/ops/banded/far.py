"""The far part: every pair of query and key at displacement W or more, by calls of a fused kernel."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wavepos.ops.banded.band import Band
from wavepos.ops.banded.flash import FlashCall, flash_backward, flash_forward


@dataclass(frozen=True, slots=True, kw_only=True)
class FarCall:
    """Queries, keys and values of the whole call, and the band that is not the far part's.

    Attributes:
        q_BHTD: queries.
        k_BGSD: keys.
        v_BGSD: values.
        band: the near part.
        softmax_scale: factor on q·k.
    """

    q_BHTD: Tensor
    k_BGSD: Tensor
    v_BGSD: Tensor
    band: Band
    softmax_scale: float


def far_forward(call: FarCall, out_BHTD: Tensor, lse_BHT: Tensor) -> None:
    """Write the far part's output and log-sum-exp into the rows that have one."""
    rows = slice(call.band.first_far_row, None)
    for index, (_, piece) in enumerate(_pieces(call)):
        out, lse = flash_forward(piece)
        if index == 0:
            out_BHTD[:, :, rows], lse_BHT[:, :, rows] = out, lse
        else:
            merge(out_BHTD[:, :, rows], lse_BHT[:, :, rows], out, lse)


def far_backward(
    call: FarCall, grad_BHTD: Tensor, out_BHTD: Tensor, lse_BHT: Tensor, grads: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Write the far part of the gradients of q, k and v into `grads`, zero where there is none."""
    first, end = call.band.first_far_row, 0
    dq_BHTD, dk_BGSD, dv_BGSD = grads
    for index, (keys, piece) in enumerate(_pieces(call)):
        rows, end = slice(first, None), keys.stop
        dq, dk, dv = flash_backward(piece, grad_BHTD[:, :, rows], out_BHTD[:, :, rows], lse_BHT[:, :, rows])
        dq_BHTD[:, :, rows] = dq if index == 0 else dq + dq_BHTD[:, :, rows]
        dk_BGSD[:, :, keys], dv_BGSD[:, :, keys] = dk, dv
    dq_BHTD[:, :, : first if end else None] = 0.0
    dk_BGSD[:, :, end:], dv_BGSD[:, :, end:] = 0.0, 0.0


def merge(out_BHTD: Tensor, lse_BHT: Tensor, other_BHTD: Tensor, other_lse_BHT: Tensor) -> None:
    """Merge another set of keys' output and log-sum-exp into the first, in place, computed in float32 or better."""
    share = torch.sigmoid(other_lse_BHT - lse_BHT)[..., None]
    wide = torch.promote_types(out_BHTD.dtype, share.dtype)
    out_BHTD.copy_(torch.lerp(out_BHTD.to(wide), other_BHTD.to(wide), share.to(wide)))
    lse_BHT.copy_(torch.logaddexp(lse_BHT, other_lse_BHT))


def _pieces(call: FarCall) -> Iterator[tuple[slice, FlashCall]]:
    """The keys before every far query's band (none in a call without a cache), then the square above the diagonal."""
    band = call.band
    first = band.first_far_row
    if band.width is None or first == band.num_queries:
        return
    q, split = call.q_BHTD[:, :, first:], band.query_offset + first - band.width
    for keys, causal in ((slice(0, split), False), (slice(split, split + band.num_queries - first), True)):
        if keys.stop > keys.start:
            k, v = call.k_BGSD[:, :, keys], call.v_BGSD[:, :, keys]
            yield keys, FlashCall(q_BHTD=q, k_BGSD=k, v_BGSD=v, causal=causal, softmax_scale=call.softmax_scale)
