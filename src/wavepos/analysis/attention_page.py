"""What every token of one text attends to, as one HTML file without any network: pointer, touch and keyboard.

The weights of all layers and heads lie in the page, a byte each: round(255·√w), so that a weight is known to within
0.004·√w + 4e-6. T tokens, L layers and H heads take
L·H·T(T + 1)/2 · 4/3 bytes, and `LARGEST_PAGE` bounds it.
"""

import base64
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

LARGEST_PAGE = 4 * 2**20
"""Bytes of the weights in a page, at most."""
_ASSETS = Path(__file__).parent / "assets"


def most_tokens(num_layers: int, num_heads: int) -> int:
    """The longest text whose weights a page has room for."""
    tokens = 1
    while _bytes(num_layers, num_heads, tokens + 1) <= LARGEST_PAGE:
        tokens += 1
    return tokens


def attention_page(maps: Sequence[Tensor], tokens: Sequence[str], title: str) -> str:
    """The page of a text.

    Args:
        maps: causal weights of each layer, [H, T, T]; layers may differ in their heads.
        tokens: the text of each token, shown as text whatever is in it.
        title: of the page.

    Raises:
        ValueError: maps that do not fit the tokens, or more than a page has room for.
    """
    shapes = [tuple(one.shape) for one in maps]
    length = len(tokens)
    if not shapes or any(len(shape) != 3 or shape[1:] != (length, length) for shape in shapes):
        raise ValueError(
            f"maps must be [heads, {length}, {length}] for {length} tokens, and at least one, got {shapes}"
        )
    heads = max(shape[0] for shape in shapes)
    if _bytes(len(maps), heads, length) > LARGEST_PAGE:
        raise ValueError(
            f"tokens must be at most {most_tokens(len(maps), heads)} for {len(maps)} layers of {heads} heads, so that "
            f"a page stays below {LARGEST_PAGE / 2**20:g} MiB, got {length}"
        )
    data = {"tokens": list(tokens), "heads": [shape[0] for shape in shapes], "weights": [_packed(one) for one in maps]}
    page = (_ASSETS / "attention_page.html").read_text(encoding="utf-8")
    places = {"__TITLE__": html.escape(title), "__DATA__": _in_script(data)}
    return re.sub("|".join(places), lambda place: places[place[0]], page)  # one pass: a text may hold such a word


def _packed(weights_HTT: Tensor) -> str:
    """Rows up to their own token, side by side, head after head, in base64."""
    below = torch.tril(torch.ones(weights_HTT.shape[1:], dtype=torch.bool, device=weights_HTT.device))
    bytes_HN = (255.0 * weights_HTT.clamp(0.0, 1.0).sqrt()).round().to(torch.uint8)[:, below]
    return base64.b64encode(bytes_HN.cpu().numpy().tobytes()).decode("ascii")


def _in_script(data: object) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or opens another."""
    text = json.dumps(data, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _bytes(num_layers: int, num_heads: int, tokens: int) -> int:
    return num_layers * 4 * (-(-num_heads * tokens * (tokens + 1) // 2 // 3) + 1)
