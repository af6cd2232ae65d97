"""Every backend against the yardstick on a device: how far it is from the reference in float64, or why it refuses."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from benchmarks.attention import DTYPES
from benchmarks.measure import device_kind
from wavepos.console import Update, first_line
from wavepos.positions import Position, parse_position
from wavepos.runs import environment
from wavepos.storage import write_json
from wavepos.testing import Case, measure

BACKENDS: tuple[Literal["banded", "triton", "auto"], ...] = ("banded", "triton", "auto")
SILENT = "no message"
POSITIONS: dict[str, dict[str, Any]] = {
    "NoPE": {"method": "nope"},
    "RoPE": {"method": "rotary"},
    "ALiBi": {"method": "alibi"},
    "T5": {"method": "t5"},
    "Shaw": {"method": "shaw"},
    "Transformer-XL": {"method": "transformer_xl"},
    "Kerple": {"method": "kerple"},
    "Wavelet": {"method": "wavelet"},
    "Wavelet, recency start": {"method": "wavelet", "query_bias": "recency"},
    "Learned relative": {"method": "learned_relative"},
    "Forget gate": {"method": "forget_gate"},
    "Cable": {"method": "cable"},
    "Wavelet with a gate": {"method": "wavelet", "gate": "forget"},
    "NoPE, log temperature": {"method": "nope", "temperature": "log"},
    "Wavelet, log temperature": {"method": "wavelet", "temperature": "log"},
}
CALLS: dict[str, tuple[dict[str, int], dict[str, Any]]] = {
    "near": ({"num_queries": 200, "num_keys": 200}, {}),
    "near and far": ({"num_queries": 1500, "num_keys": 1500}, {}),
    "cache": ({"num_queries": 130, "num_keys": 1100, "query_offset": 970}, {}),
    "decode": ({"num_queries": 1, "num_keys": 1100, "query_offset": 1099}, {}),
    "window": ({"num_queries": 1500, "num_keys": 1500}, {"window": 1400}),
    "both ways": ({"num_queries": 1500, "num_keys": 1500}, {"causal": False}),
}
"""Lengths before and beyond the wavelets' band, queries at the end of a cache, a window that leaves a far part, and
keys after the query: sizes, and what `attention` is told beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class YardstickConfig:
    """What is tried."""

    device: str
    """cpu, or cuda."""
    dtypes: tuple[str, ...] = ("fp32", "bf16", "fp16")
    """Of fp32, bf16, fp16."""
    head_dims: tuple[int, ...] = (64, 128)
    """D, sizes of a head."""
    positions: tuple[str, ...] = tuple(POSITIONS)
    """Methods by their names here."""

    def __post_init__(self) -> None:
        for name, given, known in (("dtypes", self.dtypes, DTYPES), ("positions", self.positions, POSITIONS)):
            for one in given:
                if one not in known:
                    raise ValueError(f"{name} takes {', '.join(known)}, got {one!r}")
        if not self.head_dims or min(self.head_dims) < 1:
            raise ValueError(f"head_dims must be positive, got {self.head_dims}")


def yardstick_config(device: str) -> YardstickConfig:
    """Everything on a GPU; on a CPU one size of head in two precisions."""
    if device_kind(device) == "cuda":
        return YardstickConfig(device=device)
    return YardstickConfig(device=device, dtypes=("fp32", "bf16"), head_dims=(64,))


def try_backends(config: YardstickConfig, path: Path, resume: bool, update: Update) -> dict[str, Any]:
    """Try every combination; the result is written after each method, size of head and precision.

    Args:
        config: what is tried.
        path: the JSON file.
        resume: keep what the same commit found on this machine.
        update: told of the progress.

    Returns:
        {"benchmark", "config", "environment", "cells"}; a cell says what was tried, its "verdict" ("within", "beyond",
        "refused" or "failed"), the errors of output and gradients with their bounds, or the reason.
    """
    result: dict[str, Any] = {
        "benchmark": "yardstick",
        "config": dataclasses.asdict(config),
        "environment": environment(),
        "cells": [],
    }
    if resume and path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if _machine(found) == _machine(result):
            result["cells"] = found["cells"]
    known = {(cell["position"], cell["dtype"], cell["head_dim"]) for cell in result["cells"]}
    places = [place for place in _places(config) if place not in known]
    for done, (name, dtype, head_dim) in enumerate(places):
        update(done, len(places), f"{name} {dtype} D={head_dim}")
        result["cells"] += [cell for backend in BACKENDS for cell in _tried(config, name, dtype, head_dim, backend)]
        write_json(path, result)
    return result


def _machine(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result["environment"].items() if name != "command"}


def _places(config: YardstickConfig) -> Iterator[tuple[str, str, int]]:
    for name in config.positions:
        for dtype in config.dtypes:
            for head_dim in config.head_dims:
                yield name, dtype, head_dim


def _tried(
    config: YardstickConfig, name: str, dtype: str, head_dim: int, backend: Literal["banded", "triton", "auto"]
) -> Iterator[dict[str, Any]]:
    for call, (sizes, told) in CALLS.items():
        case = Case(batch=1, head_dim=head_dim, dtype=DTYPES[dtype], device=config.device, **sizes)
        place = {"position": name, "call": call, "dtype": dtype, "head_dim": head_dim, "backend": backend}
        yield place | _verdict(_position(name, case), case, backend, told)


def _position(name: str, case: Case) -> Position:
    torch.manual_seed(0)
    position = parse_position(POSITIONS[name]).build(head_dim=case.head_dim, num_heads=case.num_heads)
    for parameter in position.parameters():  # learned tables begin at next to nothing: then an error would not show
        nn.init.normal_(parameter, std=0.5)
    return position


def _verdict(
    position: Position, case: Case, backend: Literal["banded", "triton", "auto"], told: dict[str, Any]
) -> dict[str, Any]:
    try:
        errors = measure(position, case, backend, **told)
    except (ValueError, ImportError) as error:
        return {"verdict": "refused", "reason": first_line(error) or SILENT}
    except Exception as error:  # a kernel that does not compile or run there: that is what this is to find
        return {"verdict": "failed", "reason": f"{type(error).__name__}: {first_line(error) or SILENT}"}
    within = all(error.error <= error.bound for error in errors)
    found = [{"tensor": e.tensor, "error": e.error, "bound": e.bound} for e in errors]
    return {"verdict": "within" if within else "beyond", "errors": found}
