"""How attention stays linear: drawings made by the code that computes it."""

import math
from typing import Any

import torch
from matplotlib.patches import Polygon, Rectangle

from docs.computed import Drawing
from wavepos import ALiBi, ForgetGate, Wavelet, attention, attention_map
from wavepos.experiments.style import BLACK, panels, title
from wavepos.ops.banded.band import GATED_BLOCK, Band, aligned

LENGTH, TILE = 4096, 256
NEAR, FAR, ON_NEAR = "#9b59b6", "#2e86c1", "#fefefe"


def parts() -> Drawing:
    """Near tiles and far pieces of one causal call."""
    reach = Wavelet(128).reach()
    band = _band(reach)
    far = 1.0 - _near_share(LENGTH, band.behind)
    figure, axes = panels(1, 2, height=2.7, sharey=True)
    _draw(axes[0, 0], band, "all keys")
    _draw(axes[0, 1], _band(reach, window=2048), "window of 2,048")
    axes[0, 0].set_ylabel("query m")
    return Drawing(
        figure=figure,
        caption=(
            f"Queries and keys of a call over {LENGTH:,} tokens, drawn from the pieces that are computed. Violet: "
            f"near tiles, W = {reach} displacements rounded up to {band.behind - 1}, with the table. Blue: far pieces, "
            f"q·k alone, by a fused kernel; here {far:.0%} of the pairs seen. The near part grows as T·W, so at "
            f"{16 * LENGTH:,} tokens it would be {_near_share(16 * LENGTH, band.behind):.1%} of the pairs."
        ),
        alt="A triangle of query and key pairs: a band of tiles along the diagonal, a triangle beyond it",
    )


def gates() -> Drawing:
    """The staircase between near and far where there are gates."""
    band = Band(
        num_queries=LENGTH, num_keys=LENGTH, query_offset=0, behind=1, ahead=1, first=0, table_length=0, causal=True,
        block=GATED_BLOCK,
    )  # fmt: skip
    both = Band(
        num_queries=LENGTH, num_keys=LENGTH, query_offset=0, behind=1 + aligned(Wavelet(128).reach() - 1), ahead=1,
        first=0, table_length=820, causal=True, block=GATED_BLOCK,
    )  # fmt: skip
    figure, axes = panels(1, 2, height=2.7, sharey=True)
    _draw(axes[0, 0], band, "gates alone (ALiBi, FoX)")
    _draw(axes[0, 1], both, "wavelets and a gate")
    axes[0, 0].set_ylabel("query m")
    return Drawing(
        figure=figure,
        caption=(
            f"With gates, blocks of {GATED_BLOCK} queries share the first key of their near part, so that each meets "
            "all keys before it in one fused call without a causal mask: a staircase of rectangles."
        ),
        alt="The same triangle with a staircase between near and far",
    )


def skew() -> Drawing:
    """Where the products r·p(δ) fall in the scores, read off a real buffer."""
    band = Band(num_queries=6, num_keys=14, query_offset=8, behind=17, ahead=1, first=0, table_length=5, causal=True)
    tile = next(band.tiles(6))
    layout = tile.layout
    buffer = torch.full((layout.size,), math.nan)
    entries = torch.arange(layout.table_length - 1, -1, -1, dtype=torch.float32)
    layout.skewed(buffer, 1)[:] = entries
    scores = layout.rows(buffer, 1)[0]
    figure, axes = panels(1, 1, height=2.0)
    axis = axes[0, 0]
    for row in range(layout.num_queries):
        for column in range(layout.num_keys):
            value = float(scores[row, layout.slack + column])
            filled = not math.isnan(value)
            colour = NEAR if filled else "none"
            axis.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor=BLACK, linewidth=0.4, alpha=0.7))
            if filled:
                axis.text(column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=8, color=ON_NEAR)
    axis.set_xlim(0, layout.num_keys)
    axis.set_ylim(layout.num_queries, 0)
    axis.set_xticks(
        [c + 0.5 for c in range(layout.num_keys)], [str(tile.keys.start + c) for c in range(layout.num_keys)]
    )
    axis.set_yticks([r + 0.5 for r in range(layout.num_queries)], [str(8 + r) for r in range(layout.num_queries)])
    axis.grid(False)
    axis.set_xlabel("key n")
    axis.set_ylabel("query m")
    return Drawing(
        figure=figure,
        caption=(
            f"A buffer of scores of {layout.num_queries} queries, into which the products r_m·p(δ), δ = "
            f"{layout.table_length - 1} … 0, were written through one view whose row stride is the buffer's plus one "
            f"({layout.pitch} + 1): each number, the δ of its entry, lands at n = m − δ. No index, no gather, no copy; "
            "gradients are read back through the same view."
        ),
        alt="A grid of queries and keys; the entries of the table lie along the diagonal",
    )


def merge() -> Drawing:
    """How much of the weight near and far keys hold, for one query."""
    torch.manual_seed(0)
    length = 2048
    position = Wavelet(64)
    q, k = torch.randn(1, 1, 1, 64), torch.randn(1, 1, length, 64)
    weights = attention_map(q, k, position=position)[0, 0, 0].flip(0)
    reach = position.reach()
    near = float(weights[:reach].sum())
    figure, axes = panels(1, 1, height=1.8)
    axis = axes[0, 0]
    distance = torch.arange(length)
    axis.plot(distance[:reach], weights[:reach], ".", color=NEAR, markersize=2, label=f"near: {near:.0%}")
    axis.plot(distance[reach:], weights[reach:], ".", color=FAR, markersize=2, label=f"far: {1 - near:.0%}")
    axis.set_yscale("log")
    axis.set_xlabel("displacement δ, tokens")
    axis.set_ylabel("weight")
    axis.legend(fontsize=8, frameon=False)
    return Drawing(
        figure=figure,
        caption=(
            f"One softmax in two parts: a random query over {length:,} random keys. Each "
            f"part gives its output o and the logarithm ℓ of its sum of exponentials; the near part's share is "
            f"σ(ℓ_near − ℓ_far) = {near:.3f}, and the output is o_far + share · (o_near − o_far): exact, in any order."
        ),
        alt="Weights by displacement, near and far coloured apart",
    )


def errors() -> str:
    """A table of how far the banded backend is from the dense reference, computed here in float64."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 3000, 64, dtype=torch.float64) for _ in range(3))
    rows = ["| | largest difference to dense attention, 3,000 tokens, float64 |", "|---|---:|"]
    positions = (("Wavelet", Wavelet(64)), ("ALiBi", ALiBi(2)), ("ForgetGate", ForgetGate(2)))
    for name, position in positions:
        position.requires_grad_(False)
        gates = position.gates(torch.randn(1, 2, 3000)).double() if isinstance(position, ForgetGate) else None
        banded, dense = (
            attention(q, k, v, position=position, gates=gates, backend=backend) for backend in ("banded", "reference")
        )
        rows.append(f"| {name} | {float((banded - dense).abs().max()):.1e} |")
    return "\n".join(rows)


def _band(reach: int, window: int | None = None) -> Band:
    return Band(
        num_queries=LENGTH, num_keys=LENGTH, query_offset=0, behind=1 + aligned(reach - 1), ahead=1, first=0,
        table_length=reach, causal=True, window=window,
    )  # fmt: skip


def _near_share(length: int, behind: int) -> float:
    seen = length * (length + 1) / 2
    beyond = (length - behind) * (length - behind + 1) / 2
    return 1.0 - beyond / seen


def _draw(axis: Any, band: Band, text: str) -> None:
    for tile in band.tiles(TILE):
        top, bottom, first = tile.rows.start, tile.rows.stop, tile.keys.start
        left = [first] * 2 if band.block else [max(0, row - band.behind) for row in (top, bottom)]
        corners = [(left[0], top), (top, top), (bottom, bottom), (left[1], bottom)]
        axis.add_patch(Polygon(corners, facecolor=NEAR, edgecolor="none", alpha=0.85))
    for piece in band.far():
        (top, bottom), (left, right) = ((x.start, x.stop) for x in (piece.rows, piece.keys))
        shape = {
            "whole": [(left, top), (right, top), (right, bottom), (left, bottom)],
            "lower": [(left, top), (right, bottom), (left, bottom)],
            "upper": [(left, top), (right, top), (right, bottom)],
        }[piece.shape]
        axis.add_patch(Polygon(shape, facecolor=FAR, edgecolor=BLACK, linewidth=0.6, alpha=0.7))
    axis.set_xlim(0, band.num_keys)
    axis.set_ylim(band.num_queries, 0)
    axis.set_xticks([0, 2048, 4096])
    axis.set_yticks([0, 2048, 4096])
    axis.set_aspect("equal")
    axis.set_xlabel("key n")
    axis.grid(False)
    title(axis, text)
