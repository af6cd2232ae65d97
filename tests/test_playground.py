"""The playground computes what the library computes, in node and in a browser."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import ROOT, in_browser, needs_chromium, needs_node, node

from wavepos import Cable, ForgetGate, Wavelet, wavelets
from wavepos.analysis.tables import table_statistics
from wavepos.positions import registry
from wavepos.positions.alibi import alibi_slopes
from wavepos.positions.tables import low_rank


def random_configs(seed: int) -> list[dict[str, Any]]:
    """Each wavelet with a formula in both directions."""
    draw = random.Random(seed)
    return [
        {
            "wavelet": wavelet,
            "scales": [round(draw.uniform(0.3, 80.0), 3) for _ in range(draw.randint(1, 4))],
            "shifts": list(range(draw.randint(1, 5))),
            "direction": direction,
            "amplitude": draw.choice(["equal", "inverse_sqrt", "unit_peak"]),
        }
        for wavelet in wavelets.CLOSED_FORMS
        for direction in ("past", "future")
    ]


def factors_of(position: Wavelet) -> int:
    """Columns that attention multiplies by."""
    found = low_rank(position.table(min(position.reach(), 1024)), torch.float32)
    return position.head_dim if found is None else found.basis_KE.shape[0]


@needs_node
def test_the_script_computes_what_wavelets_are() -> None:
    configs = random_configs(0)
    found = node(
        "const {playground: P} = require('./docs/_static/playground.js');"
        f"console.log(JSON.stringify({json.dumps(configs)}.map((c) => {{ const g = P.grid(c); return {{"
        "table: g.table(100).map((row) => [...row]), reach: g.reach(), ...P.statistics(c), factors: P.factors(c),"
        "start: [...P.recencyStart(c, P.alibiSlopes(8)[2])], slopes: P.alibiSlopes(6), json: P.asJson(c),"
        "python: P.asPython(c) }; })))"
    )
    for config, of_script in zip(configs, found, strict=True):
        dims = len(config["scales"]) * len(config["shifts"])
        position = Wavelet(dims, **config, query_bias="recency", num_heads=8)
        torch.testing.assert_close(torch.tensor(of_script["table"], dtype=torch.float32), position.table(100))
        expected = table_statistics(position, 512)
        assert (of_script["reach"], of_script["dead"], of_script["rank"]) == (
            position.reach(),
            expected.dead,
            expected.rank,
        )
        assert of_script["factors"] == factors_of(position)
        assert position.query_bias_HD is not None
        start = position.query_bias_HD[2].detach()
        torch.testing.assert_close(torch.tensor(of_script["start"], dtype=torch.float32), start, atol=1e-5, rtol=1e-4)
        assert of_script["slopes"] == pytest.approx(alibi_slopes(6))
        plain = Wavelet(dims, **config)
        assert registry.parse_position(json.loads(of_script["json"])) == plain.config
        assert eval(of_script["python"], {"Wavelet": Wavelet}).config == plain.config


@needs_node
def test_the_factors_of_the_papers_table_and_their_arithmetic_are_the_librarys() -> None:
    position = Wavelet(128)
    config = {"wavelet": "ricker", "scales": position.scales, "shifts": position.shifts, "direction": "past"}
    found = node(
        f"const {{playground: P}} = require('./docs/_static/playground.js'), c = {json.dumps(config)};"
        "console.log(JSON.stringify({factors: P.factors(c), reach: P.grid(c).reach(),"
        "more: [100, 8192].map((n) => P.arithmetic(c, n, P.factors(c))), whole: P.arithmetic(c, 100, 128)}))"
    )
    assert found["factors"] == factors_of(position) < 128
    reach = position.reach()
    for length, more in zip((100, 8192), found["more"], strict=True):
        pairs = sum(min(m + 1, reach) for m in range(length)) * found["factors"]
        pairs += length * 128 * found["factors"]
        assert more == pytest.approx(1 + pairs / (2 * 128 * length * (length + 1) / 2))
    assert found["whole"] == 1.5


@needs_node
def test_gates_start_as_the_librarys_and_become_alibis_slopes() -> None:
    slopes = alibi_slopes(8)
    script = "const {playground: P} = require('./docs/_static/playground.js');"
    script += f"console.log(JSON.stringify([P.gateStart(), {json.dumps(slopes)}.map(P.gateLogit)]))"
    start, logits = node(script)
    none = torch.zeros(1, 8, 1)
    for gate in (ForgetGate(8), Cable(8)):
        assert gate.gates(none).flatten().tolist() == pytest.approx([start] * 8)
    given = torch.tensor(logits)[None, :, None]
    assert ForgetGate(8).gates(given).flatten().tolist() == pytest.approx([-slope for slope in slopes], rel=1e-4)
    assert Cable(8).gates(-given).flatten().tolist() == pytest.approx([-slope for slope in slopes], rel=1e-4)


SET = """
const form = document.getElementById('playground-form'), text = (id) => document.getElementById(id).textContent;
const out = [];
for (const config of CONFIGS) {
  for (const [name, value] of Object.entries(config)) form.elements[name].value = value;
  form.dispatchEvent(new Event('input', { bubbles: true }));
  await new Promise((r) => setTimeout(r, 400));
  const lines = (id) => [...document.querySelectorAll(`#${id} polyline`)].map((line) => line.getAttribute('points'));
  const told = ['width', 'reach', 'dead', 'rank', 'factors', 'cost', 'error'].map((n) => [n, text(`playground-${n}`)]);
  const copied = (of) => document.getElementById(`playground-${of}`).value;
  out.push({ numbers: Object.fromEntries(told), table: lines('playground-table'), bias: lines('playground-bias'),
    json: copied('json'), python: copied('python') });
}
const controls = [...document.querySelectorAll('input, select, button, textarea')];
return { out, nameless: controls.filter((c) => !(c.labels?.length || c.textContent.trim()) || c.tabIndex < 0).length };
"""


@needs_chromium
def test_the_page_shows_the_librarys_numbers_at_random_settings(tmp_path: Path) -> None:
    draw = random.Random(1)
    configs = draw.sample(random_configs(2), 6)
    settings = [
        {
            "wavelet": config["wavelet"],
            "scales": ", ".join(map(str, config["scales"])),
            "shifts": len(config["shifts"]),
            "direction": config["direction"],
            "amplitude": config["amplitude"],
            "query_bias": draw.choice(["", "recency"]),
            "gate": draw.choice(["", "forget", "cable"]),
            "gate_as": "slope",
            "head": draw.randint(1, 8),
            "shown": 6,
        }
        for config in configs
    ]
    settings.append({"scales": "0, -1"})
    body = (ROOT / "docs" / "_static" / "playground.html").read_text(encoding="utf-8")
    found = in_browser(tmp_path, body, f"const CONFIGS = {json.dumps(settings)}; {SET}")
    assert found["nameless"] == 0
    assert found["out"].pop()["numbers"]["error"].startswith("Scales take positive numbers")
    for config, given, shown in zip(configs, settings[:-1], found["out"], strict=True):
        more = {name: given[name] or None for name in ("query_bias", "gate")}
        position = Wavelet(len(config["scales"]) * len(config["shifts"]), **config, **more, num_heads=8)
        assert registry.parse_position(json.loads(shown["json"])) == position.config
        assert eval(shown["python"], {"Wavelet": Wavelet}).config == position.config
        expected, numbers = table_statistics(position, 512), shown["numbers"]
        assert numbers["width"] == str(position.head_dim)
        assert numbers["reach"] == f"{position.reach():,} tokens"
        assert numbers["dead"] == f"{expected.dead} of {position.head_dim}"
        assert numbers["rank"] == str(expected.rank)
        assert numbers["factors"].split()[-3] == str(factors_of(position)) or "all" in numbers["factors"]
        assert float(numbers["cost"].removeprefix("× ")) >= 1.0
        table = position.table(64)
        middle = [i * len(config["shifts"]) + len(config["shifts"]) // 2 for i in range(len(config["scales"]))]
        peak = max(1e-9, float(table[:, middle].abs().max()))
        for column, points in zip(middle, shown["table"], strict=True):
            assert heights(points, -peak, peak) == pytest.approx(table[:, column].tolist(), abs=peak / 1000)
        slope = alibi_slopes(8)[int(given["head"]) - 1]
        added = torch.zeros(64)
        if position.query_bias_HD is not None:
            added += (position.query_bias_HD[int(given["head"]) - 1] @ table.T).detach() / position.head_dim**0.5
        if given["gate"]:
            added -= slope * torch.arange(64)
        lines = [heights(points, -10, 8) for points in shown["bias"]]
        alibi = [min(8.0, max(-10.0, 6 - slope * delta)) for delta in range(64)]
        assert lines[0] == pytest.approx(alibi, abs=0.02)
        if len(lines) > 1:
            assert lines[-1] == pytest.approx(added.clamp(-10, 8).tolist(), abs=0.02)
        assert len(lines) == 1 + bool(given["query_bias"]) + bool(given["gate"]) + bool(
            given["query_bias"] and given["gate"]
        )


def heights(points: str, low: float, high: float) -> list[float]:
    """The values of a line drawn between 8 and 208 pixels from the top."""
    return [low + (high - low) * (208 - float(point.split(",")[1])) / 200 for point in points.split()]
