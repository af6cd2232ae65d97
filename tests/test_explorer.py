"""The explorer holds what was measured, computes as the reports do, and works in a browser."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser import in_browser, needs_chromium, needs_node, node
from probe_results import made_probes

from docs import choice, explorer
from docs.assets import write_assets
from docs.results import benchmarks, studies
from wavepos.experiments.intervals import FEWEST
from wavepos.experiments.retrieval_report import task_panels
from wavepos.experiments.tables import columns, panels


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A result of probes among the results."""
    return _probed(monkeypatch)


@pytest.fixture(scope="module")
def page() -> str:
    """The explorer with that result."""
    with pytest.MonkeyPatch.context() as patch:
        _probed(patch)
        return explorer.page()


def _probed(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    result = made_probes(seeds=(0, 1, 2))
    for module in (explorer, choice):
        patch.setattr(module, "probes", lambda: {"retrieval-cpu": result})
    return result


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the build writes beside the pages."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "_static").mkdir()
    write_assets(SimpleNamespace(outdir=folder), None)
    return folder


@needs_node
def test_differences_are_those_of_the_reports() -> None:
    result = studies()["demo"]
    panel = panels(result)[0]
    one = explorer.study("demo", result, panel)
    read = next(each for each in one["readings"] if each["kind"] == "whole")
    given = {"quantiles": explorer._quantiles(), "fewest": FEWEST}
    found = node(
        "const {explorer: E} = require('./docs/_static/explorer.js');"
        f"const points = {json.dumps(read['points'])}, given = {json.dumps(given)};"
        "const turned = points.map(([m, s, n, value]) => [m, s, n, -value, value]);"
        "console.log(JSON.stringify({means: E.means(points), differences: E.differences(points, 'ALiBi', given),"
        "turned: E.differences(turned, 'ALiBi', {...given, better: 1})}))"
    )
    expected = {column.length: column for column in columns(panel, panel.texts[0], "whole")}
    assert len(found["differences"]) == (len(panel.names) - 1) * len(expected)
    for each, turned in zip(found["differences"], found["turned"], strict=True):
        difference = expected[each["length"]].difference(each["method"], "ALiBi")
        assert difference is not None
        assert each["mean"] == pytest.approx(difference.mean, abs=2e-6)
        assert each["half"] == pytest.approx(difference.half_width, abs=2e-5)
        assert (each["said"] != "cannot be told") == difference.leaves_out_zero
        assert each["said"] == turned["said"]
    for each in found["means"]:
        values = expected[each["length"]].shown[each["method"]].values()
        assert each["value"] == pytest.approx(sum(values) / len(values), abs=1e-3)
        assert each["seeds"] == len(values)


def test_every_measured_perplexity_is_held_with_its_command_and_commit() -> None:
    held = list(explorer.perplexity_studies())
    measured = sum(
        len(e["perplexities"]) for result in studies().values() for o in result["outcomes"] for e in o["evaluations"]
    )
    assert sum(len(read["points"]) for one in held for read in one["readings"]) == measured
    assert len({one["name"] for one in held}) == len({one["title"] for one in held}) == len(held)
    for one in held:
        made = {(method, seed) for method, seed, command, commit in one["runs"] if command and commit}
        for read in one["readings"]:
            assert {(point[0], point[1]) for point in read["points"]} <= made
            assert set(read["sentences"]) == {point[2] for point in read["points"]}


def test_a_result_of_probes_is_held_task_by_task(probed: dict[str, Any]) -> None:
    one, other = explorer.recall_studies({"retrieval-cpu": probed})
    assert (one["name"], one["measure"], other["name"]) == ("retrieval-cpu-mqar", "accuracy", "retrieval-cpu-flipflop")
    assert [read["kind"] for read in one["readings"]] == ["whole", "depth 0", "depth 0.5"]
    whole = {tuple(point[:3]): point[4] for point in one["readings"][0]["points"]}
    assert whole["ALiBi", 1, 512] == pytest.approx(0.81)
    assert len(whole) == 2 * 3 * 3
    told = "ALiBi finds most at a distance of 512 tokens (4 × L_train), accuracy 0.81 (chance 0.06)"
    assert one["readings"][0]["sentences"][512].startswith(told + ", told apart")
    few = next(explorer.recall_studies({"few": made_probes(seeds=(0,))}))
    assert few["readings"][0]["sentences"][512].endswith("from 1 seed: too few to rank anything.")


def test_recall_stands_in_the_table_of_methods_once_it_is_measured(probed: dict[str, Any]) -> None:
    by_task = [panel.mean("ALiBi", in_range=False) for panel in task_panels(probed)]
    assert by_task[0] == pytest.approx({0: 0.91, 1: 0.81, 2: 0.71})
    rows = {line.split(" | ")[0].strip("| "): line for line in choice.quality().splitlines()}
    assert rows["ALiBi"].endswith("| 0.81±0.10 |")
    assert "not measured" in rows["Kerple"]
    assert "Associative recall (MQAR); Flip-flop" in choice.recall_note()


def test_every_time_and_every_gap_of_the_benchmarks_is_held() -> None:
    for name, result in benchmarks().items():
        one = explorer.costs(name, result)
        assert len(one["points"]) + len(one["left_out"]) == len(result["cells"])
        assert one["command"] and one["commit"]
        for _, _, _, measures in one["points"]:
            assert all(low <= median <= high for median, low, high in measures.values())


@needs_node
def test_the_least_time_is_named_with_what_cannot_be_told_from_it() -> None:
    rows = [
        {"method": method, "length": 8192, "value": value, "low": value - 0.05, "high": value + 0.05}
        for method, value in (("slow", 2.0), ("quick", 1.0), ("alike", 1.06))
    ]
    script = "const {explorer: E} = require('./docs/_static/explorer.js'); console.log(JSON.stringify(["
    script += f"E.least({json.dumps(rows)}, 8192, 'time'), E.least({json.dumps(rows)}, 8192, 'tokens per second'),"
    script += "E.csv([{a: 'x, \"y\"', b: 1}]), E.least([], 1, 'time')]))"
    least, most, text, nothing = node(script)
    assert least.startswith("quick has the lowest time at 8,192 tokens, 1; not told apart from it")
    assert least.endswith("alike. Then: slow 2.")
    assert most.startswith("slow has the highest tokens per second")
    assert list(csv.reader(io.StringIO(text))) == [["a", "b"], ['x, "y"', "1"]]
    assert nothing.startswith("Nothing of this was measured")


OPEN = """
const wait = async (test) => { for (let i = 0; i < 400 && !test(); i++) await new Promise((r) => setTimeout(r, 50)); };
const box = document.getElementById(ID), form = box.querySelector('form');
const choose = async (name, value) => {
  form.elements[name].value = value;
  form.elements[name].dispatchEvent(new Event('change', { bubbles: true }));
  await new Promise((r) => setTimeout(r, 500));
};
const text = (id) => document.getElementById(id).textContent, saved = [];
window.Blob = class { constructor(parts) { saved.push(parts.join('')); } };
URL.createObjectURL = () => 'blob:x';
HTMLAnchorElement.prototype.click = () => {};
await wait(() => box.dataset.drawn && box.querySelector('.chart svg'));
"""


def nameless(of: str) -> str:
    """A script's expression: controls without a name for a screen reader, or out of a keyboard's reach."""
    named = "c.labels?.length || c.textContent.trim() || c.getAttribute('aria-label')"
    controls = f"{of}.querySelectorAll('select, input, button, summary, [tabindex]')"
    return f"[...{controls}].filter((c) => !({named}) || c.tabIndex < 0).length"


@needs_chromium
def test_the_explorer_works_in_a_browser(page: str, assets: Path) -> None:
    script = f"""const ID = 'explorer'; {OPEN}
    const out = {{ first: text('explorer-sentence'), nameless: {nameless("document")} }};
    await choose('study', 'demo'); await choose('kind', 'whole'); await choose('tokens', '1024');
    out.sentence = text('explorer-sentence');
    out.rows = box.querySelectorAll('#explorer-table tbody tr').length;
    await choose('baseline', 'ALiBi');
    const tick = [...box.querySelectorAll('#explorer-methods label')].find((l) => l.textContent.includes('NoPE'));
    tick.querySelector('input').click();
    await new Promise((r) => setTimeout(r, 500));
    out.less = box.querySelectorAll('#explorer-table tbody tr').length;
    box.querySelector('details').open = true;
    await new Promise((r) => setTimeout(r, 100));
    out.every = box.querySelectorAll('#explorer-every tbody tr').length;
    out.dots = box.querySelectorAll('#explorer-values svg .mark-symbol path').length;
    for (const kind of ['csv', 'json']) box.querySelector(`[data-save=${{kind}}]`).click();
    out.csv = saved[0]; out.json = JSON.parse(saved[1]);
    await choose('study', 'retrieval-cpu-mqar');
    out.recall = [text('explorer-title'), text('explorer-sentence'), box.querySelectorAll('svg').length];
    document.body.dataset.theme = 'dark';
    await new Promise((r) => setTimeout(r, 500));
    out.dark = document.querySelector('#explorer-values svg').outerHTML.includes('#444');
    return out;"""
    found = in_browser(assets, page, script)
    result = studies()["demo"]
    panel = panels(result)[0]
    column = next(c for c in columns(panel, panel.texts[0], "whole") if c.length == 1024)
    assert found["first"] and found["nameless"] == 0
    assert found["sentence"] == choice.best_sentence(panel, column)
    assert (found["rows"], found["less"]) == (len(panel.names), len(panel.names) - 1)
    rows = list(csv.DictReader(io.StringIO(found["csv"])))
    shown = [o for o in panel.outcomes if o["name"] != "NoPE"]
    lengths = columns(panel, panel.texts[0], "whole")
    assert len(rows) == len(found["json"]) == found["every"] == len(shown) * len(lengths)
    assert found["dots"] >= len(rows)
    assert {row["command"] for row in rows} == {o["environment"]["command"] for o in shown}
    row = next(r for r in rows if (r["method"], r["length"]) == ("Wavelet", "1024"))
    difference = column.difference("Wavelet", "ALiBi")
    assert difference is not None and row["baseline"] == "ALiBi"
    assert float(row["difference"]) == pytest.approx(difference.mean, abs=2e-6)
    assert found["recall"][0] == "Accuracy" and found["recall"][1].startswith("ALiBi finds most at a distance of 512")
    assert found["recall"][2] == 2 and found["dark"]


@needs_chromium
def test_times_and_memory_are_explored_in_a_browser(page: str, assets: Path) -> None:
    script = f"""const ID = 'costs'; {OPEN}
    const out = {{ first: text('costs-sentence'), left: text('costs-left-out') }};
    await choose('benchmark', 'decode_cpu'); await choose('call', 'bf16, a token'); await choose('tokens', '8192');
    out.sentence = text('costs-sentence'); out.about = text('costs-about');
    box.querySelector('[data-save=json]').click();
    out.rows = JSON.parse(saved[0]);
    await choose('benchmark', 'attention_cpu'); await choose('measure', 'peak memory, MiB');
    await choose('tokens', '16384');
    out.memory = text('costs-sentence');
    return out;"""
    found = in_browser(assets, page, script)
    assert "time over that of RoPE + SDPA at 8,192 tokens" in found["first"] and "GiB" in found["left"]
    assert "window" not in found["first"] and "document" not in found["first"]
    assert re.match(r".+ has the lowest time over that of RoPE \+ SDPA at 8,192 tokens, [\d.]+", found["sentence"])
    result = benchmarks()["decode_cpu"]
    assert result["environment"]["command"] in found["about"]
    assert {(row["method"], row["length"]): row["value"] for row in found["rows"]} == {
        (cell["title"].removeprefix("wavepos: "), cell["seq_len"]): cell["ratio"]["median"]
        for cell in measured(result)
        if cell["dtype"] == "bf16"
    }
    assert all(row["commit"] == result["environment"]["commit"][:7] for row in found["rows"])
    assert "lowest peak memory, MiB at 16,384 tokens" in found["memory"]


def measured(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (cell for cell in result["cells"] if "ratio" in cell)


def test_the_page_asks_no_network_for_anything(page: str) -> None:
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert "http" not in re.sub(r'"command":"[^"]*"', "", page.partition("explorer-data")[2].partition("</script>")[0])
