"""What the heads of a trained model prefer and where they look, layer by layer, over some texts.

A head's *preference* is the positional part of its scores: s(δ) − s(0) with q·k left out. It is read off attention maps
whose keys are zero: log w(δ) − log w(0) is then that difference, for any position, also of one's own. Two are taken:

- *own*: queries are zero too, and the projections of gates say nothing. What is left the head has learned whatever the
  text says: softmax_scale · v_h·p(δ) of a wavelet with a query bias, ALiBi's slopes, T5's and Kerple's biases, u and v
  of Transformer-XL, the gates' biases.
- *of text*: the queries, relative states and gates of a text, mean over its last rows. A wavelet without a query bias,
  Shaw's and learned tables show here alone. A rotation shows in neither: it changes q·k itself.

A displacement outside a window, or one whose score lies some 700 below the best, has −inf.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from wavepos.analysis.attention_maps import AttentionInputs
from wavepos.analysis.model_attention import attention_inputs, num_layers
from wavepos.analysis.receptive_field import (
    RowWindows,
    distance_edges,
    gradient_by_distance,
    mass_by_distance,
    mean_distance,
    row_windows,
)
from wavepos.console import Update
from wavepos.positions.terms import ReadsGates

ROWS = 64
"""Queries of each text whose rows are looked at: its last, so that every displacement is there for each."""
THRESHOLD = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerHeads:
    """The heads of a layer.

    Attributes:
        layer: its index.
        own_HN: preference at `Inspection.distances` without any text.
        of_text_HN: the same with a text's queries, mean over rows and texts.
        mass_HE: share of the attention in each bin of `Inspection.edges`.
        mean_distance_H: tokens back that it attends to, Σ weight · δ.
        windows: keys above `THRESHOLD` and keys that hold 99%, means.
        gate_H: mean log gate of the texts' keys; None where the position reads none.
    """

    layer: int
    own_HN: Tensor
    of_text_HN: Tensor
    mass_HE: Tensor
    mean_distance_H: Tensor
    windows: RowWindows
    gate_H: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found.

    Attributes:
        length: tokens of each text.
        texts: read.
        distances: at which preferences are given, in tokens back, from 0.
        edges: of the bins of distances; bin i is [edge i, edge i + 1).
        layers: each.
        gradient_N: mean over texts of `gradient_by_distance`, by displacement, [length − 1].
    """

    length: int
    texts: int
    distances: tuple[int, ...]
    edges: tuple[int, ...]
    layers: tuple[LayerHeads, ...]
    gradient_N: Tensor

    def binned_gradient(self) -> list[float]:
        """The mean gradient norm of a token in each bin of distances; the last bin lacks the target's own."""
        bounds = [*self.edges[:-1], self.length - 1]
        return [float(self.gradient_N[low:high].mean()) for low, high in pairwise(bounds)]


def inspect_model(
    model: nn.Module, texts: Sequence[Tensor], rows: int = ROWS, update: Update | None = None
) -> Inspection:
    """What the heads of a model prefer and where they look.

    Args:
        model: `BaevskiAuliForCausalLM` or a decoder of ours with any position, in evaluation.
        texts: int64 [T] each, all of one length of at least 4, on the model's device.
        rows: queries at the end of each text whose rows are looked at; fewer in texts shorter than twice that.
        update: told of the texts read.

    Raises:
        TypeError: a model of another family.
        ValueError: no texts, or texts of several lengths or too short.
    """
    lengths = {int(text.shape[0]) for text in texts}
    if len(lengths) != 1 or min(lengths) < 4:
        raise ValueError(f"texts must be of one length of at least 4 tokens, and at least one, got {sorted(lengths)}")
    length, count = lengths.pop(), num_layers(model)
    first = max(length - rows, length // 2)
    distances, edges = sampled_distances(first), distance_edges(length)
    found: list[list[LayerHeads]] = [[] for _ in range(count)]
    gradients = []
    for number, text in enumerate(texts):
        for layer in range(count):
            inputs = attention_inputs(model, text, layer)
            found[layer].append(_heads(layer, inputs, first, distances, edges))
        gradients.append(gradient_by_distance(model, text))
        if update is not None:
            update(number + 1, len(texts), f"{number + 1} of {len(texts)} texts")
    return Inspection(
        length=length,
        texts=len(texts),
        distances=distances,
        edges=edges,
        layers=tuple(_mean(of_texts) for of_texts in found),
        gradient_N=torch.stack(gradients).mean(0).cpu(),
    )


def sampled_distances(last: int) -> tuple[int, ...]:
    """0 … 16, then about eight an octave, and `last`."""
    spaced = (round(2.0 ** (i / 8.0)) for i in range(8 * last.bit_length() + 1))
    return tuple(sorted({d for d in (*range(17), *spaced) if d < last} | {last}))


def own_preference(inputs: AttentionInputs, distances: Sequence[int]) -> Tensor:
    """s(δ) − s(0) of a head where nothing but distance speaks, float64 [H, distances].

    Args:
        inputs: of the layer; only their shapes and the position are read.
        distances: in tokens, at most inputs.length − 1.
    """
    position: Any = inputs.position
    gates, relative = inputs.gates_BHS, inputs.relative_states_BHTE
    if gates is not None and isinstance(position, ReadsGates):
        gates = position.gates(torch.zeros_like(gates, dtype=torch.float64))
    blank = dataclasses.replace(
        inputs,
        q_BHTD=torch.zeros_like(inputs.q_BHTD, dtype=torch.float64),
        relative_states_BHTE=None if relative is None else torch.zeros_like(relative, dtype=torch.float64),
        gates_BHS=gates,
    )
    return preference(blank, inputs.length - 1, distances)


def preference(inputs: AttentionInputs, first: int, distances: Sequence[int]) -> Tensor:
    """s(δ) − s(0) with q·k left out, mean over queries from `first` on, float64 [H, distances].

    Args:
        inputs: of the layer.
        first: position of the first query, at least the largest of the distances.
        distances: in tokens.
    """
    relative = inputs.relative_states_BHTE
    without_content = dataclasses.replace(
        inputs,
        q_BHTD=inputs.q_BHTD.double(),
        k_BGSD=torch.zeros_like(inputs.k_BGSD, dtype=torch.float64),
        v_BGSD=inputs.v_BGSD.double(),
        relative_states_BHTE=None if relative is None else relative.double(),
        gates_BHS=None if inputs.gates_BHS is None else inputs.gates_BHS.double(),
    )
    weights_HTS = without_content.rows(first, inputs.length)
    query_T = torch.arange(first, inputs.length, device=weights_HTS.device)
    keys_TN = query_T[:, None] - torch.tensor(distances, device=weights_HTS.device)
    logs_HTN = weights_HTS.gather(-1, keys_TN.expand(weights_HTS.shape[0], -1, -1)).log()
    here_HT1 = weights_HTS.gather(-1, query_T[:, None].expand(weights_HTS.shape[0], -1, -1)).log()
    return (logs_HTN - here_HT1).mean(1).cpu()


def _heads(
    layer: int, inputs: AttentionInputs, first: int, distances: Sequence[int], edges: Sequence[int]
) -> LayerHeads:
    weights_HTS = inputs.rows(first, inputs.length)
    return LayerHeads(
        layer=layer,
        own_HN=own_preference(inputs, distances),
        of_text_HN=preference(inputs, first, distances),
        mass_HE=mass_by_distance(weights_HTS, edges, first).cpu(),
        mean_distance_H=mean_distance(weights_HTS, first).cpu(),
        windows=row_windows(weights_HTS, THRESHOLD, first_row=first),
        gate_H=None if inputs.gates_BHS is None else inputs.gates_BHS[0].double().mean(-1).cpu(),
    )


def _mean(of_texts: Sequence[LayerHeads]) -> LayerHeads:
    def mean(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(tuple(values)).mean(0)

    def means(name: str) -> tuple[float, ...]:
        rows = [getattr(one.windows, name) for one in of_texts]
        return tuple(sum(column) / len(column) for column in zip(*rows, strict=True))

    head = of_texts[0]
    gates = [one.gate_H for one in of_texts if one.gate_H is not None]
    return dataclasses.replace(
        head,
        of_text_HN=mean([one.of_text_HN for one in of_texts]),
        mass_HE=mean([one.mass_HE for one in of_texts]),
        mean_distance_H=mean([one.mean_distance_H for one in of_texts]),
        windows=dataclasses.replace(
            head.windows, keys_H=means("keys_H"), reach_H=means("reach_H"), held_H=means("held_H")
        ),
        gate_H=mean(gates) if gates else None,
    )
