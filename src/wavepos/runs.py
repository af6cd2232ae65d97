"""The run directory: what lies in it, and its record."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from wavepos.data import PreparedData
from wavepos.provenance import write_json
from wavepos.training_config import TrainConfig

RECORD = "run.json"
PLACES = ("corpus", "tokenizer")
"""Fields of a config that only say where the data lie."""


def opened_record(config: TrainConfig, out: Path, data: PreparedData) -> dict[str, Any]:
    """run.json of a run directory, begun if there is none; what a record of an older version lacks is filled in.

    Raises:
        ValueError: the directory holds a run with another config or on other data.
    """
    path = out / RECORD
    record: dict[str, Any] = {"status": "started"}
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        _check_config(config, record["config"], out, same_data=record.get("data") == data.fingerprint)
        _check_data(data, record.get("data"), config.corpus, out)
    completed = record | {"config": json.loads(json.dumps(dataclasses.asdict(config))), "data": data.fingerprint}
    if completed != record:
        write_json(path, completed)
    return completed


def _check_config(config: TrainConfig, theirs: dict[str, Any], out: Path, same_data: bool) -> None:
    """A field that the record, or its position, does not have counts as its default; the same data may be moved."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    position = dataclasses.replace(config, position=theirs["position"]).position
    theirs = theirs | {"position": json.loads(json.dumps(position))}
    ours = json.loads(json.dumps(dataclasses.asdict(config)))
    for key in sorted({*ours, *theirs} - (set(PLACES) if same_data else set())):
        there, here = theirs.get(key, defaults.get(key)), ours.get(key)
        if there != here:
            raise ValueError(
                f"{out} holds a run with another config ({key}: {there!r} there, {here!r} here): "
                f"choose another directory or delete it"
            )


def _check_data(data: PreparedData, theirs: dict[str, str] | None, corpus: str, out: Path) -> None:
    changed = [name for name, digest in data.fingerprint.items() if theirs is not None and theirs.get(name) != digest]
    if changed:
        raise ValueError(
            f"{out} holds a run on other data: of corpus {corpus!r} its {' and its '.join(changed)} changed since: "
            f"restore the text that it began with, or choose another directory or delete it"
        )
