"""All of the paper's figures as files: the wavelets by themselves, the attention maps of models at hand."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from wavepos import ALiBi, Wavelet
from wavepos.analysis.attention_maps import (
    AttentionInputs,
    AttentionMap,
    attended_tokens,
    attention_picture,
)
from wavepos.analysis.model_attention import attention_inputs
from wavepos.analysis.receptive_field import RowWindows, content_free_alibi, row_windows
from wavepos.console import Update
from wavepos.data import prepare_split
from wavepos.experiments.attention_figures import (
    PIXELS,
    TEXT_THRESHOLD,
    THRESHOLD,
    maps_by_head,
    maps_by_method,
    maps_with_text,
    windows_by_head,
    windows_by_slope,
)
from wavepos.experiments.exhibits import Shown, missing_lines, trained_runs
from wavepos.experiments.study import StudyOptions
from wavepos.experiments.wavelet_figures import (
    compared_wavelets,
    discrete_wavelets,
    ricker_scales,
    wavelets_of_a_head,
)
from wavepos.models.loading import load_model, load_saved_tokenizer
from wavepos.runs import finished_run, slug

ATTENTION_METHODS = ("RoPE", "Transformer-XL", "ALiBi", "Wavelet", "Wavelet, recency start")
"""Whose attention is drawn."""
LENGTH = 1012
"""Tokens read whole in Fig. 2, 3, 7 and 8."""
LAST_ROWS = 64
"""Rows whose windows are averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A model and the text it reads.

    Attributes:
        model: one of ours, in evaluation.
        input_ids: int64 [T].
        tokens: their texts.
    """

    model: nn.Module
    input_ids: Tensor
    tokens: Sequence[str]


def reading_of_run(run_dir: Path, length: int = LENGTH, start: int = 0) -> Reading:
    """A finished run's model, and tokens start … start + length − 1 of its corpus's validation split.

    Raises:
        FileNotFoundError, ValueError: no finished run there, or a split with fewer tokens.
    """
    config = finished_run(run_dir)["config"]
    tokenizer: Any = load_saved_tokenizer(run_dir / "model")
    ids = prepare_split(config["corpus"], "valid", tokenizer, max_tokens=max(3, start + length), ended=False).ids
    if start < 0 or length < 1 or start + length > len(ids):
        raise ValueError(f"the validation split has {len(ids):,} tokens, got start {start:,} and length {length:,}")
    chosen = torch.tensor(ids[start : start + length].tolist())
    return Reading(
        model=load_model(run_dir / "model"),
        input_ids=chosen,
        tokens=[tokenizer.decode([token]) for token in chosen.tolist()],
    )


def wavelet_figures() -> dict[str, Figure]:
    """Fig. 1, 4, 5, 6, 9 and 10, which need no model."""
    return {
        "figure01": wavelets_of_a_head(Wavelet(128)),
        "figure04": ricker_scales(4),
        "figure05": ricker_scales(5),
        "figure06": compared_wavelets(),
        "figure09": discrete_wavelets(9),
        "figure10": discrete_wavelets(10),
    }


def content_free_figures(num_heads: int = 8, length: int = LENGTH) -> dict[str, Figure]:
    """Fig. 2 as ALiBi's slopes alone give it, and its windows against the slopes."""
    inputs = content_free_alibi(num_heads, length)
    found = attention_picture(inputs, THRESHOLD, pixels=PIXELS)
    return {
        "figure02-no-content": maps_by_head(found, "ALiBi's slopes alone, no content"),
        "windows-no-content": windows_by_slope({"ALiBi": last_windows(inputs, rows=1)}, num_heads),
    }


def attention_figures(
    readings: Mapping[str, Reading], layer: int = -1, head: int = 4
) -> tuple[dict[str, Figure], dict[str, RowWindows]]:
    """Fig. 2, 3, 7 and 8 and the windows, of trained models; and the windows' numbers by method.

    Args:
        readings: by method, all of one length and with equally many heads.
        layer: from 0; negative numbers count from the last. The paper does not name its layer.
        head: of Fig. 3, from 1, or the last where there are fewer; Fig. 8 has the others.

    Returns:
        Fig. 2 and 7 for each method, the others with a column for each.
    """
    found: dict[str, Figure] = {}
    maps: dict[str, AttentionMap] = {}
    windows: dict[str, RowWindows] = {}
    for name, reading in readings.items():
        inputs = attention_inputs(reading.model, reading.input_ids, layer)
        maps[name] = attention_picture(inputs, THRESHOLD, pixels=PIXELS)
        windows[name] = last_windows(inputs)
        if isinstance(inputs.position, ALiBi):
            found[f"windows-{slug(name.lower())}"] = windows_by_slope({name: windows[name]}, inputs.num_heads)
        found[f"figure02-{slug(name.lower())}"] = maps_by_head(maps[name], name)
        of_text = attention_picture(inputs, TEXT_THRESHOLD, pixels=PIXELS)
        attended = attended_tokens(of_text, list(reading.tokens))
        found[f"figure07-{slug(name.lower())}"] = maps_with_text(of_text, reading.tokens, attended)
    heads = len(next(iter(windows.values())).keys_H)
    chosen = min(head, heads) - 1
    found["figure03"] = maps_by_method(maps, [chosen])
    if others := [one for one in range(heads) if one != chosen]:
        found["figure08"] = maps_by_method(maps, others)
    found["windows"] = windows_by_head(windows)
    return found, windows


def last_windows(inputs: AttentionInputs, threshold: float = THRESHOLD, rows: int = LAST_ROWS) -> RowWindows:
    """The windows of each head, means over the last rows."""
    first = max(0, inputs.length - rows)
    return row_windows(inputs.rows(first, inputs.length), threshold, first_row=first)


def figures(options: StudyOptions, root: Path, update: Update) -> Shown:
    """Figures 1 to 10: the wavelets, and attention maps and windows of the models that table1 has trained."""
    return shown_figures(*trained_runs(options, root, ATTENTION_METHODS))


def shown_figures(runs: Mapping[str, Path], missing: Sequence[str] = (), length: int = LENGTH) -> Shown:
    """The figures; those of attention where runs are given.

    Args:
        runs: finished runs by method.
        missing: methods without one.
        length: tokens read whole.
    """
    drawn = {**wavelet_figures(), **content_free_figures()}
    windows: dict[str, RowWindows] = {}
    if runs:
        of_attention, windows = attention_figures({name: reading_of_run(run, length) for name, run in runs.items()})
        drawn |= of_attention
    return Shown(
        title="The paper's figures",
        lines=[
            f"Attention is that of the last layer, reading {length:,} tokens whole.",
            *_window_lines(windows),
            *missing_lines(missing),
        ],
        figures={name: (figure, caption_of(name)) for name, figure in drawn.items()},
        data={
            "runs": {name: run.name for name, run in runs.items()},
            "windows": {name: dataclasses.asdict(each) for name, each in windows.items()},
        },
    )


def _window_lines(windows: Mapping[str, RowWindows]) -> list[str]:
    if not windows:
        return []
    heads = range(len(next(iter(windows.values())).keys_H))
    lines = [
        "",
        f"Keys of each head, means over the last {LAST_ROWS} queries: how many weigh at least {THRESHOLD:g}; "
        "the farthest of these, in tokens back; the fewest that hold 99% of the weight.",
        "",
    ]
    lines += ["| | " + " | ".join(f"head {head + 1}" for head in heads) + " |", "|---|" + "---:|" * len(heads)]
    for name, each in windows.items():
        cells = (f"{each.keys_H[h]:.0f}; {each.reach_H[h]:.0f}; {each.held_H[h]:.0f}" for h in heads)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


CAPTIONS: Mapping[str, str] = {
    "figure01": "Fig. 1. The wavelets of a head.",
    "figure02": "Fig. 2. Which keys every head attends to (black: weight of at least 0.001).",
    "figure03": "Fig. 3. One head of each method.",
    "figure04": "Fig. 4. Ricker wavelets of the first scales.",
    "figure05": "Fig. 5. Ricker wavelets of the other scales.",
    "figure06": "Fig. 6. Wavelets with a formula.",
    "figure07": "Fig. 7. Which tokens are attended to (weight of at least 0.01): red in all heads, blue in some.",
    "figure08": "Fig. 8. The other heads of each method.",
    "figure09": "Fig. 9. Sampled wavelets.",
    "figure10": "Fig. 10. More sampled wavelets.",
    "windows": "How many keys a query of the last rows attends to, and how far back.",
}
"""By the beginning of a figure's name."""


def caption_of(name: str) -> str:
    """The caption of a figure: the number in its name, and what comes after it."""
    start, _, rest = name.partition("-")
    return CAPTIONS[start] + (f" Here: {rest.replace('-', ' ')}." if rest else "")
