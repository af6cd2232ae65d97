"""Figures 1, 4, 5, 6, 9 and 10: the wavelets, in small multiples."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from wavepos import Wavelet
from wavepos.analysis.wavelet_graphs import (
    COMPARED,
    COMPARED_SCALE,
    DISCRETE_LEVEL,
    RICKER_SCALES,
    Curve,
    closed_curve,
    extremes,
    sampled_curve,
)
from wavepos.experiments.published import TABLE4
from wavepos.experiments.style import BLACK, GUIDE, number, panels, style_of, title

FAMILIES_OF_FIGURE = {9: ("db", "sym", "coif", "dmey"), 10: ("bior", "rbio")}
"""The paper's Fig. 9 and 10 do not say which wavelets stand in which; here they are parted so."""
SHIFTS_SHOWN = 4
CELLS = 400
TITLES = {"ricker": "Ricker", "haar": "Haar", "morlet": "Morlet", "gaussian": "Gaussian"}


def wavelets_of_a_head(position: Wavelet) -> Figure:
    """Fig. 1: p(δ) of a head, a panel for each scale with some of its shifts.

    Args:
        position: of at least one scale; the first, the last and evenly spaced shifts between are drawn.
    """
    scales, shifts = position.scales, position.shifts
    shown = np.unique(np.linspace(0, len(shifts) - 1, min(SHIFTS_SHOWN, len(shifts))).round().astype(int))
    columns = min(2, len(scales))
    figure, axes = panels(-(-len(scales) // columns), columns, height=1.35, sharey=True)
    colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.8, len(shown)))
    for index, (axis, scale) in enumerate(zip(axes.flat, scales, strict=False)):
        length = max(8, _last_above(position, index, 1e-2) + 2)
        table = position.table(length).numpy()
        for colour, dash, column in zip(colours, ("solid", "dashed", "dashdot", "dotted"), shown, strict=False):
            values = table[:, index * len(shifts) + column]
            axis.plot(np.arange(length), values, color=colour, linestyle=dash, linewidth=1.3)
        title(axis, f"a = {scale:g}")
        axis.set_xlim(0, length - 1)
    for axis in axes.flat[len(scales) :]:
        axis.set_axis_off()
    handles = [
        mpl.lines.Line2D([], [], color=colour, linestyle=dash, label=f"b = {shifts[column]:g}")
        for colour, dash, column in zip(colours, ("solid", "dashed", "dashdot", "dotted"), shown, strict=False)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(shown), fontsize=8.5, frameon=False)
    figure.supxlabel("displacement δ = m − n, tokens", fontsize=9)
    figure.supylabel("p(δ)", fontsize=9)
    return figure


def ricker_scales(figure_number: int) -> Figure:
    """Fig. 4 (a = 2⁰ … 2⁴) or 5 (2⁵ … 2⁹): Ricker at five scales below each other on one axis.

    Raises:
        ValueError: another figure's number.
    """
    if figure_number not in RICKER_SCALES:
        raise ValueError(f"figure_number must be 4 or 5, got {figure_number}")
    scales = RICKER_SCALES[figure_number]
    radius = 5.0 * scales[-1]
    figure, axes = panels(len(scales), 1, height=0.95, sharex=True, sharey=True)
    for axis, scale in zip(axes[:, 0], scales, strict=True):
        curve = closed_curve("ricker", scale, radius=radius, half=4000)
        axis.plot(curve.x, curve.y, color=style_of("ricker").colour, linewidth=1.5)
        axis.plot([-scale, scale], [0.0, 0.0], "o", color=BLACK, markersize=3)
        axis.text(0.02, 0.9, f"a = {scale:g}", transform=axis.transAxes, va="top")
        axis.set_xlim(-radius, radius)
        axis.set_ylim(-0.6, 1.15)
    axes[-1, 0].set_xlabel("t − b, tokens; dots: the zeros at ±a")
    return figure


def compared_wavelets() -> Figure:
    """Fig. 6: the four wavelets with a formula at a = 16, b = 0."""
    figure, axes = panels(2, 2, height=1.8, sharex=True, sharey=True)
    for axis, name in zip(axes.flat, COMPARED, strict=True):
        curve = closed_curve(name, COMPARED_SCALE, radius=4.0 * COMPARED_SCALE, half=8000)
        axis.plot(curve.x, curve.y, color=style_of(name).colour, linewidth=1.4)
        title(axis, TITLES[name])
        for side in (-COMPARED_SCALE, COMPARED_SCALE):
            axis.axvline(side, color=GUIDE, linestyle="dotted", linewidth=0.9)
    for axis in axes[-1]:
        axis.set_xlabel("t − b, tokens; dotted: ±a")
    return figure


def discrete_wavelets(figure_number: int) -> Figure:
    """Fig. 9 (db, sym, coif, dmey) or 10 (bior, rbio): PyWavelets' wavelets of Table 4 at level 10.

    Raises:
        ValueError: another figure's number.
    """
    if figure_number not in FAMILIES_OF_FIGURE:
        raise ValueError(f"figure_number must be 9 or 10, got {figure_number}")
    names = [name for name in TABLE4 if name.startswith(FAMILIES_OF_FIGURE[figure_number])]
    rows = -(-len(names) // 3)
    figure, axes = panels(rows, 3, height=1.3)
    for axis, name in zip(axes.flat, names, strict=False):
        _draw_sampled(axis, sampled_curve(name, DISCRETE_LEVEL))
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    figure.supxlabel(f"x of wavefun(level={DISCRETE_LEVEL})", fontsize=9)
    return figure


def thinned(curve: Curve, cells: int = CELLS) -> Curve:
    """The curve with two points for each cell of its argument, its lowest and its highest, so that no spike is lost."""
    if curve.x.size <= 2 * cells:
        return curve
    keep: list[Any] = []
    for part in np.array_split(np.arange(curve.x.size), cells):
        keep += sorted({int(part[curve.y[part].argmin()]), int(part[curve.y[part].argmax()])})
    return Curve(name=curve.name, x=curve.x[keep], y=curve.y[keep])


def _draw_sampled(axis: Any, curve: Curve) -> None:
    drawn, found = thinned(curve), extremes(curve)
    axis.plot(drawn.x, drawn.y, color=style_of(curve.name).colour, linewidth=0.9)
    title(axis, f"{curve.name}: {number(found['min'][1])} to {number(found['max'][1])}", size=8.0)
    axis.tick_params(labelsize=7.5)


def _last_above(position: Wavelet, scale_index: int, tolerance: float) -> int:
    """The last displacement at which a wavelet of that scale exceeds the tolerance."""
    length = position.reach(1e-3)
    count = len(position.shifts)
    columns = position.table(length)[:, scale_index * count : (scale_index + 1) * count]
    above = (columns.abs() > tolerance).any(1).nonzero()
    return int(above.max()) if above.numel() else 0
