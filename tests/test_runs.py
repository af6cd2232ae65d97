"""Names of runs: readable, the same everywhere, and different for different positions."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wavepos import runs
from wavepos.runs import fingerprint, opened_record, run_name, slug, stored_config
from wavepos.training.config import TrainConfig
from wavepos.training.recipes import recipe

LOCAL: dict[str, Any] = {"method": "wavelet", "window": 64}
VARIANTS: list[Any] = [
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
    {"method": "wavelet", "learn": ["scales"]},
    {"method": "wavelet", "learn": ["scales", "shifts"]},
    {"method": "wavelet", "learn": ["scales", "shifts"], "learn_per_head": True},
    {"method": "wavelet", "scales": [1, 4]},
    {"method": "t5", "num_buckets": 16},
    {"method": "alibi"},
    {"method": "nope", "temperature": "log"},
    {"method": "nope", "temperature": {"form": "log", "start": 0.5}},
    {"method": "nope", "temperature": "llama4"},
    {"method": "nope", "window": 512},
    {"method": "nope", "window": 512, "temperature": "log"},
    {"local": LOCAL, "global": "nope", "every": 4},
    {"local": LOCAL, "global": "nope", "every": 2},
    {"local": "nope", "global": LOCAL, "every": 2},
    {
        "local": {**LOCAL, "scales": [1, 2], "query_bias": "recency"},
        "global": {"method": "rotary", "theta": 5},
        "every": 2,
    },
    ["rotary", "rotary", "rotary", "nope"],
    ["rotary", "rotary", "nope", "nope"],
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
        (config({"method": "wavelet", "learn": ["shifts", "scales"]}), "tiny-wavelet-learn-scales-shifts-stdlib-0"),
        (config("alibi", corpus="text:own.txt"), "tiny-alibi-text-own-txt-0"),
        (config({"method": "nope", "temperature": "log"}), "tiny-nope-temperature-log-stdlib-0"),
        (config({"method": "wavelet", "window": 64}), "tiny-wavelet-window64-stdlib-0"),
        (
            config({"local": LOCAL, "global": {"method": "nope", "temperature": "log"}, "every": 4}),
            "tiny-local-wavelet-window64-global-nope-temperature-log-every4-stdlib-0",
        ),
        (config(["rotary", "nope", "rotary", "nope"]), "tiny-layers-rotary-nope-42edd44b-stdlib-0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_are_readable_and_stay(given: TrainConfig, name: str) -> None:
    assert run_name(given) == name


@pytest.mark.parametrize("model", ["baevski-auli", "llama"])
def test_other_positions_have_other_names(model: str) -> None:
    names = [run_name(config(position, model=model)) for position in VARIANTS]
    assert len(set(names)) == len(VARIANTS)
    assert all(re.fullmatch(r"[A-Za-z0-9.-]+", name) and len(name) < 120 for name in names)


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


def test_exact_names_tell_every_config_apart() -> None:
    given = config("wavelet")
    others = [dataclasses.replace(given, steps=201), dataclasses.replace(given, learning_rate=1e-5)]
    assert {run_name(other) for other in others} == {run_name(given)}
    exact = [run_name(other, exact=True) for other in (given, *others)]
    assert len(set(exact)) == 3
    assert all(name.startswith(run_name(given) + "-") for name in exact)
    assert exact[0].endswith(fingerprint(given)[:8])
    assert run_name(config({"method": "wavelet", "direction": "past"}), exact=True) == exact[0]


@pytest.mark.parametrize(
    ("position", "digest"),
    [
        ("wavelet", "577cb6ea"),
        ("nope", "96ebde84"),
        ({"method": "rotary", "theta": 5e5}, "4144b89a"),
    ],
    ids=str,
)
def test_fingerprints_are_those_of_versions_without_the_fields_that_any_position_may_have(
    position: str | dict[str, Any], digest: str
) -> None:
    assert fingerprint(config(position))[:8] == digest
    bare = position if isinstance(position, dict) else {"method": position}
    assert fingerprint(config({**bare, "temperature": None, "window": None}))[:8] == digest
    assert fingerprint(config({**bare, "window": 9}))[:8] != digest


def test_layers_have_a_fingerprint_and_a_record_like_any_position(tmp_path: Path) -> None:
    pattern = {"local": LOCAL, "global": "nope", "every": 4}
    given, data = config(pattern, model="llama"), SimpleNamespace(fingerprint={"train": "1"})
    record = opened_record(given, tmp_path, data)
    again = stored_config(TrainConfig, json.loads(json.dumps(record)))
    assert (
        fingerprint(again)
        == fingerprint(given)
        == fingerprint(config({**pattern, "global": {"method": "NoPE"}}, model="llama"))
    )
    assert opened_record(again, tmp_path, data) == record
    others = [
        config(["wavelet"] * 4, model="llama"),
        config("wavelet", model="llama"),
        config({**pattern, "every": 2}, model="llama"),
    ]
    assert len({fingerprint(one) for one in (given, *others)}) == 4


@pytest.mark.parametrize("change", [{}, {"steps": 201}, {"position": {"method": "wavelet", "stretch": 2.0}}], ids=str)
def test_a_directory_is_opened_for_just_the_configs_that_its_record_is_equal_to(
    change: dict[str, Any], tmp_path: Path
) -> None:
    given, data = config("wavelet"), SimpleNamespace(fingerprint={"train": "1"})
    record = opened_record(given, tmp_path, data)
    for aside in ("gradient_clip", "validate_every"):  # as a version without them wrote it
        del record["config"][aside]
    del record["config"]["position"]["stretch"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    wanted = dataclasses.replace(given, **change)
    assert (fingerprint(stored_config(TrainConfig, record)) == fingerprint(wanted)) == (not change)
    if change:
        with pytest.raises(ValueError, match=rf"holds a run with another config \({next(iter(change))}: "):
            opened_record(wanted, tmp_path, data)
    else:
        assert opened_record(wanted, tmp_path, data)["config"]["gradient_clip"] == 1.0


def test_a_config_of_another_version_is_named(tmp_path: Path) -> None:
    given, data = config("wavelet"), SimpleNamespace(fingerprint={"train": "1"})
    record = opened_record(given, tmp_path, data)
    record["config"]["momentum"] = 0.9
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"the config is not one of this version: .*momentum"):
        opened_record(given, tmp_path, data)
