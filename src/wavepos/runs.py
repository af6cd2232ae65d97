"""The run directory: the names inside it, its own name, its record, and where results come from."""

import dataclasses
import hashlib
import json
import math
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wavepos.positions import PositionConfig, parse_layers
from wavepos.positions.layers import LayerPattern, LayerPositions, distinct_configs, with_each
from wavepos.positions.temperature import parse_temperature
from wavepos.positions.typed import TypedConfig
from wavepos.positions.wavelet import WaveletConfig
from wavepos.storage import read_record, write_record
from wavepos.wavelets import mother_wavelet

if TYPE_CHECKING:
    from wavepos.data import TrainingData
    from wavepos.training.config import TrainConfig

RECORD, MODEL, CHECKPOINTS, TENSORBOARD = "run.json", "model", "checkpoints", "tensorboard"
"""What lies in a run directory."""
PLACES = ("corpus", "tokenizer")
"""Fields of a config that only say where the data lie."""
NAMED_BY_VALUE = ("query_bias", "wavelet", "direction", "gate")
"""Fields of a position whose value alone says which it is."""
OF_FINISHED = {"parameters": int, "train_tokens": int, "train_seconds": int | float, "losses": list}
"""What run.json of a finished run has, and of which types."""
LONGEST_NAME = 40
PACKAGES = ("wavepos", "torch", "triton", "transformers", "accelerate", "tokenizers", "lm_eval", "numpy", "PyWavelets")


def run_name(config: "TrainConfig", *, exact: bool = False) -> str:
    """The name of a run's directory: [llama-]SIZE-POSITION-CORPUS-SEED, the same for the same config on any machine.

    The position is its method and what it has beyond the defaults: "wavelet", "wavelet-recency", "rotary-theta256";
    a hash stands for what is long or no plain value.

    Args:
        config: the run.
        exact: end in the start of the config's fingerprint, so that other configs have other names, as studies need it.
    """
    family = "" if config.model == "baevski-auli" else f"{config.model}-"
    name = f"{family}{config.size}-{position_name(config)}-{slug(config.corpus)}-{config.seed}"
    return f"{name}-{fingerprint(config)[:8]}" if exact else name


def position_name(config: "TrainConfig") -> str:
    """The position of a run as a part of file names; other positions have other names."""
    layers = parse_layers(config.position)
    if isinstance(layers, PositionConfig):
        return _method_name(config, config.position)
    if isinstance(layers, LayerPattern):
        local, wide = (_method_name(config, config.position[key]) for key in ("local", "global"))
        name = f"local-{local}-global-{wide}-every{layers.every}"
        if len(name) <= 2 * LONGEST_NAME:
            return name
    methods = "-".join(own.method for own in distinct_configs(layers))
    return f"layers-{methods[:LONGEST_NAME]}-{_short_hash(json.dumps(_distinct_layers(layers), sort_keys=True))}"


def _method_name(config: "TrainConfig", position: dict[str, Any]) -> str:
    method = position["method"]
    try:
        default = dataclasses.replace(config, position={"method": method}).position
    except ValueError:  # a method that cannot do without settings: all of them are named
        default = {"method": method}
    ours, plain = (json.loads(json.dumps(one)) for one in (position, default))
    differing = {key: ours[key] for key in sorted(ours) if ours[key] != plain.get(key)}
    parts = [_named(key, value) for key, value in differing.items()]
    name = "-".join([method, *(part for part in parts if part is not None)])
    if None in parts or len(name) > LONGEST_NAME:
        return f"{method}-{_short_hash(json.dumps(differing, sort_keys=True))}"
    return name


def slug(text: str) -> str:
    """A text as a part of file names: letters, digits and underscores stay; the end of a long one becomes a hash."""
    plain = re.sub(r"[^\w]+", "-", text).strip("-")
    return plain if len(plain) <= 2 * LONGEST_NAME else f"{plain[:LONGEST_NAME]}-{_short_hash(text)}"


def fingerprint(data: Any) -> str:
    """A hex digest of a config, equal for equal ones. What is at its default does not enter: new fields change nothing.

    Args:
        data: a dataclass with defaults, such as a `TrainConfig`.
    """
    return hashlib.sha256(json.dumps(_distinct(data), sort_keys=True).encode()).hexdigest()


def _distinct(data: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their default, dataclasses in them likewise."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(data):
        value = getattr(data, field.name)
        if value == field.default:
            continue
        if field.name == "position":
            value = _distinct_layers(parse_layers(value))
        elif isinstance(value, TypedConfig):
            value = {value.tag: value.name(), **_distinct(value)}
        found[field.name] = value
    return found


def _distinct_layers(layers: LayerPositions) -> Any:
    return with_each(layers, lambda own: {"method": own.method, **_distinct(own)})


def stored_config(kind: type["TrainConfig"], record: Mapping[str, Any]) -> "TrainConfig":
    """The config in the content of a run.json: a field that it, or its position, lacks is at today's default.

    Args:
        kind: `TrainConfig`.
        record: the content.

    Raises:
        ValueError: it is no config of this version.
    """
    try:
        return kind(**record["config"])
    except (TypeError, KeyError) as error:
        raise ValueError(f"the config is not one of this version: {error}") from error


def read_run(run_dir: Path) -> dict[str, Any]:
    """run.json of a run, begun or finished.

    Raises:
        FileNotFoundError: no run there.
        ValueError: it is damaged.
    """
    path = run_dir / RECORD
    if not path.exists():
        raise FileNotFoundError(f"run_dir must be the directory of a run of `wavepos train`: no run.json in {run_dir}")
    record = read_record(path, _advice(run_dir))
    check_fields(record, {"status": str}, run_dir)
    check_fields({"config": {}, **record}, {"config": dict}, run_dir)
    return record


def check_fields(fields: Mapping[str, Any], kinds: Mapping[str, Any], run_dir: Path) -> None:
    """Refuse a record, or a config in one, that lacks fields, or has them of other types."""
    for name, kind in kinds.items():
        if not isinstance(fields.get(name), kind):
            raise ValueError(
                f"{run_dir / RECORD} must have a {name!r} as runs have it, got {fields.get(name)!r}: {_advice(run_dir)}"
            )


def _advice(run_dir: Path) -> str:
    return f"restore it from a copy, or delete {run_dir} to train anew"


def finished_config(run_dir: Path) -> dict[str, Any]:
    """The config of a finished run, with its corpus and length.

    Raises:
        FileNotFoundError, ValueError: as `finished_run`; it lacks them.
    """
    config: dict[str, Any] = finished_run(run_dir).get("config", {})
    check_fields(config, {"corpus": str, "seq_len": int}, run_dir)
    return config


def finished_run(run_dir: Path) -> dict[str, Any]:
    """run.json of a finished run.

    Raises:
        FileNotFoundError: no run there.
        ValueError: the run is not finished, its record is damaged, or nobody has registered its position or wavelet.
    """
    record = read_run(run_dir)
    if record["status"] != "finished":
        raise ValueError(f"the run in {run_dir} is not finished: give its `wavepos train` command again")
    _check_registered(run_dir, record)
    return record


def model_directory(path: Path) -> Path:
    """The folder of the model: path/model of a run of ours, else path itself.

    Raises:
        FileNotFoundError: neither a run nor a saved model.
        ValueError: the run is not finished, or its record is damaged.
    """
    if (path / RECORD).exists():
        finished_run(path)
        return path / MODEL
    if not (path / "config.json").exists():
        raise FileNotFoundError(
            f"path must be the directory of a run of `wavepos train` (run.json) or of a saved transformers model "
            f"(config.json), found neither in {path}"
        )
    return path


def _check_registered(run_dir: Path, record: Mapping[str, Any]) -> None:
    """Refuse a run whose position or wavelet nobody has registered here, with what it was trained with."""
    position = record.get("config", {}).get("position")
    try:
        for own in () if position is None else distinct_configs(parse_layers(position)):
            if isinstance(own, WaveletConfig):
                mother_wavelet(own.wavelet)
    except ValueError as error:
        imports = "".join(f" --import {name}" for name in record.get("imports", ()))
        raise ValueError(f"{run_dir}{f' was trained with{imports}' if imports else ''}: {error}") from error


def opened_record(
    config: "TrainConfig", out: Path, data: "TrainingData", imports: Sequence[str] = ()
) -> dict[str, Any]:
    """run.json of a run directory; one that is there is completed where an older version left something out.

    Where there is none nothing is written: a start that fails leaves no record that would refuse another config.

    Args:
        config: the run.
        out: its directory.
        data: its data.
        imports: modules, or files, that register what the config needs.

    Raises:
        ValueError: the directory holds a run with another config (or one of another version), on other data, or with a
            damaged record.
    """
    path = out / RECORD
    record: dict[str, Any] = {"status": "started"}
    begun = path.exists()
    if begun:
        record = read_run(out)
        if record["status"] == "finished":
            check_fields(record, OF_FINISHED, out)
        _check_config(config, record, out, same_data=record.get("data") == data.fingerprint)
        _check_data(data, record.get("data"), config.corpus, out)
    completed = record | {"config": json.loads(json.dumps(dataclasses.asdict(config))), "data": data.fingerprint}
    if imports:
        completed["imports"] = list(imports)
    if begun and completed != record:
        write_record(path, completed)
    return completed


def _check_config(config: "TrainConfig", record: Mapping[str, Any], out: Path, same_data: bool) -> None:
    """Refuse another config; the same data may have been moved."""
    try:
        theirs = stored_config(type(config), record)
    except ValueError as error:
        raise ValueError(f"{out / RECORD}: {error}: {_advice(out)}") from error
    for field in dataclasses.fields(config):
        there, here = getattr(theirs, field.name), getattr(config, field.name)
        if there != here and not (same_data and field.name in PLACES):
            raise ValueError(
                f"{out} holds a run with another config ({field.name}: {there!r} there, {here!r} here): "
                f"choose another directory or delete it"
            )


def _check_data(data: "TrainingData", theirs: dict[str, str] | None, corpus: str, out: Path) -> None:
    changed = [name for name, digest in data.fingerprint.items() if theirs is not None and theirs.get(name) != digest]
    if changed:
        raise ValueError(
            f"{out} holds a run on other data: of corpus {corpus!r} its {' and its '.join(changed)} changed since: "
            f"restore the text that it began with, or choose another directory or delete it"
        )


def _named(key: str, value: Any) -> str | None:
    """A field of a position as a part of a name, or None where that would be no plain one."""
    if key in NAMED_BY_VALUE and isinstance(value, str) and value.isalnum():
        return value
    if key == "learn":
        return "-".join(["learn", *value])
    if key == "temperature":
        temperature = parse_temperature(value)
        return f"temperature-{temperature.form}" if temperature == type(temperature)() else None
    if isinstance(value, bool):
        return key.replace("_", "") if value else f"no{key.replace('_', '')}"
    if isinstance(value, int | float) and math.isfinite(value):
        return f"{key.replace('_', '')}{int(value) if value == int(value) else value!r}"
    return None


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def environment() -> dict[str, Any]:
    """Command, commit, versions and hardware of this process, for a result's JSON."""
    return {
        "command": shlex.join([*_program(), *sys.argv[1:]]),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _program() -> list[str]:
    """What was typed before the arguments: wavepos, or python -m wavepos.cli."""
    spec = sys.modules["__main__"].__spec__
    return [Path(sys.argv[0]).name] if spec is None else ["python", "-m", spec.name.removesuffix(".__main__")]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree this runs from, with "+changes" if it is not clean; None outside a checkout."""
    root = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None or git("ls-files", "--error-unmatch", __file__) is None:
        return None
    return f"{commit}+changes" if git("status", "--porcelain", "--untracked-files=no") else commit
