"""What the near and the far part add up to: an output with its log-sum-exp, and gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Attention over some or all of the keys.

    Attributes:
        out_BHTD: the output, in q's dtype.
        lse_BHT: the log-sum-exp of the scores, in float32 or better (natural logarithm).
        share_BHT: the part of the softmax that lies in the near part; 0 where a query sees no key.
    """

    out_BHTD: Tensor
    lse_BHT: Tensor
    share_BHT: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Grads:
    """Gradients that the parts of a call add to or write their rows of, beside those of q, k and v.

    Attributes:
        dr_BHTE: that of what the table is multiplied with, in its dtype, or None.
        dtable_XRE: that of the table as the near part holds it, in float32 or better; None where no one asks for it.
        dbias_HR: likewise.
        dsums_BHS: that of c, the running sums of the gates, in their dtype; likewise.
    """

    dr_BHTE: Tensor | None
    dtable_XRE: Tensor | None
    dbias_HR: Tensor | None
    dsums_BHS: Tensor | None


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor, weight: Tensor) -> None:
    """Merge attention over other keys into an output and its log-sum-exp, in place, in float32 or better.

    Args:
        out: [..., D]; then that over the keys of both.
        lse: [...]; likewise.
        other: the output over the other keys.
        other_lse: its log-sum-exp.
        weight: receives how much of the softmax the other keys have.
    """
    torch.sub(other_lse, lse, out=weight).sigmoid_()
    torch.logaddexp(lse, other_lse, out=lse)
    if out.dtype == other.dtype == weight.dtype:
        out.lerp_(other, weight[..., None])
    else:
        out.copy_(torch.lerp(out.to(weight.dtype), other.to(weight.dtype), weight[..., None]))
