"""How far attention reaches: windows at a threshold, and the keys that hold most of a row's weight (section 4, Fig. 2).

"ALiBi behaves like windowed attention" needs two things named. The *threshold*: at 0.001 ALiBi's flattest heads have
the widest windows, at 0.01 the narrowest, for a weight that is spread over many keys lies below 0.01 everywhere. And
the *row*: in a long row the softmax's denominator has settled, in a short one it has not. `alibi_window` is the closed
form for an endless row of a model that looks at distance alone; trained models have content too, so `row_windows`
measures any map.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wavepos import ALiBi
from wavepos.analysis.attention_maps import AttentionInputs


def alibi_window(slope: float, threshold: float) -> int:
    """Keys with a weight of at least the threshold in an endless row of ALiBi without content.

    The weight of the key δ back is (1 − e^(−s))·e^(−s·δ), so the window is ⌊ln((1 − e^(−s))/τ)/s⌋ + 1, and none where
    even the nearest key stays below τ.

    Args:
        slope: s, positive.
        threshold: τ, between 0 and 1.

    Raises:
        ValueError: an argument out of its range.
    """
    _check_threshold(threshold)
    if not 0.0 < slope < math.inf:
        raise ValueError(f"slope must be positive, got {slope!r}")
    return max(0, math.floor(math.log(-math.expm1(-slope) / threshold) / slope) + 1)


def content_free_alibi(num_heads: int, length: int) -> AttentionInputs:
    """ALiBi attention with q = k = v = 0: weights that follow from distance alone, in float64.

    Args:
        num_heads: H; the slopes follow from it.
        length: T.
    """
    zeros = torch.zeros(1, num_heads, length, 2, dtype=torch.float64)
    return AttentionInputs(q_BHTD=zeros, k_BGSD=zeros, v_BGSD=zeros, position=ALiBi(num_heads))


def keys_at_least(weights: Tensor, threshold: float) -> Tensor:
    """In each row the number of keys with a weight of at least the threshold, int64 [...]; weights [..., S].

    Raises:
        ValueError: the threshold is not between 0 and 1.
    """
    _check_threshold(threshold)
    return (weights >= threshold).sum(-1)


def keys_that_hold(weights: Tensor, mass: float = 0.99) -> Tensor:
    """In each row the fewest keys whose weights sum to at least that share of the row, int64 [...]; weights [..., S].

    Raises:
        ValueError: the mass is not between 0 and 1.
    """
    if not 0.0 < mass < 1.0:
        raise ValueError(f"mass must lie between 0 and 1, got {mass!r}")
    held = weights.to(torch.float64).sort(dim=-1, descending=True).values.cumsum(-1)
    return (held < mass * held[..., -1:]).sum(-1) + 1


def reach(weights: Tensor, threshold: float, first_row: int = 0) -> Tensor:
    """In each row the distance to the farthest key with a weight of at least the threshold, −1 without one, int64.

    Where it exceeds the number of such keys, attention is not a window: keys between are left out.

    Args:
        weights: [..., T, S], causal.
        threshold: between 0 and 1.
        first_row: position of the first query.
    """
    _check_threshold(threshold)
    rows, keys = weights.shape[-2:]
    displacement = torch.arange(rows, device=weights.device)[:, None] + first_row
    displacement = displacement - torch.arange(keys, device=weights.device)
    return displacement.expand(weights.shape).where(weights >= threshold, -1).amax(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowWindows:
    """Windows of each head, means over the rows that were looked at.

    Attributes:
        threshold: τ.
        mass: the share of a row that `held` keys hold.
        keys_H: keys with a weight of at least τ.
        reach_H: distance to the farthest of them.
        held_H: fewest keys that hold the mass.
    """

    threshold: float
    mass: float
    keys_H: tuple[float, ...]
    reach_H: tuple[float, ...]
    held_H: tuple[float, ...]


def row_windows(weights_HTS: Tensor, threshold: float, mass: float = 0.99, first_row: int = 0) -> RowWindows:
    """The windows of some rows of a map, by head: the curve of window against head of a trained model.

    Args:
        weights_HTS: rows of attention weights.
        threshold: τ, between 0 and 1.
        mass: between 0 and 1.
        first_row: position of the first row.
    """

    def mean(values_HT: Tensor) -> tuple[float, ...]:
        return tuple(values_HT.to(torch.float64).mean(-1).tolist())

    return RowWindows(
        threshold=threshold,
        mass=mass,
        keys_H=mean(keys_at_least(weights_HTS, threshold)),
        reach_H=mean(reach(weights_HTS, threshold, first_row)),
        held_H=mean(keys_that_hold(weights_HTS, mass)),
    )


def _check_threshold(threshold: float) -> None:
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold must lie between 0 and 1, got {threshold!r}")
