"""What `python -m benchmarks` does: measure, write the result and its plots, and tell."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.attention import attention_config, bench_attention
from benchmarks.decode import bench_decode, decode_config
from benchmarks.figures import skipped_lines, summary_table, verdict_table, write_figures
from benchmarks.generate import bench_generate, generate_config
from benchmarks.measure import device_kind
from benchmarks.train_step import bench_train_step, train_step_config
from benchmarks.yardstick import try_backends, yardstick_config
from wavepos.console import Update, console, progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: as it is typed.
        default: a device's name to the config that fits it.
        measure: config, path of the result, whether to resume, and progress to the result.
        table: the result as it is printed.
        timed: whether it takes time, and so belongs to all; else it looks for errors.
    """

    name: str
    default: Callable[[str], Any]
    measure: Callable[..., dict[str, Any]]
    table: Callable[[dict[str, Any]], Table] = summary_table
    timed: bool = True


BENCHMARKS = (
    Benchmark(name="attention", default=attention_config, measure=bench_attention),
    Benchmark(name="decode", default=decode_config, measure=bench_decode),
    Benchmark(name="train-step", default=train_step_config, measure=bench_train_step),
    Benchmark(name="generate", default=generate_config, measure=bench_generate),
    Benchmark(name="yardstick", default=yardstick_config, measure=try_backends, table=verdict_table, timed=False),
)


def run_benchmark(benchmark: Benchmark, config: Any, out: Path, resume: bool, deadline: float | None = None) -> None:
    """Measure, write `<benchmark>_<device>.json` and its plots into the directory, and print a table.

    Args:
        benchmark: one of `BENCHMARKS`.
        config: what is measured.
        out: directory of the result.
        resume: keep what is measured already.
        deadline: on `time.monotonic`'s clock; what is not begun by then is not measured.

    Raises:
        ValueError: a device that is not there, or a method that computes something else.
        TimeoutError: the deadline came; what was measured is written.
    """
    kind = device_kind(config.device)
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"device must be cpu, or cuda where there is one, got {config.device!r}")
    path = out / f"{benchmark.name.replace('-', '_')}_{kind}.json"
    with progress(f"Measuring {benchmark.name}") as update:
        result = benchmark.measure(config, path, resume, update if deadline is None else _until(deadline, update))
    written = [path, *write_figures(result, path)]
    console.print(benchmark.table(result))
    for line in skipped_lines(result):
        console.print(f"Left out: {line}", highlight=False, markup=False)
    console.print(f"Written: {', '.join(str(each) for each in written)}", highlight=False, soft_wrap=True)


def _until(deadline: float, update: Update) -> Update:
    """The progress, which ends the work at the deadline: results are written after every measurement."""

    def told(done: float, total: float | None, note: str = "") -> None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"time is up, before {note}")
        update(done, total, note)

    return told


def run_all(device: str, given: dict[str, Any], out: Path, resume: bool) -> None:
    """All benchmarks that take time, each with its own settings but for those given, which all of them have."""
    for benchmark in (each for each in BENCHMARKS if each.timed):
        config = dataclasses.replace(benchmark.default(device), **given)
        run_benchmark(benchmark, config, out, resume)
