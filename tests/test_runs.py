"""Names of runs: readable, the same everywhere, and different for different positions."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wavepos import runs
from wavepos.runs import run_name, slug
from wavepos.training.config import TrainConfig
from wavepos.training.recipes import recipe

VARIANTS: list[dict[str, Any]] = [
    {"method": "nope"},
    {"method": "rotary"},
    {"method": "rotary", "theta": 256},
    {"method": "rotary", "theta": 1234567.0},
    {"method": "rotary", "theta": 1234568.0},
    {"method": "rotary", "theta": 256.5},
    {"method": "rotary", "scaling": {"rope_type": "linear", "factor": 2.0}},
    {"method": "rotary", "scaling": {"rope_type": "linear", "factor": 4.0}},
    {"method": "wavelet"},
    {"method": "wavelet", "query_bias": "recency"},
    {"method": "wavelet", "wavelet": "haar"},
    {"method": "wavelet", "wavelet": "haar", "direction": "future"},
    {"method": "wavelet", "wavelet": "haar", "direction": "future", "query_bias": "recency", "stretch": 2.0},
    {"method": "wavelet", "stretch": 2.0},
    {"method": "wavelet", "scales": [1, 2]},
    {"method": "wavelet", "scales": [1, 4]},
    {"method": "t5", "num_buckets": 16},
    {"method": "alibi"},
]


def config(position: str | dict[str, Any], **fields: Any) -> TrainConfig:
    return recipe("tiny", **{"corpus": "stdlib", "position": position, **fields})


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (config("wavelet"), "tiny-wavelet-stdlib-0"),
        (config("wavelet", model="llama"), "llama-tiny-wavelet-stdlib-0"),
        (config({"method": "wavelet", "query_bias": "recency"}), "tiny-wavelet-recency-stdlib-0"),
        (config({"method": "rotary", "theta": 256.0}), "tiny-rotary-theta256-stdlib-0"),
        (config({"method": "rotary", "theta": 10_000.0}), "tiny-rotary-stdlib-0"),
        (config({"method": "wavelet", "scales": [1, 2]}), "tiny-wavelet-25a22774-stdlib-0"),
        (config("alibi", corpus="text:own.txt"), "tiny-alibi-text-own-txt-0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_are_readable_and_stay(given: TrainConfig, name: str) -> None:
    assert run_name(given) == name


@pytest.mark.parametrize("model", ["baevski-auli", "llama"])
def test_other_positions_have_other_names(model: str) -> None:
    names = [run_name(config(position, model=model)) for position in VARIANTS]
    assert len(set(names)) == len(VARIANTS)
    assert all(re.fullmatch(r"[A-Za-z0-9.-]+", name) and len(name) < 100 for name in names)


def test_long_texts_end_in_a_hash() -> None:
    long = "text:/" + "a/" * 100
    assert slug(long) != slug(long + "b")
    assert len(slug(long)) < 60
    assert slug("hf:org/name#text") == "hf-org-name-text"


def test_the_command_of_a_module_is_named_as_it_was_typed(tmp_path: Path) -> None:
    package = tmp_path / "tool"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("from wavepos.runs import environment\nprint(environment()['command'])\n")
    (tmp_path / "script.py").write_text((package / "__main__.py").read_text())
    paths = {"PYTHONPATH": f"{tmp_path}:{Path(runs.__file__).parents[1]}"}
    commands = {"python -m tool 'a b'": ["-m", "tool", "a b"], "script.py": [str(tmp_path / "script.py")]}
    for command, words in commands.items():
        done = subprocess.run([sys.executable, *words], env=paths, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == command
