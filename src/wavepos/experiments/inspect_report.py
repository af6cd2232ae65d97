"""`wavepos inspect`: a model's heads as tables, figures, JSON and a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor

from wavepos.analysis.inspect import THRESHOLD, Inspection, inspect_model
from wavepos.console import Update
from wavepos.data import prepare_split
from wavepos.data.corpora import corpus_of_run
from wavepos.experiments.exhibits import Shown
from wavepos.experiments.inspect_figures import finite, inspection_figures
from wavepos.models import BaevskiAuliForCausalLM
from wavepos.models.decoder.model import DecoderLM
from wavepos.models.loading import load_model, load_saved_tokenizer
from wavepos.positions.alibi import ALiBiConfig
from wavepos.positions.wavelet import WaveletConfig
from wavepos.runs import RECORD, finished_config, model_directory

TIMES_TRAINED = 4
"""Tokens of a text by default: this many times L_train, or `LENGTH` where no run says what it is."""
LENGTH = 1024
SHOWN_DISTANCES = (1, 4, 16, 64, 256, 1024, 4096)
"""At which tables give preferences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """A model that can be looked into.

    Attributes:
        path: as it was given.
        model: one of ours, in evaluation.
        tokenizer: its own.
        config: of its training; None for a saved model without a run.
    """

    path: Path
    model: Any
    tokenizer: Any
    config: Mapping[str, Any] | None

    def texts(self, corpus: str | None, length: int | None, count: int) -> list[Tensor]:
        """The beginning of a corpus's validation split as texts of one length.

        Args:
            corpus: None: the one trained on, or the standard library's source.
            length: tokens of a text; None: the default.
            count: of texts.

        Raises:
            ValueError: a number out of its range, or a split that is too short.
        """
        trained = self.config["seq_len"] if self.config else None
        length = length or (TIMES_TRAINED * trained if trained else LENGTH)
        for name, number, least in (("length", length, 4), ("texts", count, 1)):
            if number < least:
                raise ValueError(f"{name} must be at least {least}, got {number}")
        corpus = corpus or (corpus_of_run(self.path, self.config) if self.config else "stdlib")
        ids = prepare_split(corpus, "valid", self.tokenizer, max_tokens=length * count, ended=False).ids
        if len(ids) < length * count:
            raise ValueError(
                f"texts × length must be at most the {len(ids):,} tokens of the validation split of {corpus!r}, "
                f"got {count} × {length:,}"
            )
        return [torch.tensor(ids[i * length : (i + 1) * length].tolist()) for i in range(count)]


def opened(path: Path) -> Inspected:
    """A run's model, or a saved one.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: an unfinished run, or a model of another family.
    """
    config = finished_config(path) if (path / RECORD).exists() else None
    directory = model_directory(path)
    model = load_model(directory, local_files_only=True)
    if not isinstance(model, BaevskiAuliForCausalLM | DecoderLM):
        raise ValueError(
            f"inspect looks into models of wavepos, got {type(model).__name__} in {path}: "
            "what wavepos.models.convert makes of it, saved, is one"
        )
    tokenizer = load_saved_tokenizer(directory)
    return Inspected(path=path, model=model, tokenizer=tokenizer, config=config)


def inspected(
    opened_model: Inspected, corpus: str | None, length: int | None, count: int, update: Update | None = None
) -> tuple[Inspection, Shown]:
    """What the heads prefer and where they look, and how it is shown.

    Args:
        opened_model: the model.
        corpus, length, count: as `Inspected.texts` takes them.
        update: told of the texts read.
    """
    model = opened_model.model
    found = inspect_model(model, opened_model.texts(corpus, length, count), update=update)
    return found, shown_inspection(opened_model, found)


def shown_inspection(opened_model: Inspected, found: Inspection) -> Shown:
    """The page of an inspection."""
    configs = opened_model.model.config.position_configs
    slopes_of = [index for index, config in enumerate(configs) if _has_slopes(config)]
    trained = "" if opened_model.config is None else f" (L_train {opened_model.config['seq_len']:,})"
    lines = [
        f"{opened_model.path.name}{trained}, {found.texts} texts of {found.length:,} tokens; means over the last "
        f"queries of each. Heads and layers count from 1; −∞: outside a window, or some 700 below.",
        "",
        *_markdown("Mean attention distance, tokens back", distance_rows(found)),
        *_markdown("Preference by itself: score δ tokens back less that at 0", preference_rows(found, own=True)),
        *_markdown("Preference with the text's queries", preference_rows(found, own=False)),
        *_markdown(f"Keys with a weight of at least {THRESHOLD:g}; keys that hold 99%", window_rows(found)),
    ]
    if gates := gate_rows(found):
        lines += _markdown("Gates: tokens in which a head forgets half, at its mean log gate", gates)
    return Shown(
        title=f"What the heads of {opened_model.path.name} prefer",
        lines=lines,
        figures=inspection_figures(found, slopes_of),
        data=_data(opened_model, found),
    )


Rows = tuple[list[str], list[list[str]]]
"""The head and the body of a table."""


def distance_rows(found: Inspection) -> Rows:
    """Mean attention distance, a row for each layer, a column for each head."""
    heads = [str(head + 1) for head in range(len(found.layers[0].mean_distance_H))]
    body = [[str(one.layer + 1), *(f"{value:.1f}" for value in one.mean_distance_H.tolist())] for one in found.layers]
    return ["layer \\ head", *heads], body


def preference_rows(found: Inspection, *, own: bool) -> Rows:
    """Preferences at some distances, a row for each head."""
    at = [distance for distance in SHOWN_DISTANCES if distance <= found.distances[-1]]
    nearest = [min(range(len(found.distances)), key=lambda i: abs(found.distances[i] - d)) for d in at]
    body = [
        [f"{one.layer + 1}.{head + 1}", *(_number(curve[index]) for index in nearest)]
        for one in found.layers
        for head, curve in enumerate((one.own_HN if own else one.of_text_HN).tolist())
    ]
    return ["layer.head", *(f"δ = {found.distances[index]:,}" for index in nearest)], body


def window_rows(found: Inspection) -> Rows:
    """Windows, a row for each layer, a column for each head."""
    heads = [str(head + 1) for head in range(len(found.layers[0].windows.keys_H))]
    body = [
        [
            str(one.layer + 1),
            *(f"{a:.0f}; {b:.0f}" for a, b in zip(one.windows.keys_H, one.windows.held_H, strict=True)),
        ]
        for one in found.layers
    ]
    return ["layer \\ head", *heads], body


def gate_rows(found: Inspection) -> Rows | None:
    """Half-lives at the mean log gate of the text's keys; None where no layer has gates."""
    gated = [one for one in found.layers if one.gate_H is not None]
    if not gated:
        return None
    heads = [str(head + 1) for head in range(len(gated[0].mean_distance_H))]
    body = [
        [str(one.layer + 1), *(_half_life(gate) for gate in one.gate_H.tolist())]
        for one in gated
        if one.gate_H is not None
    ]
    return ["layer \\ head", *heads], body


def console_table(heading: str, rows: Rows) -> Table:
    """A table for the console."""
    table = Table(*rows[0], title=heading, box=SIMPLE, title_justify="left")
    for row in rows[1]:
        table.add_row(*row)
    return table


def _half_life(gate: float) -> str:
    return f"{math.log(2.0) / -gate:,.1f}" if gate < 0.0 else "never"


def _number(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if math.isfinite(value) else "−∞"


def _has_slopes(config: Any) -> bool:
    """Whether a layer's heads have ALiBi's slopes, or started at its recency."""
    return isinstance(config, ALiBiConfig) or (isinstance(config, WaveletConfig) and config.query_bias == "recency")


def _markdown(heading: str, rows: Rows) -> list[str]:
    head, body = rows
    table = [f"| {' | '.join(row)} |" for row in (head, *body)]
    return [f"**{heading}**", "", table[0], "|---|" + "---:|" * (len(head) - 1), *table[1:], ""]


def _data(opened_model: Inspected, found: Inspection) -> dict[str, Any]:
    configs: Sequence[Any] = opened_model.model.config.position_configs
    return {
        "model": str(opened_model.path),
        "length": found.length,
        "texts": found.texts,
        "threshold": THRESHOLD,
        "distances": list(found.distances),
        "edges": list(found.edges),
        "gradient": found.binned_gradient(),
        "layers": [
            {
                "layer": one.layer,
                "position": configs[one.layer].method,
                "own": finite(one.own_HN),
                "of_text": finite(one.of_text_HN),
                "mass": one.mass_HE.tolist(),
                "mean_distance": one.mean_distance_H.tolist(),
                "keys": list(one.windows.keys_H),
                "reach": list(one.windows.reach_H),
                "held": list(one.windows.held_H),
                "gate": None if one.gate_H is None else one.gate_H.tolist(),
            }
            for one in found.layers
        ],
    }
