"""How figures look: one colour, marker and dash for each method everywhere, and files as PNG and SVG.

A figure is 5.2 inches wide with text of 9 points: at full width of a printed page, and still 7 points on a phone of 390
pixels. Many panels stand below each other rather than side by side.
"""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from wavepos.storage import write_text

WIDTH = 5.2
DOTS_PER_INCH = 200
RC: dict[str, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "grid.color": "#e5e5e5",
    "font.size": 9.0,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "svg.hashsalt": "wavepos",
    "svg.fonttype": "path",
    "text.hinting": "none",  # so that a fixed-width character is as wide in a PNG as it says
}
BLACK, WHITE_OF_MAPS, GUIDE = "#1a1a1a", "#f7e9a0", "#8a8a8a"
"""Of maps: weights at or above the threshold, and below (the paper's black and yellow); of guide lines."""
RED, BLUE = "#c1121f", "#1d4ed8"
"""Tokens attended to in all heads, and in some (Fig. 7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a method's line is drawn.

    Attributes:
        colour: as #rrggbb.
        marker: matplotlib's.
        dash: matplotlib's linestyle, a name.
    """

    colour: str
    marker: str
    dash: str

    def line(self, **more: Any) -> dict[str, Any]:
        """Keywords of `Axes.plot` for a line with markers."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash, "markersize": 4.5, **more}


MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "d")
DASHES = ("solid", "dashed", "dashdot", "dotted")
COLOURS = {
    "nope": "#7f7f7f",
    "rope": "#d55e00",
    "rope 500k": "#e69f00",
    "rope scaled": "#a6761d",
    "transformer xl": "#009e73",
    "alibi": "#0072b2",
    "t5": "#56b4e9",
    "kerple": "#17a2a2",
    "shaw": "#6b8e23",
    "forget": "#8c564b",
    "learned relative": "#117733",
    "gaussian": "#b07aa1",
    "haar": "#e377c2",
    "morlet": "#c44e77",
    "wavelet": "#7b2d8e",
    "recency": "#1a1a1a",
    "db": "#4c6a92",
    "sym": "#2f6f4f",
    "coif": "#9a3412",
    "dmey": "#9d6b00",
    "bior": "#5b4b8a",
    "rbio": "#a83c6b",
}
"""Of the families; methods of one family share it and differ in marker and dash."""
SPARE_COLOURS = ("#4c6a92", "#9a3412", "#2f6f4f", "#9d6b00", "#5b4b8a", "#a83c6b", "#3f7c85", "#6b6b2f")

FIXED: dict[str, Style] = {
    "nope": Style(colour=COLOURS["nope"], marker="o", dash="solid"),
    "nope log temperature": Style(colour=COLOURS["nope"], marker="P", dash="dashed"),
    "rope": Style(colour=COLOURS["rope"], marker="s", dash="solid"),
    "rope 500k": Style(colour=COLOURS["rope 500k"], marker="s", dash="dashed"),
    "rope theta l train": Style(colour=COLOURS["rope"], marker="v", dash="dashed"),
    "rope closed window": Style(colour="#4d4d4d", marker="X", dash="dotted"),
    "rope read with yarn 8x": Style(colour=COLOURS["rope scaled"], marker="s", dash="dotted"),
    "transformer xl": Style(colour=COLOURS["transformer xl"], marker="^", dash="solid"),
    "alibi": Style(colour=COLOURS["alibi"], marker="D", dash="solid"),
    "t5": Style(colour=COLOURS["t5"], marker="v", dash="solid"),
    "kerple": Style(colour=COLOURS["kerple"], marker="P", dash="solid"),
    "shaw": Style(colour=COLOURS["shaw"], marker="X", dash="solid"),
    "forget gate": Style(colour=COLOURS["forget"], marker="s", dash="solid"),
    "cable": Style(colour=COLOURS["forget"], marker="v", dash="dashed"),
    "learned relative": Style(colour=COLOURS["learned relative"], marker="<", dash="dashed"),
    "wavelet": Style(colour=COLOURS["wavelet"], marker="o", dash="solid"),
    "wavelet future": Style(colour=COLOURS["wavelet"], marker="<", dash="dashed"),
    "wavelet fit grid": Style(colour=COLOURS["wavelet"], marker="D", dash="dashdot"),
    "wavelet future fit grid": Style(colour=COLOURS["wavelet"], marker="X", dash="dotted"),
    "wavelet log temperature": Style(colour=COLOURS["wavelet"], marker="P", dash="dashed"),
    "wavelet local nope global": Style(colour=COLOURS["wavelet"], marker="s", dash="dashdot"),
    "wavelet recency start": Style(colour=COLOURS["recency"], marker="*", dash="solid"),
    "wavelet future recency start": Style(colour=COLOURS["recency"], marker="P", dash="dashed"),
    "wavelet forget gate": Style(colour=COLOURS["forget"], marker="o", dash="dashdot"),
    "wavelet recency start forget gate": Style(colour=COLOURS["forget"], marker="*", dash="dotted"),
    "recency bias alone": Style(colour=COLOURS["recency"], marker="o", dash="dotted"),
    "gaussian": Style(colour=COLOURS["gaussian"], marker="h", dash="solid"),
    "haar": Style(colour=COLOURS["haar"], marker=">", dash="solid"),
    "haar fixed scale": Style(colour=COLOURS["haar"], marker="v", dash="dotted"),
    "morlet": Style(colour=COLOURS["morlet"], marker="p", dash="solid"),
    "rope based wavelet": Style(colour=COLOURS["rope scaled"], marker="d", dash="dashdot"),
}
ALIASES = {
    "rotary": "rope",
    "rope 10k": "rope",
    "rope 10 000": "rope",
    "rope 500 000": "rope 500k",
    "rope θ 500 000": "rope 500k",
    "rope theta 500k": "rope 500k",
    "rope theta 5e5": "rope 500k",
    "transformer xl relative": "transformer xl",
    "trans xl": "transformer xl",
    "transformerxl": "transformer xl",
    "t5 bias": "t5",
    "t5bias": "t5",
    "shaw relative": "shaw",
    "forgetgate": "forget gate",
    "fox": "forget gate",
    "ricker": "wavelet",
    "wavelet ricker": "wavelet",
    "wavelet past": "wavelet",
    "wavelet ricker past": "wavelet",
    "wavelet ricker future": "wavelet future",
    "ricker future": "wavelet future",
    "recency start": "wavelet recency start",
    "wavelet recency": "wavelet recency start",
    "wavelet future recency": "wavelet future recency start",
    "wavelet gaussian": "gaussian",
    "gaussian wavelet": "gaussian",
    "wavelet haar": "haar",
    "haar wavelet": "haar",
    "wavelet haar fixed scale": "haar fixed scale",
    "haar fixed": "haar fixed scale",
    "wavelet morlet": "morlet",
    "morlet wavelet": "morlet",
    "rope wavelet": "rope based wavelet",
    "rope sdpa": "rope",
    "rope sdpa rotated cache": "rope",
    "nope sdpa": "nope",
    "wavepos wavelet": "wavelet",
    "wavepos alibi": "alibi",
    "wavepos learned relative": "learned relative",
}
"""Other names of methods with a fixed style, as `normalised` gives them."""
FAMILIES = (
    ("recency", "recency"),
    ("gaussian", "gaussian"),
    ("haar", "haar"),
    ("morlet", "morlet"),
    ("wavelet", "wavelet"),
    ("ricker", "wavelet"),
    ("yarn", "rope scaled"),
    ("ntk", "rope scaled"),
    ("longrope", "rope scaled"),
    ("rope", "rope"),
    ("rotary", "rope"),
    ("transformer xl", "transformer xl"),
    ("alibi", "alibi"),
    ("t5", "t5"),
    ("kerple", "kerple"),
    ("shaw", "shaw"),
    ("fox", "forget"),
    ("forget", "forget"),
    ("cable", "forget"),
    ("nope", "nope"),
)
"""The first word found in a name that has no style of its own gives its colour."""
_SAMPLED = re.compile(r"(db|sym|coif|dmey|bior|rbio)\d* *\d*(?: |$)")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


def style_of(name: str) -> Style:
    """The colour, marker and dash of a method, the same in every figure and every process.

    Args:
        name: as in tables ("RoPE", "Wavelet, recency start"), or of a method's config ("rotary"); case and punctuation
            do not matter. A name that is not known gets its family's colour, or a spare one, and a marker and a dash
            that follow from the name alone.

    Example:
        >>> style_of("Rotary") == style_of("RoPE")
        True
    """
    key = normalised(name)
    key = ALIASES.get(key, key)
    if key in FIXED:
        return FIXED[key]
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    sampled = _SAMPLED.match(key)
    family = sampled[1] if sampled else next((of for word, of in FAMILIES if word in key), None)
    colour = COLOURS[family] if family else SPARE_COLOURS[number % len(SPARE_COLOURS)]
    number //= len(SPARE_COLOURS)
    taken = {style.marker for style in FIXED.values() if style.colour == colour}
    free = [marker for marker in MARKERS if marker not in taken]
    return Style(
        colour=colour,
        marker=free[number % len(free)],
        dash=DASHES[1 + number // len(free) % (len(DASHES) - 1)],
    )


def normalised(name: str) -> str:
    """A method's name without case, punctuation and superscripts: "Wavelet, future" as "wavelet future"."""
    return " ".join(re.findall(r"\w+", name.translate(_SUPERSCRIPTS).casefold().replace("_", " ")))


def panels(
    rows: int = 1, columns: int = 1, height: float = 2.0, width: float = WIDTH, **options: Any
) -> tuple[Figure, Any]:
    """A figure and its axes, always an array [rows, columns].

    Args:
        rows, columns: of panels.
        height: of one panel, in inches.
        width: of the figure, in inches; the common one, unless it has few panels or many.
        options: of `Figure.subplots`, such as sharex.
    """
    with mpl.rc_context(RC):
        figure = Figure(figsize=(width, rows * height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, axes


def title(axis: Any, text: str, size: float = 9.0) -> None:
    """A panel's title: small, at the left."""
    axis.set_title(text, loc="left", fontsize=size)


def legend(figure: Figure, axes: Any, columns: int = 2) -> None:
    """The legend of a panel's lines below the figure, where it hides none of them."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        options = {"loc": "outside lower left", "ncols": columns, "frameon": False, "fontsize": 8.5}
        figure.legend(handles, labels, **options)


def number(value: float) -> str:
    """Three significant digits with a proper minus."""
    return f"{value:.3g}".replace("-", "−")


def svg(figure: Figure) -> str:
    """The figure as an SVG element; the same text for the same figure."""
    buffer = io.StringIO()
    with mpl.rc_context(RC):
        figure.savefig(buffer, format="svg", dpi=DOTS_PER_INCH, metadata={"Date": None})  # dpi: of images inside
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.svg into the folder, each whole or not at all; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    vector, raster = folder / f"{name}.svg", folder / f"{name}.png"
    write_text(vector, svg(figure) + "\n")
    temporary = folder / f".{name}.png"
    with mpl.rc_context(RC):
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH)
    temporary.replace(raster)
    return [raster, vector]
