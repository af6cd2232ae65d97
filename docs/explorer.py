"""What the results explorer holds: every measured perplexity, accuracy, time and memory, as JSON in its page."""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from docs.charts import specs
from docs.choice import best_recall, best_sentence
from docs.results import ROOT, benchmarks, peer_title, probes, studies
from wavepos.experiments.beside import NAMES, PROTOCOLS, lengths_beside, paper_rows
from wavepos.experiments.intervals import FEWEST, LEVEL, t_quantile
from wavepos.experiments.retrieval_report import TaskPanel, task_panels
from wavepos.experiments.style import style_of
from wavepos.experiments.tables import BLOCKS, Panel, columns, kinds_of, panels, short_text, unit_of

MOST_SEEDS = 12
MEBIBYTE = 2**20
BASELINES = {
    "attention": "RoPE + SDPA",
    "decode": "RoPE + SDPA",
    "generate": "transformers' own Llama",
    "train-step": "the same model with RoPE",
}
"""What benchmarks measure beside."""
MASKS = {"window": "a window", "packed": "documents", "padded": "padding", "both-ways": "both directions"}
"""How names of peers end that compute something else than causal attention over all keys: they are ranked apart."""


def page() -> str:
    """The HTML of the explorer: its controls, its data, its charts."""
    data: dict[str, Any] = {"studies": [*perplexity_studies(), *recall_studies(probes())]}
    data["benchmarks"] = [costs(name, result) for name, result in benchmarks().items()]
    data |= {"fewest": FEWEST, "quantiles": _quantiles(), "specs": specs()}
    form = (ROOT / "docs" / "_static" / "explorer.html").read_text(encoding="utf-8")
    packed = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return form.replace("__DATA__", packed)


def perplexity_studies() -> Iterator[dict[str, Any]]:
    """One for each group of runs that may be compared."""
    for name, result in studies().items():
        found = panels(result)
        for number, panel in enumerate(found):
            several = {"name": f"{name}-{number + 1}", "title": f"{result['title']} {panel.title}"}
            yield study(name, result, panel) | (several if len(found) > 1 else {})


def study(name: str, result: dict[str, Any], panel: Panel) -> dict[str, Any]:
    """What the page knows of runs: methods, readings of every text and protocol, a sentence per length."""
    return {
        "name": name,
        "title": result["title"],
        "about": f"{panel.title}.",
        "measure": "perplexity",
        "readings": [reading(result, panel, text, kind) for text in panel.texts for kind in kinds_of(panel, text)],
        **_methods_and_runs(result, panel),
    }


def reading(result: dict[str, Any], panel: Panel, text: str, kind: str) -> dict[str, Any]:
    """A text read by a protocol: points [method, seed, length, nats per token, perplexity shown]."""
    found = columns(panel, text, kind)
    return {
        "text": short_text(text),
        "kind": kind,
        "protocol": BLOCKS[kind],
        "about": f"Perplexity {unit_of(text)}.",
        "points": [
            [method, seed, column.length, round(nats, 6), round(column.shown[method][seed], 4)]
            for column in found
            for method, by_seed in column.nats.items()
            for seed, nats in by_seed.items()
        ],
        "sentences": {column.length: best_sentence(panel, column) for column in found},
        "paper": list(ghosts(result, panel, kind, text)),
    }


def ghosts(result: dict[str, Any], panel: Panel, kind: str, text: str) -> Iterator[list[Any]]:
    """The paper's numbers, [method, our length, perplexity], times the factor that lays its RoPE upon ours at L_train.

    Of the first text, where the study redoes a table of the paper.
    """
    table = result.get("published")
    if table is None or text != panel.texts[0]:
        return
    protocol = next((each for each in PROTOCOLS if each == kind), None)
    rows = {} if protocol is None else paper_rows(table, protocol, panel)
    found = {column.length: column for column in columns(panel, text, kind)}
    pairs = lengths_beside(table, panel, sorted(found))
    base = result["baseline"]
    theirs = next((values for name, values in rows.items() if NAMES.get(name, name) == base), None)
    anchor = next((length for length, ours in pairs.items() if ours == panel.seq_len), None)
    if theirs is None or anchor is None or base not in found[panel.seq_len].shown:
        return
    factor = statistics.fmean(found[panel.seq_len].shown[base].values()) / theirs[anchor]
    for name, values in rows.items():
        method = NAMES.get(name, name)
        if method in panel.names:
            for length, ours in pairs.items():
                yield [method, ours, round(values[length] * factor, 3), values[length]]


def recall_studies(results: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One for each probe: accuracy by distance, the mean over the depths of the answer and each depth by itself."""
    for name, result in results.items():
        for panel in task_panels(result):
            found = [one for o in panel.outcomes for e in o["evaluations"] for one in e["recalled"]]
            depths = sorted({one["depth"] for one in found})
            yield {
                "name": f"{name}-{panel.probe.name}",
                "title": f"{panel.probe.title}: {result['title']}",
                "about": f"{panel.probe.asks.capitalize()} L_train = {panel.seq_len}.",
                "measure": "accuracy",
                "readings": [recall_reading(panel, depth) for depth in (None, *depths)],
                **_methods_and_runs(result, panel),
            }


def recall_reading(panel: TaskPanel, depth: float | None) -> dict[str, Any]:
    """Points [method, seed, distance, accuracy, accuracy]."""
    by_units = {units: {name: panel.accuracies(name, units, depth) for name in panel.names} for units in panel.units}
    return {
        "text": panel.probe.name,
        "kind": "whole" if depth is None else f"depth {depth:g}",
        "protocol": "Mean over depths" if depth is None else f"Answer at depth {depth:g} of the context",
        "about": f"Dotted: chance, {panel.probe.chance:.3g}.",
        "chance": panel.probe.chance,
        "points": [
            [name, seed, round(units * panel.seq_len), round(accuracy, 6), round(accuracy, 6)]
            for units, by_name in by_units.items()
            for name, by_seed in by_name.items()
            for seed, accuracy in by_seed.items()
        ],
        "sentences": {round(units * panel.seq_len): best_recall(panel, units, depth) for units in panel.units},
        "paper": [],
    }


def costs(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Of a benchmark: points [method, call, length, {measure: [median, lower, upper]}], and what was left out."""
    made, cells = result["environment"], result["cells"]
    titles = list(dict.fromkeys(map(peer_title, cells)))
    return {
        "name": name,
        "title": f"{result['benchmark'].replace('-', ' ').capitalize()}, {made['gpu'] or made['cpu']}",
        "about": f"{made['threads']} thread(s) of {made['cpu']}" + (f", {made['gpu']}." if made["gpu"] else "."),
        "command": made["command"],
        "commit": made["commit"][:7],
        "baseline": BASELINES[result["benchmark"]],
        "methods": _styles(titles),
        "points": [[peer_title(c), _call(c), c["seq_len"], _measures(c)] for c in cells if "ratio" in c],
        "left_out": [[peer_title(c), _call(c), c["seq_len"], c["skipped"]] for c in cells if "skipped" in c],
    }


def _measures(cell: Mapping[str, Any]) -> dict[str, list[float]]:
    quartiles = ("median", "lower", "upper")
    found = {
        "time over the baseline's": [cell["ratio"][q] for q in quartiles],
        "milliseconds": [cell["milliseconds"][q] for q in quartiles],
    }
    if "peak_bytes" in cell:
        found["peak memory over the baseline's"] = [round(cell["peak_bytes"] / cell["baseline_peak_bytes"], 4)] * 3
        found["peak memory, MiB"] = [round(cell["peak_bytes"] / MEBIBYTE, 2)] * 3
    if "tokens_per_second" in cell:
        found["tokens per second"] = [cell["tokens_per_second"]] * 3
    return found


def _call(cell: Mapping[str, Any]) -> str:
    mask = [f", {told}" for ending, told in MASKS.items() if cell["peer"].endswith(f"-{ending}")]
    return "".join([f"{cell['dtype']}, {cell['pass']}", *mask])


def _styles(names: Iterable[str]) -> list[dict[str, str]]:
    return [{"name": name, "colour": style_of(name).colour, "dash": style_of(name).dash} for name in names]


def _methods_and_runs(result: Mapping[str, Any], panel: Panel | TaskPanel) -> dict[str, Any]:
    runs = [(o["name"], o["seed"], o["environment"]) for o in panel.outcomes]
    return {
        "train": panel.seq_len,
        "baseline": result["baseline"] if result["baseline"] in panel.names else panel.names[0],
        "methods": _styles(panel.names),
        "runs": [[name, seed, made["command"], made["commit"][:7]] for name, seed, made in runs],
    }


def _quantiles() -> list[float]:
    """Of the 95% interval, by number of values: none, none, that of two, …"""
    return [0.0, 0.0, *(t_quantile(0.5 + LEVEL / 2, count - 1) for count in range(2, MOST_SEEDS + 1))]
