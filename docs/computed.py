"""Two directives: what a function of `docs` returns stands on the page, as Markdown or as a drawing.

    ```{computed} speed:speed fp32
    ```
    ```{drawn} figures:mother_wavelets
    ```

The first word names module and function, those behind it are its arguments.
"""

import html
import io
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import matplotlib as mpl
from docutils import nodes
from matplotlib.figure import Figure
from sphinx.util.docutils import SphinxDirective

from wavepos.experiments.style import BLACK, RC

INKS = {
    BLACK: "currentColor",
    "#000000": "currentColor",
    "#e5e5e5": "var(--drawn-grid)",
    "#ffffff": "var(--drawn-page)",
}
"""Colours of figures that follow the theme."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A figure of a page.

    Attributes:
        figure: matplotlib's.
        caption: Markdown below it, with the numbers that were computed with it.
        alt: what it shows, for those who do not see it.
    """

    figure: Figure
    caption: str
    alt: str


class Computed(SphinxDirective):  # type: ignore[misc] # mypy does not read Sphinx
    """Markdown that a function returns."""

    required_arguments = 1
    optional_arguments = 8

    def run(self) -> list[nodes.Node]:
        """The nodes that the Markdown stands for."""
        self.env.note_reread()  # in each build: results and code change beside the page
        text: str = called(*self.arguments)
        return list(self.parse_text_to_nodes(text))


class Drawn(SphinxDirective):  # type: ignore[misc] # likewise
    """A `Drawing` that a function returns, as SVG in the page that takes the page's colours."""

    required_arguments = 1
    optional_arguments = 8

    def run(self) -> list[nodes.Node]:
        """A figure with its caption."""
        self.env.note_reread()
        drawing: Drawing = called(*self.arguments)
        label = html.escape(drawing.alt, quote=True)
        picture = svg_of_page(drawing.figure).replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
        raw = nodes.raw("", f'<div class="drawn">{picture}</div>', format="html")
        caption = nodes.container(classes=["drawn-caption"])
        caption += self.parse_text_to_nodes(drawing.caption)
        return [raw, caption]


def called(name: str, *arguments: str) -> Any:
    """What "module:function" of `docs` returns for these words."""
    module, _, function = name.partition(":")
    return getattr(import_module(f"docs.{module}"), function)(*arguments)


def svg_of_page(figure: Figure) -> str:
    """The figure as an SVG element without a background, black and the grid in the page's own colours."""
    buffer = io.StringIO()
    with mpl.rc_context(RC):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for ink, replacement in INKS.items():
        text = text.replace(ink, replacement)
    return text
