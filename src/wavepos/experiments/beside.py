"""Our numbers beside the paper's: both in one cell, and which of its comparisons hold, fail or cannot be told."""

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wavepos.experiments.intervals import FEWEST
from wavepos.experiments.published import (
    LENGTHS,
    LENGTHS_1024,
    TABLE1,
    TABLE3,
    TABLE4,
    Comparison,
    Protocol,
    TableName,
    comparisons,
    verdict,
)
from wavepos.experiments.tables import BLOCKS, Column, Panel, columns, difference_text, perplexity_text

NAMES: Mapping[str, str] = {
    "RoPE 500k": "RoPE, theta = 5e5",
    "Gaussian": "Gaussian wavelet",
    "Haar": "Haar wavelet",
    "Morlet": "Morlet wavelet",
}
"""Rows of the paper's Table 1 that are called otherwise here; all others are called the same."""
NEAREST = 1.3
"""Lengths correspond if, in units of L_train, neither is longer than the other by more than this factor."""
FEWEST_RANKED = 4
"""Rows, at least, whose order is compared with the paper's."""
PROTOCOLS: tuple[Protocol, ...] = ("whole", "nonoverlapping")


def beside_paper(panel: Panel, table: TableName) -> Iterator[str]:
    """Markdown: for each protocol a table "paper | ours", then the paper's comparisons by how they fare here.

    Args:
        panel: our runs; their first text is looked at.
        table: the paper's table that they redo: "1", "3" or "4".
    """
    yield from ["### Beside the paper", "", _explained(panel, table), ""]
    for protocol in PROTOCOLS:
        rows = paper_rows(table, protocol, panel)
        found = {column.length: column for column in columns(panel, panel.texts[0], protocol)}
        pairs = lengths_beside(table, panel, sorted(found))
        if rows and pairs:
            yield from [*_table(protocol, rows, found, pairs, panel), ""]
    yield from _judged(panel, table)


def _explained(panel: Panel, table: TableName) -> str:
    paper = _paper_length(table, panel)
    return (
        f"Each cell: the paper's Table {table} (L_train = {paper}, perplexity per word of WikiText-103) ¦ ours. "
        f"Lengths are compared in units of L_train, ours in brackets. The numbers are not of "
        f"one scale; who beats whom is."
    )


def _table(
    protocol: Protocol,
    rows: Mapping[str, Mapping[int, float]],
    found: dict[int, Column],
    pairs: dict[int, int],
    panel: Panel,
) -> Iterator[str]:
    heads = [f"{length} ({ours})" for length, ours in pairs.items()]
    yield f"| {BLOCKS[protocol]} | " + " | ".join(heads) + " |"
    yield "|---|" + "---:|" * len(pairs)
    orders: dict[int, list[tuple[float, float]]] = {length: [] for length in pairs}
    for name, published in rows.items():
        ours = NAMES.get(name, name)
        if ours not in panel.names:
            continue
        cells = []
        for length, our_length in pairs.items():
            shown = found[our_length].shown.get(ours)
            cells.append(f"{published[length]:.2f} ¦ {perplexity_text(list(shown.values())) if shown else '–'}")
            if shown:
                orders[length].append((published[length], statistics.fmean(shown.values())))
        yield f"| {ours} | " + " | ".join(cells) + " |"
    if min(map(len, orders.values())) >= FEWEST_RANKED:
        cells = [f"{rank_correlation(both):+.2f}".replace("-", "−") for both in orders.values()]
        yield "| *Spearman's rank correlation of both* | " + " | ".join(cells) + " |"


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's ρ: the correlation of the ranks, equal values at the mean of theirs; NaN where all are equal."""
    ranks = []
    for values in zip(*pairs, strict=True):
        order = sorted(values)
        ranks.append([order.index(value) + (order.count(value) - 1) / 2 for value in values])
    try:
        return statistics.correlation(*ranks)
    except statistics.StatisticsError:
        return math.nan


def _judged(panel: Panel, table: TableName) -> Iterator[str]:
    """The count of comparisons by verdict, and those that fail, each with our difference."""
    judged = list(judged_comparisons(panel, table))
    if not judged:
        return
    counts = Counter(how for _, _, how, _ in judged)
    said = ", ".join(
        f"{counts[how]} {how}" for how in ("holds", "fails", "cannot be told", "too few seeds") if counts[how]
    )
    yield f"Of the paper's comparisons (who beats whom at which length), {len(judged)} can be looked for here: {said}."
    yield (
        "A comparison holds or fails where the 95% interval of the paired difference over seeds leaves out zero; with "
        "fewer than three seeds nothing is told. Numbers of the paper that cannot be right are left out."
    )
    yield ""
    fails = [(c, ours, said) for c, ours, how, said in judged if how == "fails"]
    for comparison, ours, said in fails:
        yield (
            f"- Fails: {NAMES.get(comparison.better, comparison.better)} below "
            f"{NAMES.get(comparison.worse, comparison.worse)} at {comparison.length} (ours {ours}), "
            f"{'in blocks of L_train' if comparison.protocol == 'nonoverlapping' else 'read whole'}: {said} nats per "
            f"token where the paper has it {comparison.margin:.2f} lower in perplexity."
        )


def judged_comparisons(panel: Panel, table: TableName) -> Iterator[tuple[Comparison, int, str, str]]:
    """Each comparison of the paper that our runs can be asked about.

    Yields:
        The comparison, our length, "holds", "fails", "cannot be told" or "too few seeds", and our difference as text:
        better less worse, in nats per token, below zero where it holds.
    """
    text = panel.texts[0]
    by_protocol = {kind: {c.length: c for c in columns(panel, text, kind)} for kind in PROTOCOLS}
    paper = _paper_length(table, panel)
    for comparison in comparisons(table):
        if comparison.train_len != paper or comparison.suspect:
            continue
        found = by_protocol[comparison.protocol]
        ours = lengths_beside(table, panel, sorted(found)).get(comparison.length)
        if ours is None:
            continue
        names = (NAMES.get(name, name) for name in (comparison.better, comparison.worse))
        difference = found[ours].difference(*names)
        if difference is None:
            continue
        if difference.half_width is None or difference.count < FEWEST:
            how = "too few seeds"
        else:
            how = verdict(-difference.mean - difference.half_width, -difference.mean + difference.half_width)
        yield comparison, ours, how, difference_text(difference)


def paper_rows(table: TableName, protocol: Protocol, panel: Panel) -> dict[str, dict[int, float]]:
    """The paper's perplexities by row and length, of the L_train that stands for ours."""
    if table == "1":
        paper = _paper_length(table, panel)
        lengths = LENGTHS if paper == 512 else LENGTHS_1024
        rows = TABLE1[protocol][paper]
    else:
        lengths, rows = LENGTHS, ({"3": TABLE3, "4": TABLE4}[table] if protocol == "whole" else {})
    return {name: dict(zip(lengths, row, strict=True)) for name, row in rows.items()}


def _paper_length(table: TableName, panel: Panel) -> int:
    """The paper's L_train that ours stands for: the same, or 512, at which it trained all its methods."""
    return 1024 if table == "1" and panel.seq_len == 1024 else 512


def lengths_beside(table: TableName, panel: Panel, ours: list[int]) -> dict[int, int]:
    """The paper's length to the nearest of ours in units of L_train, where there is one near; each of ours once."""
    paper = _paper_length(table, panel)
    published = LENGTHS if paper == 512 else LENGTHS_1024
    found: dict[int, int] = {}
    for length in published:

        def distance(our_length: int, factor: float = length / paper) -> float:
            return abs(math.log(our_length / panel.seq_len / factor))

        near = min(ours, key=distance, default=None)
        if near is not None and distance(near) <= math.log(NEAREST):
            found[length] = near
    return found


def facts_table(panel: Panel, facts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Markdown: what a study says of its rows, beside their perplexity at and far beyond L_train."""
    rows = {name: facts[name] for name in panel.names if name in facts}
    if not rows:
        return
    found = [c for c in columns(panel, panel.texts[0], "whole") if c.length >= panel.seq_len]
    shown = list(dict.fromkeys(column.length for column in (found[:1] + found[-1:])))
    heads = [*next(iter(rows.values())), *(f"perplexity at {length}" for length in shown)]
    yield from ["### What the rows are", "", "| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for name, values in rows.items():
        of_row = [next(c for c in found if c.length == length).shown.get(name) for length in shown]
        cells = [str(value) for value in values.values()]
        cells += [f"{statistics.fmean(values.values()):.2f}" if values else "–" for values in of_row]
        yield f"| {name} | " + " | ".join(cells) + " |"
