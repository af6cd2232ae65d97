"""The result file of a benchmark: rewritten whole after each cell, so that an interruption loses one cell at most."""

import json
from pathlib import Path
from typing import Any

from benchmarks.measure import MEMORY, TIMING, device_kind
from wavepos.provenance import environment, write_json

Cell = dict[str, Any]


class Record:
    """Cells measured so far, on disk.

    Args:
        path: the JSON file.
        benchmark: its name.
        config: what was asked for.
        keys: the fields that tell cells apart.
        varying: fields of config that choose cells and change none.
        resume: keep the cells of an earlier run of the same commit, machine and config.
    """

    def __init__(
        self,
        path: Path,
        benchmark: str,
        config: dict[str, Any],
        keys: tuple[str, ...],
        varying: tuple[str, ...],
        resume: bool,
    ) -> None:
        kind = device_kind(config["device"])
        self.path, self._keys = path, keys
        self.result: dict[str, Any] = {
            "benchmark": benchmark,
            "config": config,
            "timing": TIMING[kind],
            "memory": MEMORY[kind],
            "environment": environment(),
            "parity": [],
            "left_out": [],
            "cells": [],
        }
        if resume and path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if _fixed(found, varying) == _fixed(self.result, varying):
                self.result["cells"] = found["cells"]

    def known(self, cell: Cell) -> bool:
        """Whether a cell of the same key is there."""
        return any(all(cell[key] == old[key] for key in self._keys) for old in self.result["cells"])

    def add(self, cell: Cell) -> None:
        """Keep a cell and write all."""
        self.result["cells"].append(cell)
        write_json(self.path, self.result)

    def close(self) -> dict[str, Any]:
        """Write all, cells or none, and return it."""
        write_json(self.path, self.result)
        return self.result


def _fixed(result: dict[str, Any], varying: tuple[str, ...]) -> Any:
    """What must be equal for old cells to stand beside new ones."""
    config = {name: value for name, value in result["config"].items() if name not in varying}
    place = {name: value for name, value in result["environment"].items() if name != "command"}
    return json.loads(json.dumps([result["benchmark"], config, place]))
