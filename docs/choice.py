"""Which one should I use? The sentences and the table that answer it, from results/*.json."""

import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

import wavepos.experiments.methods  # noqa: F401 - registers the methods of the studies
from docs.results import probes
from docs.speed import ratios
from docs.tables import first_panel, markdown_table, ranked
from wavepos import attention
from wavepos.experiments.intervals import FEWEST
from wavepos.experiments.retrieval_report import TaskPanel, task_panels
from wavepos.experiments.tables import Column, Panel, columns, perplexity_text
from wavepos.positions import parse_layers
from wavepos.positions.layers import distinct_configs
from wavepos.positions.terms import ReadsGates

HEADS, HEAD_DIM = 4, 64
NOT_MEASURED = "not measured"
TOLD_APART = f", told apart from every other method of {FEWEST} seeds or more."
COSTS = (
    ("attention call at 8k", "attention_cpu", 8192),
    ("training step at 2k", "train_step_cpu", 2048),
    ("decoded token at 8k", "decode_cpu", 8192),
)
"""Titles, benchmarks and lengths of the times per token, all over RoPE's."""
PEERS = {
    "NoPE": ("nope",),
    "RoPE": ("rope", "rotary"),
    "ALiBi": ("alibi",),
    "Wavelet": ("wavelet",),
    "Transformer-XL": ("transformer_xl",),
}
"""By method of the studies: its names in the benchmarks."""


def best_sentence(panel: Panel, column: Column) -> str:
    """Who is best at a length, and who cannot be told apart from it; one of too few seeds is named where it leads."""
    means = {name: statistics.fmean(values.values()) for name, values in column.nats.items()}
    if not means:
        return "Nothing was measured here."
    first = min(means, key=means.__getitem__)
    factor = f"{column.length:,} tokens ({column.length / panel.seq_len:g} × L_train)"
    shown = perplexity_text(list(column.shown[first].values()))
    lowest = f"{first} has the lowest perplexity at {factor}, {shown}"
    if len(column.nats[first]) < FEWEST:
        return f"Of {len(means)} methods {lowest}{_too_few(column, first)}"
    unclear = _not_told_apart(column, first, sorted(means, key=means.__getitem__))
    if not unclear:
        return f"{first} is best at {factor}, {shown}{TOLD_APART}"
    return f"{lowest}; from it cannot be told apart: {'; '.join(unclear)}."


def best_by_length(name: str, kind: str = "whole") -> str:
    """A sentence per length, and who has too few seeds to be ranked."""
    panel = first_panel(name)
    lines = [f"- {best_sentence(panel, column)}" for column in columns(panel, panel.texts[0], kind)]
    few = [method for method in panel.names if method not in ranked(panel)]
    return "\n".join(lines) + (f"\n\nToo few seeds to be ranked: {'; '.join(few)}." if few else "")


def best_recall(panel: TaskPanel, units: float, depth: float | None = None) -> str:
    """Who finds most at a distance, and who cannot be told apart from it; over all depths, or at one."""
    found = {name: values for name in panel.names if (values := panel.accuracies(name, units, depth))}
    if not found:
        return "Nothing was measured here."
    means = {name: statistics.fmean(values.values()) for name, values in found.items()}
    first = max(means, key=means.__getitem__)
    place = f"{units * panel.seq_len:,.0f} tokens ({units:g} × L_train)"
    start = (
        f"{first} finds most at a distance of {place}, accuracy {means[first]:.2f} (chance {panel.probe.chance:.2f})"
    )
    column = Column(length=round(units * panel.seq_len), nats=found, shown=found)
    if len(found[first]) < FEWEST:
        return f"{start}{_too_few(column, first)}"
    unclear = _not_told_apart(column, first, found)
    return f"{start}; from it cannot be told apart: {'; '.join(unclear)}." if unclear else f"{start}{TOLD_APART}"


def _too_few(column: Column, first: str) -> str:
    count = len(column.nats[first])
    return f", from {count} seed{'s' if count > 1 else ''}: too few to rank anything."


def _not_told_apart(column: Column, first: str, names: Iterable[str]) -> list[str]:
    """Whom a method of enough seeds cannot be told apart from, in the order of the names."""
    differences = {name: column.difference(first, name) for name in names if name != first}
    return [n for n, d in differences.items() if d is not None and d.count >= FEWEST and not d.leaves_out_zero]


def quality(name: str = "table1-cpu") -> str:
    """By method: perplexity at the trained length and far beyond, and recall there."""
    panel = first_panel(name)
    found = columns(panel, panel.texts[0], "whole")
    chosen = [c for c in found if c.length in (panel.seq_len, 4 * panel.seq_len, 16 * panel.seq_len)]
    recall = recall_beyond()
    rows = []
    for method in panel.names:
        cells = [perplexity_text(list(c.shown[method].values())) if method in c.shown else NOT_MEASURED for c in chosen]
        rows.append([method, *cells, recall.get(method, NOT_MEASURED)])
    titles = ("trained length" if c.length == panel.seq_len else "long" for c in chosen)
    heads = (f"{title}, {c.length:,}" for title, c in zip(titles, chosen, strict=True))
    return markdown_table(["", *heads, "recall beyond L_train"], rows)


def properties(name: str = "table1-cpu") -> str:
    """By method: the directions it serves, its parameters, what a cache holds, what a token costs."""
    panel = first_panel(name)
    base = next(o["parameters"] for o in panel.outcomes if o["name"] == "NoPE")
    rows = []
    for method in panel.names:
        outcome = next(o for o in panel.outcomes if o["name"] == method)
        served = [_both_ways(outcome), f"{outcome['parameters'] - base:,}", _cached(outcome)]
        rows.append([method, *served, *_costs(method)])
    heads = ["", "both directions", "parameters more", "cache holds", *(title for title, *_ in COSTS)]
    return markdown_table(heads, rows)


def recall_beyond() -> dict[str, str]:
    """By method: accuracy from 2 × L_train on, the mean over the tasks measured, ± standard deviation over seeds."""
    found: dict[str, dict[int, list[float]]] = {}
    for result in probes().values():
        for panel in task_panels(result):
            for name in panel.names:
                for seed, accuracy in panel.mean(name, in_range=False).items():
                    found.setdefault(name, {}).setdefault(seed, []).append(accuracy)
    return {
        name: perplexity_text([statistics.fmean(values) for values in by_seed.values()])
        for name, by_seed in found.items()
        if by_seed
    }


def recall_note() -> str:
    """Which probes the column of recall is of."""
    if not probes():
        return "Recall: no result of `wavepos study retrieval` is in `results/` yet, so nothing is said of it."
    titles = [panel.probe.title for result in probes().values() for panel in task_panels(result)]
    return f"Recall: mean accuracy at 2 × L_train and more over {'; '.join(dict.fromkeys(titles))}."


def _costs(method: str) -> list[str]:
    peers = PEERS.get(method, ())
    found = []
    for _, benchmark, seq_len in COSTS:
        measured = ratios(benchmark, seq_len)
        found.append(next((measured[peer] for peer in peers if peer in measured), NOT_MEASURED))
    return found


def _positions(outcome: Mapping[str, Any]) -> Iterator[Any]:
    for config in distinct_configs(parse_layers(outcome["config"]["position"])):
        yield config.build(head_dim=HEAD_DIM, num_heads=HEADS)


def _both_ways(outcome: Mapping[str, Any]) -> str:
    """Whether attention serves the method with causal=False, asked of it."""
    q = torch.zeros(1, HEADS, 2, HEAD_DIM)
    for position in _positions(outcome):
        try:
            attention(q, q, q, position=position, causal=False)
        except ValueError as error:
            return "if made so" if "bidirectional=True" in str(error) else "no"
    return "yes"


def _cached(outcome: Mapping[str, Any]) -> str:
    positions = list(_positions(outcome))
    if any(isinstance(position, ReadsGates) and position.reads_gates for position in positions):
        return "keys, gates"
    return "rotated keys" if any(position.rotates for position in positions) else "keys"
