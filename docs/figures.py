"""The method in five pictures, drawn through the library."""

import math

import numpy as np
import torch

from docs.computed import Drawing
from docs.results import load
from wavepos import Wavelet, attention_map
from wavepos.analysis.receptive_field import RowWindows
from wavepos.analysis.tables import table_statistics
from wavepos.analysis.wavelet_graphs import COMPARED_SCALE
from wavepos.experiments.attention_figures import windows_by_head
from wavepos.experiments.plots import CAPTIONS, perplexity_against_length
from wavepos.experiments.style import BLACK, panels, title
from wavepos.experiments.tables import panels as panels_of
from wavepos.experiments.wavelet_figures import compared_wavelets, wavelets_of_a_head
from wavepos.positions.alibi import alibi_slopes
from wavepos.positions.wavelet import RECENCY_HEIGHT

SENTENCE = "The cat that the dogs had chased all day finally slept"
HEAD_DIM = 128
COLOURS = ("#9b59b6", "#2e86c1", "#d35400")
"""Seen on white and on black."""


def demo() -> Drawing:
    """The demo's perplexities against length, as README shows them."""
    panel = panels_of(load("demo"))[0]
    return Drawing(
        figure=perplexity_against_length(panel, panel.texts[0], "whole", panel.names),
        caption=f"{CAPTIONS['whole']} Python's standard library, {panel.most_seeds} seeds; bands: their range.",
        alt="Perplexity against the length read, one line per method",
    )


def mother_wavelets() -> Drawing:
    """The wavelets with a formula."""
    ricker = Wavelet(HEAD_DIM).mother
    _, high = ricker.support(float(COMPARED_SCALE), 1e-3)
    at_scale = float(ricker.evaluate(torch.tensor(float(COMPARED_SCALE), dtype=torch.float64), COMPARED_SCALE))
    return Drawing(
        figure=compared_wavelets(),
        caption=(
            f"Four mother wavelets at scale a = {COMPARED_SCALE:g}. Ricker, the paper's choice, is 1 at its centre, "
            f"{at_scale:.0f} at ±a, and below 0.001 beyond ±{high:.0f} tokens: it looks at one "
            "neighbourhood and at nothing else."
        ),
        alt="Curves of the Ricker, Haar, Morlet and Gaussian wavelets",
    )


def grid() -> Drawing:
    """Scales and shifts of a head."""
    position = Wavelet(HEAD_DIM)
    scales, shifts = position.scales, position.shifts
    return Drawing(
        figure=wavelets_of_a_head(position),
        caption=(
            f"A head of {HEAD_DIM} dimensions holds {len(scales)} scales, a = {scales[0]:g} … {scales[-1]:g} tokens, "
            f"times {len(shifts)} shifts, b = {shifts[0]:g} … {shifts[-1]:g}: each dimension is one of these curves of "
            "the displacement δ = m − n. Small scales tell near tokens apart, large ones say how far back a token is."
        ),
        alt="Eight panels, one per scale, each with four shifted Ricker wavelets",
    )


def table() -> Drawing:
    """p(δ) as an image."""
    position = Wavelet(HEAD_DIM)
    reach = position.reach()
    values = position.table(reach).numpy()
    found = table_statistics(position, 512)
    figure, axes = panels(1, 1, height=3.0)
    axis = axes[0, 0]
    image = axis.imshow(
        values.T, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", origin="lower"
    )
    count = len(position.shifts)
    axis.set_yticks([count * (i + 0.5) for i in range(len(position.scales))], [f"a = {a:g}" for a in position.scales])
    axis.set_xscale("symlog", base=2, linthresh=8)
    ticks = [0, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xlim(0, reach)
    axis.set_xlabel("displacement δ, tokens")
    axis.grid(False)
    figure.colorbar(image, ax=axis, label="p(δ)", fraction=0.05)
    return Drawing(
        figure=figure,
        caption=(
            f"The whole of it: a fixed table p(δ) of {reach} rows and {HEAD_DIM} columns, the same for every head and "
            f"layer, with no parameter. From W = {reach} tokens on every entry is below 10⁻⁷ and taken as zero. Within "
            f"512 tokens it spans {found.rank} independent functions of δ (singular values of at least 1% of the "
            f"largest), and {found.dead} of its dimensions are dead."
        ),
        alt="The table of wavelets as an image: displacement to the right, dimensions upwards",
    )


def sentence() -> Drawing:
    """The weights of three queries over a sentence, of the relative term alone."""
    words = SENTENCE.split()
    position = Wavelet(HEAD_DIM)
    count = len(position.shifts)
    chosen = [(1.0, 3), (2.0, 0), (8.0, 0)]
    q = torch.zeros(1, len(chosen), len(words), HEAD_DIM)
    strength = 4.0 * math.sqrt(HEAD_DIM)
    for head, (scale, shift) in enumerate(chosen):
        q[0, head, :, position.scales.index(scale) * count + shift] = strength
    k = torch.zeros(1, 1, len(words), HEAD_DIM)
    weights = attention_map(q, k.expand(-1, len(chosen), -1, -1), position=position)[0, :, -1].numpy()
    figure, axes = panels(len(chosen), 1, height=1.0, sharex=True, sharey=True)
    for axis, row, (scale, shift), colour in zip(axes[:, 0], weights, chosen, COLOURS, strict=True):
        axis.bar(range(len(words)), row, color=colour, width=0.8)
        title(axis, f"a query along a = {scale:g}, b = {shift}")
        axis.set_ylim(0, 1)
    axes[-1, 0].set_xticks(range(len(words)), words, rotation=35, ha="right")
    figure.supylabel("weight", fontsize=9)
    farthest = [words[int(row.argmax())] for row in weights]
    return Drawing(
        figure=figure,
        caption=(
            "The query chooses. Weights of the last word's query, with the content left out (q·k = 0), when it points "
            f"along one wavelet: 4 · p(δ) before the softmax. The first attends to “{farthest[0]}”, "
            f"{len(words) - 1 - int(weights[0].argmax())} words back, with weight {weights[0].max():.2f}; the second "
            f"to “{farthest[1]}”, itself; the third spreads over what is near, and of “{words[0]}” it keeps "
            f"{weights[2][0]:.3f}. A trained query mixes all {HEAD_DIM}, and mixes them anew for every word."
        ),
        alt="Three bar charts of attention weights over the words of a sentence",
    )


def recency() -> Drawing:
    """What an untrained recency start prefers, beside ALiBi's lines."""
    heads = 8
    position = Wavelet(64, query_bias="recency", num_heads=heads)
    length = 256
    assert position.query_bias_HD is not None
    preferred = (position.query_bias_HD.detach() @ position.table(length).T / math.sqrt(64)).numpy()
    slopes = alibi_slopes(heads)
    figure, axes = panels(1, 1, height=2.6)
    axis = axes[0, 0]
    distance = np.arange(length)
    for head, colour in zip((1, 3, 5), COLOURS, strict=True):
        axis.plot(distance, preferred[head], color=colour, linewidth=1.6, label=f"head {head + 1}: v·p(δ)/√d")
        axis.plot(distance, RECENCY_HEIGHT - slopes[head] * distance, color=colour, linestyle="dotted", linewidth=1.2)
    axis.plot([], [], color=BLACK, linestyle="dotted", label=f"{RECENCY_HEIGHT:g} − ALiBi's slope · δ")
    axis.set_ylim(-2, 8)
    axis.set_xlim(0, length - 1)
    axis.set_xlabel("displacement δ, tokens")
    axis.set_ylabel("added to the score")
    axis.legend(fontsize=8, frameon=False, loc="upper right")
    off = np.abs(preferred - np.maximum(0, RECENCY_HEIGHT - np.array(slopes)[:, None] * distance))[[1, 3, 5]].mean()
    return Drawing(
        figure=figure,
        caption=(
            'Not trained: three of eight heads as `query_bias="recency"` starts them. Each prefers the near as ALiBi '
            f"does (off by {off:.1f} on average here), but beyond its wavelets the preference ends at zero instead of "
            "falling for ever, and the model may unlearn it. `wavepos inspect RUN` draws the same of a trained model."
        ),
        alt="Curves of what three untrained heads add to the score by distance, beside straight lines of ALiBi",
    )


def trained_windows() -> Drawing:
    """How many keys the heads of trained models attend to."""
    result = load("figures")
    windows = {name: RowWindows(**found) for name, found in result["data"]["windows"].items()}
    wavelet, alibi = windows["Wavelet"], windows["ALiBi"]
    return Drawing(
        figure=windows_by_head(windows),
        caption=(
            "Trained (the models of Table 1 at cpu size, seed 0, last layer, 1,024 tokens read whole after training on "
            f"256): the heads with wavelets hold 99% of their weight in {min(wavelet.held_H):.0f} to "
            f"{max(wavelet.held_H):.0f} keys, those of ALiBi in {min(alibi.held_H):.0f} to {max(alibi.held_H):.0f}. "
            "Numbers: results/figures.json."
        ),
        alt="Keys attended to, by head and method",
    )
