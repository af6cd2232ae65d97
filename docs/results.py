"""The files of results/, read once."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from wavepos.experiments.report import read_result
from wavepos.experiments.retrieval_report import is_retrieval

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


@cache
def load(name: str) -> dict[str, Any]:
    """results/NAME.json."""
    return read_result(RESULTS / f"{name}.json")


@cache
def studies() -> dict[str, dict[str, Any]]:
    """By file name: every result that holds perplexities of trained runs, those of the most runs with seeds first."""
    found = {}
    for path in sorted(RESULTS.glob("*.json")):
        result = load(path.stem)
        if any(e.get("perplexities") for o in result.get("outcomes", ()) for e in o["evaluations"]):
            found[path.stem] = result
    first = ("table1-cpu", "demo")
    return {name: found[name] for name in sorted(found, key=lambda n: (n not in first, n != first[0], n))}


@cache
def probes() -> dict[str, dict[str, Any]]:
    """By file name: every result of probes, accuracy by distance."""
    found = {path.stem: load(path.stem) for path in sorted(RESULTS.glob("retrieval*.json"))}
    return {name: result for name, result in found.items() if is_retrieval(result)}


@cache
def benchmarks() -> dict[str, dict[str, Any]]:
    """By file name: every result that holds times beside RoPE's, of attention itself first."""
    found = {path.stem: load(path.stem) for path in sorted(RESULTS.glob("*.json"))}
    return {name: one for name, one in found.items() if any("ratio" in cell for cell in one.get("cells", ()))}


def peer_title(cell: Mapping[str, Any]) -> str:
    """Of a benchmark's cell: its method, without our own name before it."""
    title: str = cell["title"].removeprefix("wavepos: ")
    return title
