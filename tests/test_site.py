"""The pages of the site: their code runs, commands are understood, links lead somewhere, scripts compute."""

import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from docs import explorer
from docs.results import studies
from wavepos import Wavelet, wavelets
from wavepos.analysis.tables import table_statistics
from wavepos.cli import parsed
from wavepos.experiments.intervals import FEWEST
from wavepos.experiments.tables import columns, panels
from wavepos.positions import registry
from wavepos.positions.alibi import alibi_slopes

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "reference").glob("*.md"), ROOT / "README.md"])
NOT_RUN = re.compile(r"<!-- not run: .+ -->\n\Z")
needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="node is not installed, which runs the site's scripts"
)


def blocks(path: Path, language: str) -> Iterator[str]:
    """The code of a page, but for what is marked as not run."""
    text = path.read_text(encoding="utf-8")
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if not NOT_RUN.search(text[: found.start()]):
            yield found[1]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=named)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one namespace, in a folder with a Llama of random weights."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(wavelets, "_registered", dict(wavelets._registered))
    monkeypatch.chdir(tmp_path)
    found = list(blocks(page, "python"))
    if any("path/to/a/llama" in block for block in found):
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        LlamaForCausalLM(LlamaConfig(vocab_size=64, head_dim=16, **sizes)).save_pretrained("path/to/a/llama")
    names: dict[str, object] = {"__name__": page.stem}
    for block in found:
        exec(compile(block, named(page), "exec"), names)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command of a page, without comments."""
    import shlex

    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=named)
def test_the_commands_of_a_page_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in commands(page):
        match words:
            case ["wavepos", *rest]:
                parsed(rest)
            case ["torchrun", *rest]:
                parsed(rest[rest.index("wavepos") + 1 :])
            case ["make", target]:
                assert target in targets
            case ["pip", "install", "-e", what]:
                assert set(re.findall(r"\w+", what)) <= extras
            case ["git", "clone", *_]:
                pass
            case _:
                raise AssertionError(f"neither run nor marked why not: {' '.join(words)}")


def test_every_block_of_the_site_is_run_shown_or_marked() -> None:
    told = {"python", "bash", "json", "text", "{computed}", "{drawn}", "{toctree}", "{include}", "{literalinclude}"}
    told |= {"{eval-rst}", "{raw}"}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        opened = re.findall(r"^```(\S*)", text, re.MULTILINE)[::2]
        assert set(opened) <= told, named(page)


def test_links_of_pages_lead_to_files_and_headings() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), f"{named(page)}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
                assert anchor in slugs, f"{named(page)}: {target}"


def test_every_page_stands_in_the_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {
        line for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL) for line in block.splitlines()
    }
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in PAGES if page.name != "README.md"}
    assert pages - listed == {"index"}


def test_what_a_page_asks_to_be_computed_is_there() -> None:
    from docs.computed import called

    wanted = {
        tuple(words.split())
        for page in PAGES
        for words in re.findall(r"^```\{(?:computed|drawn)\} (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(wanted) >= 30
    quick = [words for words in wanted if words[0].startswith("tables:")]
    assert len(quick) >= 10
    for words in quick:
        assert "|" in called(*words) or called(*words).endswith("."), words


def node(script: str) -> Any:
    """What a script for node prints as JSON."""
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True, cwd=ROOT, timeout=600)
    return json.loads(done.stdout)


@needs_node
def test_the_playground_computes_what_wavelets_are() -> None:
    draw = random.Random(0)
    configs: list[dict[str, Any]] = [
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
    found = node(
        "const {playground: P} = require('./docs/_static/playground.js');"
        f"console.log(JSON.stringify({json.dumps(configs)}.map((c) => {{ const g = P.grid(c); return {{"
        "table: g.table(100).map((row) => [...row]), reach: g.reach(), ...P.statistics(c),"
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
        assert position.query_bias_HD is not None
        start = position.query_bias_HD[2].detach()
        torch.testing.assert_close(torch.tensor(of_script["start"], dtype=torch.float32), start, atol=1e-5, rtol=1e-4)
        assert of_script["slopes"] == pytest.approx(alibi_slopes(6))
        plain = Wavelet(dims, **config)
        assert registry.parse_position(json.loads(of_script["json"])) == plain.config
        assert eval(of_script["python"], {"Wavelet": Wavelet}).config == plain.config


@needs_node
def test_the_explorer_computes_the_differences_of_the_reports() -> None:
    result = studies()["demo"]
    panel = panels(result)[0]
    one = explorer.study("demo", result)
    read = next(each for each in one["readings"] if each["kind"] == "whole")
    found = node(
        "const {explorer: E} = require('./docs/_static/explorer.js');"
        f"const points = {json.dumps(read['points'])}, quantiles = {json.dumps(explorer._quantiles())};"
        f"console.log(JSON.stringify({{means: E.means(points), differences: E.differences(points, 'ALiBi', quantiles, "
        f"{FEWEST})}}))"
    )
    expected = {column.length: column for column in columns(panel, panel.texts[0], "whole")}
    assert len(found["differences"]) == (len(panel.names) - 1) * len(expected)
    for each in found["differences"]:
        difference = expected[each["length"]].difference(each["method"], "ALiBi")
        assert difference is not None
        assert each["mean"] == pytest.approx(difference.mean, abs=2e-6)
        assert each["half"] == pytest.approx(difference.half_width, abs=2e-5)
        assert (each["said"] != "cannot be told") == difference.leaves_out_zero
    for each in found["means"]:
        values = expected[each["length"]].shown[each["method"]].values()
        assert each["value"] == pytest.approx(sum(values) / len(values), abs=1e-3)
        assert each["seeds"] == len(values)


def test_the_explorer_holds_every_measured_point() -> None:
    for name, result in studies().items():
        one = explorer.study(name, result)
        outcomes = panels(result)[0].outcomes
        measured = sum(len(e["perplexities"]) for outcome in outcomes for e in outcome["evaluations"])
        assert sum(len(read["points"]) for read in one["readings"]) == measured
        for read in one["readings"]:
            assert set(read["sentences"]) == {point[2] for point in read["points"]}
    page = explorer.page()
    assert "http" not in re.sub(r'"command":"[^"]*"', "", page.partition("explorer-data")[2].partition("</script>")[0])
