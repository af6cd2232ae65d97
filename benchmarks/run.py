"""What `wavepos bench` does: choose the settings, measure, write the result and its plots, and tell."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.attention import attention_config, bench_attention
from benchmarks.decode import bench_decode, decode_config
from benchmarks.figures import skipped_lines, summary_table, write_figures
from benchmarks.generate import bench_generate, generate_config
from benchmarks.measure import device_kind
from benchmarks.train_step import bench_train_step, train_step_config
from wavepos.console import console, progress

BENCHMARKS: dict[str, tuple[Callable[[str], Any], Callable[..., dict[str, Any]]]] = {
    "attention": (attention_config, bench_attention),
    "decode": (decode_config, bench_decode),
    "train-step": (train_step_config, bench_train_step),
    "generate": (generate_config, bench_generate),
}
SHARED = ("repeats", "seconds")
"""Settings that mean the same in every benchmark."""


def run_benchmarks(what: str, device: str | None, given: dict[str, Any], out: Path, resume: bool) -> None:
    """One benchmark, or all with their own settings.

    Args:
        what: "attention", "decode", "train-step", "generate" or "all".
        device: where; None: CUDA if there is one.
        given: settings that are not to follow from the device.
        out: directory of `<benchmark>_<device>.json` and its plots.
        resume: keep what is measured already.

    Raises:
        ValueError: a setting that the benchmark does not have, or a method that computes something else.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device_kind(device) not in ("cpu", "cuda") or (device_kind(device) == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"device must be cpu, or cuda where there is one, got {device!r}")
    if what == "all" and (own := [name for name in given if name not in SHARED]):
        raise ValueError(
            f"{_option(own[0])} means something else in each benchmark: name attention, decode, train-step or generate"
        )
    for name in BENCHMARKS if what == "all" else (what,):
        default, bench = BENCHMARKS[name]
        config = default(device)
        known = {field.name for field in dataclasses.fields(config)}
        if unknown := [setting for setting in given if setting not in known]:
            raise ValueError(f"{_option(unknown[0])} is no option of bench {name}")
        config = dataclasses.replace(config, **given)
        path = out / f"{name.replace('-', '_')}_{device_kind(device)}.json"
        with progress(f"Measuring {name}") as update:
            result = bench(config, path, resume, update)
        written = [path, *write_figures(result, path)]
        console.print(summary_table(result))
        for line in skipped_lines(result):
            console.print(f"Left out: {line}", highlight=False, markup=False)
        console.print(f"Written: {', '.join(str(each) for each in written)}", highlight=False, soft_wrap=True)


def _option(name: str) -> str:
    return "--" + {"num_heads": "heads"}.get(name, name).replace("_", "-")
