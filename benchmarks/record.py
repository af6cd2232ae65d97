"""The result file of a benchmark: rewritten whole after each visit to a cell, so that an interruption loses one.

`calls` lists the calls that made it, each with its config and environment (command, commit, versions, machine); `call`
of a cell, of a parity check and of what was left out says by index which made it. `config` and `environment` are those
of the first. Files of older versions have neither; their cells stay without.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

from benchmarks.measure import MEMORY, TIMING, device_kind
from benchmarks.peers.peer import is_called
from wavepos.console import Update
from wavepos.runs import environment
from wavepos.storage import write_json

Cell = dict[str, Any]
ROUNDS = 3


class Record:
    """Cells measured so far, on disk.

    Args:
        path: the JSON file.
        benchmark: its name.
        config: what was asked for.
        keys: the fields that tell cells apart.
        varying: fields of config that choose cells and change none.
        resume: keep what earlier calls with the same commit, machine and config found.
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
        call = {"config": config, "environment": environment()}
        self.result: dict[str, Any] = {
            "benchmark": benchmark,
            **call,
            "timing": TIMING[kind],
            "memory": MEMORY[kind],
            "calls": [],
            "parity": [],
            "left_out": [],
            "cells": [],
        }
        if resume and path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if _fixed(found, varying) == _fixed(self.result, varying):
                self.result |= found
        self.result["calls"].append(call)
        self._call = len(self.result["calls"]) - 1

    def found(self, cell: Cell) -> Cell:
        """The cell of the same key, or an empty one."""
        same = (old for old in self.result["cells"] if all(cell[key] == old[key] for key in self._keys))
        return next(same, {})

    def put(self, cell: Cell) -> None:
        """Keep a cell, in place of one of the same key, and write all."""
        old, new = self.found(cell), cell | {"call": self._call}
        if old:
            self.result["cells"][self.result["cells"].index(old)] = new
        else:
            self.result["cells"].append(new)
        write_json(self.path, self.result)

    def measure(self, cells: Sequence[Cell], measure: Callable[[Cell, Cell], Cell], update: Update) -> dict[str, Any]:
        """Measure cells in `ROUNDS` rounds over all of them, so that a busy minute meets all, and return the result.

        Args:
            cells: without what is measured.
            measure: a cell, and what earlier rounds measured of it or an empty one, to what is measured by now; what
                cannot be measured is "skipped", in all rounds.
            update: told of the progress.
        """
        for turn in range(ROUNDS):
            for number, cell in enumerate(cells):
                update(turn * len(cells) + number, ROUNDS * len(cells), _told(cell))
                earlier = self.found(cell)
                if "skipped" not in earlier and (not earlier or earlier.get("rounds", ROUNDS) <= turn):
                    self.put(cell | measure(cell, earlier) | {"rounds": turn + 1})
        return self.close()

    def note(self, kind: Literal["parity", "left_out"], entry: dict[str, Any]) -> None:
        """Keep what was found of a method in a precision, in place of what an earlier call found."""
        same = (entry["peer"], entry["dtype"])
        for each in ("parity", "left_out"):
            self.result[each] = [old for old in self.result[each] if (old["peer"], old["dtype"]) != same]
        self.result[kind].append(entry | {"call": self._call})

    def close(self) -> dict[str, Any]:
        """Write all, cells or none, and return it."""
        write_json(self.path, self.result)
        return self.result


def one_round(config: Any) -> Any:
    """A benchmark's config with a round's share of its pairs and its time."""
    return dataclasses.replace(config, repeats=-(-config.repeats // ROUNDS), seconds=config.seconds / ROUNDS)


def _told(cell: Cell) -> str:
    return " ".join(str(cell[key]) for key in ("peer", "size", "seq_len", "dtype", "pass") if key in cell)


def method_names(names: Sequence[str], benchmark: str, known: Sequence[str]) -> tuple[str, ...]:
    """The methods' own names, however they were typed.

    Raises:
        ValueError: a method that the benchmark does not have.
    """
    found = []
    for typed in names:
        name = next((name for name in known if is_called(typed, name)), None)
        if name is None:
            raise ValueError(f"peers of {benchmark} takes {', '.join(known)}, got {typed!r}")
        found.append(name)
    return tuple(found)


def measure_models(
    config: Any,
    record: Record,
    check: Callable[[str, str], list[dict[str, Any]]],
    measure: Callable[[Cell, Cell], Cell],
    what: str,
    update: Update,
) -> dict[str, Any]:
    """Check every method in every precision, then measure a cell for each size, length, precision and method.

    Args:
        config: holds sizes, lengths, dtypes and peers.
        record: where the cells go.
        check: (method, dtype) to its errors; raises where they are beyond their bound.
        measure: as `Record.measure` takes it.
        what: what a call does, for the plots.
        update: told of the progress.
    """
    for dtype in config.dtypes:
        for method in config.peers:
            update(0, None, f"checking {method} {dtype}")
            record.note("parity", {"peer": method, "dtype": dtype, "errors": check(method, dtype)})
    cells: list[Cell] = [
        {"peer": method, "title": method, "size": size, "seq_len": n, "dtype": dtype, "pass": f"{what}, {size}"}
        for size, n, dtype, method in product(config.sizes, config.lengths, config.dtypes, config.peers)
    ]
    return record.measure(cells, measure, update)


def _fixed(result: dict[str, Any], varying: tuple[str, ...]) -> Any:
    """What must be equal for old cells to stand beside new ones."""
    config = {name: value for name, value in result["config"].items() if name not in varying}
    place = {name: value for name, value in result["environment"].items() if name != "command"}
    return json.loads(json.dumps([result["benchmark"], config, place]))
