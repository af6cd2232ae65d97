"""How far attention reaches: windows at a threshold, and the keys that hold most of a row's weight (section 4, Fig. 2).

"ALiBi behaves like windowed attention" needs two things named. The *threshold*: at 0.001 ALiBi's flattest heads have
the widest windows, at 0.01 the narrowest, for a weight that is spread over many keys lies below 0.01 everywhere. And
the *row*: in a long row the softmax's denominator has settled, in a short one it has not. `alibi_window` is the closed
form for an endless row of a model that looks at distance alone; trained models have content too, so `row_windows`
measures any map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
    displacement = _displacements(weights, first_row)
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


def distance_edges(length: int) -> tuple[int, ...]:
    """Bounds of bins of displacements 0, 1, 2–3, 4–7, … that double: 0, 1, 2, 4, …, length; bin i is [edge i, i + 1).

    Args:
        length: displacements 0 … length − 1 are binned; at least 1.
    """
    return (0, *(2**i for i in range(length.bit_length()) if 2**i < length), length)


def mass_by_distance(weights_HTS: Tensor, edges: Sequence[int], first_row: int) -> Tensor:
    """The share of each head's weight by displacement, mean over the rows, float64 [H, bins]; a row of it sums to 1.

    Args:
        weights_HTS: rows of a causal map.
        edges: of the bins, as `distance_edges` gives them.
        first_row: position of the first row.
    """
    displacement_TS = _displacements(weights_HTS, first_row)
    bounds = torch.tensor(edges[1:], device=weights_HTS.device)
    bins_TS = torch.bucketize(displacement_TS.clamp_min(0), bounds, right=True).clamp_max(len(edges) - 2)
    heads, rows, _ = weights_HTS.shape
    mass_HN = torch.zeros(heads, len(edges) - 1, dtype=torch.float64, device=weights_HTS.device)
    mass_HN.index_add_(1, bins_TS.flatten(), weights_HTS.to(torch.float64).flatten(1))
    return mass_HN / rows


def mean_distance(weights_HTS: Tensor, first_row: int) -> Tensor:
    """How many tokens back each head attends to, Σ weight · δ, mean over the rows, float64 [H]."""
    displacement_TS = _displacements(weights_HTS, first_row).to(torch.float64)
    return (weights_HTS.to(torch.float64) * displacement_TS).sum(-1).mean(-1)


def gradient_by_distance(model: nn.Module, input_ids: Tensor) -> Tensor:
    """How much the loss of the last token hangs on each token before it: ‖∂(−log p)/∂e_{m−δ}‖₂, float64 [T − 1].

    e is what the embedding gives for a token. Entry δ is the token δ before the last input; attention mass says where a
    head looks in one layer, this what reaches the prediction through all of them.

    Args:
        model: a causal language model of transformers, in evaluation; its forward takes logits_to_keep.
        input_ids: int64 [T] on the model's device, T at least 2; the last is the target alone.

    Raises:
        ValueError: fewer than two tokens, or a model in training.
    """
    if input_ids.dim() != 1 or input_ids.shape[0] < 2:
        raise ValueError(f"input_ids must be one sequence of at least 2 tokens, got shape {tuple(input_ids.shape)}")
    if model.training:
        raise ValueError("model must be in evaluation (model.eval()): with dropout there is no one gradient")
    given: Any = model
    states: list[Tensor] = []

    def freed(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        states.append(output.detach().requires_grad_())
        return states[-1]

    handle = given.get_input_embeddings().register_forward_hook(freed)
    try:
        with torch.enable_grad():
            logits = given(input_ids[None, :-1], use_cache=False, logits_to_keep=1).logits[0]
            loss = torch.nn.functional.cross_entropy(logits.float(), input_ids[-1:])
            gradient_BTC: Tensor = torch.autograd.grad(loss, states)[0]
    finally:
        handle.remove()
    norms: Tensor = torch.linalg.vector_norm(gradient_BTC[0].to(torch.float64), dim=-1)
    return norms.flip(0)


def _displacements(weights_HTS: Tensor, first_row: int) -> Tensor:
    """δ = m − n of rows of weights [..., T, S], int64 [T, S]."""
    rows, keys = weights_HTS.shape[-2:]
    query_T = torch.arange(rows, device=weights_HTS.device) + first_row
    return query_T[:, None] - torch.arange(keys, device=weights_HTS.device)
