"""The results explorer: every measured perplexity in one page, drawn by Altair's charts without a network."""

import json
import statistics
from collections.abc import Iterator
from typing import Any

import altair as alt

from docs.results import ROOT, studies
from docs.tables import best_sentence
from wavepos.experiments.beside import NAMES, PROTOCOLS, lengths_beside, paper_rows
from wavepos.experiments.intervals import FEWEST, LEVEL, t_quantile
from wavepos.experiments.style import style_of
from wavepos.experiments.tables import BLOCKS, Panel, columns, kinds_of, panels, short_text, unit_of

MOST_SEEDS = 12
DASHES = {"solid": [1, 0], "dashed": [6, 3], "dashdot": [6, 2, 1, 2], "dotted": [2, 2]}
HEIGHT = 300
GHOST = "#8a8a8a"
COLOUR = alt.Color("colour:N", scale=None)


def page() -> str:
    """The HTML of the explorer: its controls, its data, its charts."""
    data: dict[str, Any] = {"studies": [study(name, result) for name, result in studies().items()]}
    data |= {"fewest": FEWEST, "quantiles": _quantiles(), "specs": specs()}
    form = (ROOT / "docs" / "_static" / "explorer.html").read_text(encoding="utf-8")
    packed = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return form.replace("__DATA__", packed)


def study(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """What the page knows of a result: methods, readings of every text and protocol, a sentence per length."""
    panel = panels(result)[0]
    return {
        "name": name,
        "title": result["title"],
        "panel": panel.title,
        "train": panel.seq_len,
        "baseline": result["baseline"],
        "methods": [
            {"name": method, "colour": style_of(method).colour, "dash": style_of(method).dash} for method in panel.names
        ],
        "runs": [
            [o["name"], o["seed"], o["environment"]["command"], o["environment"]["commit"][:7]] for o in panel.outcomes
        ],
        "readings": [reading(result, panel, text, kind) for text in panel.texts for kind in kinds_of(panel, text)],
    }


def reading(result: dict[str, Any], panel: Panel, text: str, kind: str) -> dict[str, Any]:
    """A text read by a protocol: points [method, seed, length, nats per token, perplexity shown]."""
    found = columns(panel, text, kind)
    return {
        "text": short_text(text),
        "kind": kind,
        "protocol": BLOCKS[kind],
        "unit": unit_of(text),
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


def specs() -> dict[str, Any]:
    """The Vega-Lite charts, which read the data sets that explorer.js puts into them."""
    charts = {"perplexity": _perplexity(), "differences": _differences()}
    return {name: _themed(chart.properties(width="container", height=HEIGHT)) for name, chart in charts.items()}


def _perplexity() -> alt.LayerChart:
    """Means as lines with a band over the seeds, seeds as dots, the paper's numbers as ghosts."""
    scale = alt.Scale(type="log", zero=False, nice=False)
    value = alt.Y("value:Q", scale=scale, title="perplexity")
    by_method = alt.Detail("method:N")
    means, points, paper = (alt.Chart(alt.NamedData(name)) for name in ("means", "points", "paper"))
    told = ["method:N", "seed:N", "length:Q", alt.Tooltip("value:Q", format=".4g"), "commit:N", "command:N"]
    return alt.layer(
        means.mark_area(opacity=0.15).encode(_length(), alt.Y("low:Q", scale=scale), alt.Y2("high:Q"), COLOUR),
        paper.mark_line(strokeDash=[2, 3], color=GHOST, clip=True).encode(_length(), value, by_method),
        paper.mark_point(size=30, color=GHOST, clip=True).encode(
            _length(), value, tooltip=["method:N", "length:Q", alt.Tooltip("printed:Q", title="the paper's")]
        ),
        means.mark_line(strokeWidth=2).encode(_length(), value, COLOUR, _dash(), by_method),
        points.mark_point(filled=True, size=45, opacity=0.8).encode(_length(), value, COLOUR, tooltip=told),
    )


def _differences() -> alt.LayerChart:
    """Paired differences with their intervals, and a line at zero."""
    mean = alt.Y("mean:Q", title="nats per token, less the baseline")
    rows = alt.Chart(alt.NamedData("differences"))
    told = ["method:N", "length:Q", alt.Tooltip("mean:Q", format="+.4f")]
    told += [alt.Tooltip("half:Q", format=".4f", title="± 95%"), "seeds:Q", "said:N"]
    return alt.layer(
        alt.Chart(alt.NamedData("zero")).mark_rule(color=GHOST).encode(y="value:Q"),
        rows.mark_line(strokeWidth=1.5).encode(_length(), mean, COLOUR, _dash(), alt.Detail("method:N")),
        rows.mark_rule(strokeWidth=2).encode(_length(), alt.Y("low:Q"), alt.Y2("high:Q"), COLOUR),
        rows.mark_point(filled=True, size=45).encode(_length(), mean, COLOUR, tooltip=told),
    )


def _length() -> alt.X:
    scale, axis = alt.Scale(type="log", base=2, nice=False), alt.Axis(format="d")
    return alt.X("length:Q", scale=scale, axis=axis, title="tokens read at once")


def _dash() -> alt.StrokeDash:
    scale = alt.Scale(domain=list(DASHES), range=list(DASHES.values()))
    return alt.StrokeDash("dash:N", scale=scale, legend=None)


def _themed(chart: alt.LayerChart) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict(validate=True)
    spec["autosize"] = {"type": "fit", "contains": "padding"}
    spec["background"] = "transparent"
    spec.pop("$schema", None)
    return spec


def _quantiles() -> list[float]:
    """Of the 95% interval, by number of values: none, none, that of two, …"""
    return [0.0, 0.0, *(t_quantile(0.5 + LEVEL / 2, count - 1) for count in range(2, MOST_SEEDS + 1))]
