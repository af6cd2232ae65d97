"""`wavepos inspect --text`: the page of one text, token by token."""

from pathlib import Path

import torch

from wavepos.analysis.attention_page import attention_page, most_tokens
from wavepos.analysis.model_attention import attention_inputs, num_layers
from wavepos.experiments.inspect_report import Inspected
from wavepos.storage import write_text

LENGTH = 128
"""Tokens of a page by default, at most."""


def write_text_page(
    opened_model: Inspected, text: str | None, text_file: Path | None, length: int | None, out: Path
) -> Path:
    """Write attention.html: what each token of the beginning of a text attends to.

    Args:
        opened_model: the model.
        text: to be read, after the token that begins a document; None: that of the file.
        text_file: UTF-8.
        length: tokens, that first one counted; None: `LENGTH`, or as many as a page has room for where that is fewer.
        out: folder of the page; made if absent.

    Raises:
        ValueError: no text, or a length that a page has no room for.
        OSError: a file that cannot be read.
    """
    if text is None:
        if text_file is None:
            raise ValueError("text or text_file must be given, got neither")
        text = text_file.read_text(encoding="utf-8")
    if not text.strip():
        raise ValueError("text must hold something to read, got white space alone")
    model, tokenizer = opened_model.model, opened_model.tokenizer
    layers, heads = num_layers(model), model.config.num_attention_heads
    room = most_tokens(layers, heads)
    length = min(LENGTH, room) if length is None else length
    if not 2 <= length <= room:
        raise ValueError(f"length must lie between 2 and {room}, the tokens that a page has room for, got {length}")
    ids = [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False).input_ids][:length]
    given = torch.tensor(ids)
    maps = [attention_inputs(model, given, layer).rows(0, len(ids)) for layer in range(layers)]
    tokens = [tokenizer.decode([token]) for token in ids]
    page = attention_page(maps, tokens, f"What the tokens attend to: {opened_model.path.name}")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "attention.html", page)
    return out / "attention.html"
