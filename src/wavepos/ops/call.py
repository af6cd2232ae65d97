"""One attention call as backends get it, and what every backend says of itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from wavepos.ops.mask import Mask
from wavepos.positions.tables import LowRank
from wavepos.positions.terms import ScoreTerms

Backend = Literal["auto", "banded", "triton", "reference"]
"""What users name."""

TABLE_TERMS = frozenset({"q_BHTD", "k_BGSD", "r_BHTE", "table", "bias_HR", "tail", "relative_scale"})
"""The fields of `ScoreTerms` that causal attention over tables is made of."""

DENSE_LIMIT = 2**28
"""Scores (B·H·T·S) up to which a call is computed densely that no one asked to be: 1 GiB in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One attention call, checked: all that a backend is given.

    Attributes:
        terms: what the position says of the scores; it holds q, k, r, the table and the bias.
        v_BGSD: values.
        mask: which keys a query sees.
        softmax_scale: factor on q·k.
        dropout: probability with which an attention weight is dropped.
        device_offset: position of the first query where the device alone knows it, int64 without dimensions; the
            mask's own is then not read. None: the mask's.
        factors: `Position.factors`, asked for the table as a product; None: the table is taken as it is.
        sums_BHS: c, the running sums of the gates; only in the banded backend's own form of a call, in their place. It
            has an entry for every position up to the last query's.
    """

    terms: ScoreTerms
    v_BGSD: Tensor
    mask: Mask
    softmax_scale: float
    dropout: float = 0.0
    device_offset: Tensor | None = None
    factors: Callable[[ScoreTerms], LowRank | None] | None = None
    sums_BHS: Tensor | None = None

    @property
    def relative_scale(self) -> float:
        """The factor on r·p(δ)."""
        return self.softmax_scale if self.terms.relative_scale is None else self.terms.relative_scale

    @property
    def wide_dtype(self) -> torch.dtype:
        """What is summed in, whatever q's dtype: float32, or float64 for float64 calls."""
        return torch.promote_types(self.terms.q_BHTD.dtype, torch.float32)

    @property
    def mask_dtype(self) -> torch.dtype:
        """What SDPA is given to add to its scores, for a bias in half precision is off by more than all else.

        Only its CPU kernel takes float32 beside queries in half precision.
        """
        q = self.terms.q_BHTD
        return self.wide_dtype if q.device.type == "cpu" else q.dtype

    @property
    def sdpa_options(self) -> dict[str, Any]:
        """What SDPA is told beside tensors and mask: the scale, and enable_gqa where heads share keys.

        As a value that is computed, enable_gqa would be a symbol under torch.compile, which SDPA does not take.
        """
        grouped = self.terms.k_BGSD.shape[1] != self.terms.q_BHTD.shape[1]
        return {"scale": self.softmax_scale, **({"enable_gqa": True} if grouped else {})}

    @property
    def num_scores(self) -> int:
        """B·H·T·S."""
        batch, num_heads = self.terms.q_BHTD.shape[:2]
        return batch * num_heads * self.mask.num_queries * self.mask.num_keys

    @property
    def is_empty(self) -> bool:
        """Whether there is no query, key, batch row, head or dimension."""
        return 0 in (*self.terms.q_BHTD.shape, *self.terms.k_BGSD.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything that a derivative may be asked of."""
        return (*(x for _, x in self.terms.tensors()), self.v_BGSD)

    def without_tail(self, values_XR: Tensor, *, of_last: bool = True) -> Tensor:
        """A table [1 or H,R,…] or a bias [H,R] of the terms such that zero holds beyond its last entry, or its first.

        Where that entry holds it is taken from all: the softmax does not see a constant per row. So its gradient is
        minus the sum of the others', which needs no sum over the keys beyond.
        """
        if self.terms.tail != "clamp":
            return values_XR
        wide = values_XR.to(torch.promote_types(values_XR.dtype, self.terms.q_BHTD.dtype))
        return wide - (wide[:, -1:] if of_last else wide[:, :1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """A way to compute a call; `choice.run_backend` is the only one to ask `refusal`, and then calls `compute`.

    Attributes:
        label: what errors call it.
        serves: the fields of `ScoreTerms` that it reads. A call that uses another one is refused.
        limits: why it cannot compute a call for any other reason, or None.
        compute: the output, [B,H,T,D] in q's dtype.
        takes_device_offset: whether it reads `Call.device_offset`.
    """

    label: str
    serves: frozenset[str]
    limits: Callable[[Call], str | None]
    compute: Callable[[Call], Tensor]
    takes_device_offset: bool = False

    def refusal(self, call: Call) -> str | None:
        """Why it must not be given this call: it would leave something out; None where it reads all of it."""
        missing = call.terms.in_use() - self.serves
        if missing:
            return f"{self.label} does not serve {', '.join(sorted(missing))} of the position's terms"
        if call.device_offset is not None and not self.takes_device_offset:
            return f"{self.label} does not serve a tensor as query_offset"
        if call.terms.gates_BHS is not None and not call.mask.causal:
            return f"{self.label} serves gates with causal=True only: they are summed over the keys behind a query"
        return self.limits(call)
