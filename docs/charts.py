"""The Vega-Lite charts of the explorer, made by Altair; the page's script puts its data sets into them."""

from typing import Any

import altair as alt

DASHES = {"solid": [1, 0], "dashed": [6, 3], "dashdot": [6, 2, 1, 2], "dotted": [2, 2]}
HEIGHT = 300
GHOST = "#8a8a8a"
COLOUR = alt.Color("colour:N", scale=None)
LOGARITHMIC = alt.Scale(type="log", zero=False, nice=False)
READ, BACK = "tokens read at once", "tokens from question to answer"
MADE = ["commit:N", "command:N"]


def specs() -> dict[str, Any]:
    """By name, which the page's script knows."""
    nats, accuracy = "nats per token, less the baseline", "accuracy, less the baseline"
    charts = {
        "perplexity": _values(_length(READ), LOGARITHMIC, "perplexity"),
        "perplexity differences": _differences(_length(READ), nats),
        "accuracy": _values(_length(BACK), alt.Scale(domain=[0, 1]), "accuracy"),
        "accuracy differences": _differences(_length(BACK), accuracy),
        "costs": _costs(),
    }
    return {name: _themed(chart.properties(width="container", height=HEIGHT)) for name, chart in charts.items()}


def _values(length: alt.X, scale: alt.Scale, title: str) -> alt.LayerChart:
    """Means as lines with a band over the seeds, seeds as dots, chance and the paper's numbers as ghosts."""
    value = alt.Y("value:Q", scale=scale, title=title)
    by_method = alt.Detail("method:N")
    means, points, paper = (alt.Chart(alt.NamedData(name)) for name in ("means", "points", "paper"))
    told = ["method:N", "seed:N", "length:Q", alt.Tooltip("value:Q", format=".4g", title=title), *MADE]
    return alt.layer(
        means.mark_area(opacity=0.15).encode(length, alt.Y("low:Q", scale=scale), alt.Y2("high:Q"), COLOUR),
        alt.Chart(alt.NamedData("chance")).mark_rule(strokeDash=[2, 3], color=GHOST).encode(value),
        paper.mark_line(strokeDash=[2, 3], color=GHOST, clip=True).encode(length, value, by_method),
        paper.mark_point(size=30, color=GHOST, clip=True).encode(
            length, value, tooltip=["method:N", "length:Q", alt.Tooltip("printed:Q", title="the paper's")]
        ),
        means.mark_line(strokeWidth=2).encode(length, value, COLOUR, _dash(), by_method),
        points.mark_point(filled=True, size=45, opacity=0.8).encode(length, value, COLOUR, tooltip=told),
    )


def _differences(length: alt.X, title: str) -> alt.LayerChart:
    """Paired differences with their intervals, and a line at zero."""
    mean = alt.Y("mean:Q", title=title)
    rows = alt.Chart(alt.NamedData("differences"))
    told = ["method:N", "length:Q", alt.Tooltip("mean:Q", format="+.4f")]
    told += [alt.Tooltip("half:Q", format=".4f", title="± 95%"), "seeds:Q", "said:N"]
    return alt.layer(
        alt.Chart(alt.NamedData("zero")).mark_rule(color=GHOST).encode(y="value:Q"),
        rows.mark_line(strokeWidth=1.5).encode(length, mean, COLOUR, _dash(), alt.Detail("method:N")),
        rows.mark_rule(strokeWidth=2).encode(length, alt.Y("low:Q"), alt.Y2("high:Q"), COLOUR),
        rows.mark_point(filled=True, size=45).encode(length, mean, COLOUR, tooltip=told),
    )


def _costs() -> alt.LayerChart:
    """Medians of time or memory as lines, with their quartiles."""
    length, value = _length("tokens"), alt.Y("value:Q", scale=LOGARITHMIC, title="")
    rows = alt.Chart(alt.NamedData("costs"))
    told = ["method:N", "length:Q", *(alt.Tooltip(f"{name}:Q", format=".4g") for name in ("value", "low", "high"))]
    return alt.layer(
        alt.Chart(alt.NamedData("one")).mark_rule(color=GHOST).encode(y="value:Q"),
        rows.mark_line(strokeWidth=2).encode(length, value, COLOUR, _dash(), alt.Detail("method:N")),
        rows.mark_rule(strokeWidth=2).encode(length, alt.Y("low:Q", scale=LOGARITHMIC), alt.Y2("high:Q"), COLOUR),
        rows.mark_point(filled=True, size=45).encode(length, value, COLOUR, tooltip=[*told, *MADE]),
    )


def _length(title: str) -> alt.X:
    scale, axis = alt.Scale(type="log", base=2, nice=False), alt.Axis(format="d", labelOverlap=True)
    return alt.X("length:Q", scale=scale, axis=axis, title=title)


def _dash() -> alt.StrokeDash:
    scale = alt.Scale(domain=list(DASHES), range=list(DASHES.values()))
    return alt.StrokeDash("dash:N", scale=scale, legend=None)


def _themed(chart: alt.LayerChart) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict(validate=True)
    spec["autosize"] = {"type": "fit", "contains": "padding"}
    spec["background"] = "transparent"
    spec.pop("$schema", None)
    return spec
