"""Time and memory: two calls in turn (A B A B …) in one process, and the peak of what one call holds.

On CUDA each call is timed by events after its inputs were driven out of the cache, so launches overlap as in a model.
On the CPU a sample is as many calls as last a few milliseconds, by the wall clock. Nothing of the machine is set.
"""

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], object]

SHORTEST_SAMPLE = 0.005
FEWEST_PAIRS = 3
FLUSHED_BYTES = 2**28

TIMING = {
    "cpu": (
        "perf_counter; calls in turn A B A B; a sample is as many calls as last 5 ms; one warm-up each and more; "
        "three rounds over all cells"
    ),
    "cuda": (
        "events; calls in turn A B A B; 256 MiB written before each call to empty the cache; warmed up before; "
        "three rounds over all cells"
    ),
}
MEMORY = {
    "cpu": (
        "peak of the bytes that PyTorch's CPU allocator has handed out and not got back since the call began, from "
        "torch.profiler's memory events, and the tables kept between calls; what stood before (inputs, "
        "parameters, optimizer state) not counted, nor scratch that libraries take from malloc themselves"
    ),
    "cuda": (
        "torch.cuda.max_memory_allocated over what was allocated before the call, and the tables kept between calls; "
        "what stood before (inputs, parameters, optimizer state) not counted"
    ),
}


def device_kind(device: str) -> str:
    """What stands before the colon: cpu, cuda."""
    return device.partition(":")[0]


def check_time(name: str, value: float) -> None:
    """ValueError unless it is a time, or a size, that a measurement can be bounded by."""
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value}: {name}=2 would do")


def interleaved(
    first: Call, second: Call, device: str, repeats: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Milliseconds a call of both, pair by pair, after a warm-up.

    Args:
        first, second: what is timed.
        device: where it runs.
        repeats: pairs, at most.
        seconds: no more pairs are begun after that time, once there are three.
    """
    cuda = device_kind(device) == "cuda"
    counts = [_calls_a_sample(call, cuda) for call in (first, second)]
    flush = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device=device) if cuda else None
    samples: tuple[list[float], list[float]] = ([], [])
    started = time.perf_counter()
    with _no_collection():
        while len(samples[1]) < repeats:
            if len(samples[1]) >= FEWEST_PAIRS and time.perf_counter() - started > seconds:
                break
            for call, count, times in zip((first, second), counts, samples, strict=True):
                times.append(_cpu_sample(call, count) if flush is None else _cuda_sample(call, flush))
    return samples


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) == 1:
        return {"median": values[0], "lower": values[0], "upper": values[0]}
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": _rounded(median), "lower": _rounded(lower), "upper": _rounded(upper)}


def pairwise_ratio(baseline: list[float], values: list[float]) -> dict[str, float]:
    """Median and quartiles of the ratio within each pair."""
    return spread([value / base for base, value in zip(baseline, values, strict=True)])


def comparison(earlier: Mapping[str, Any], baseline: list[float], values: list[float]) -> dict[str, Any]:
    """The entry of a pair of timed calls in a result: samples, medians with quartiles, and the ratio.

    Args:
        earlier: the entry that earlier rounds made, whose samples count as well; or an empty one.
        baseline, values: milliseconds of this round, pair by pair.
    """
    baseline = [*earlier.get("baseline_samples", ()), *baseline]
    values = [*earlier.get("samples", ()), *values]
    return {
        "milliseconds": spread(values),
        "baseline_milliseconds": spread(baseline),
        "ratio": pairwise_ratio(baseline, values),
        "samples": [_rounded(value) for value in values],
        "baseline_samples": [_rounded(value) for value in baseline],
    }


def peak_bytes(call: Call, device: str) -> int:
    """The most that one call holds at once, above what there was; the call should have run before."""
    gc.collect()
    if device_kind(device) == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    return _cpu_peak_bytes(call)


def _cpu_peak_bytes(call: Call) -> int:
    profiler: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
    with _silenced_stderr():
        profiler.start()
    call()
    with _silenced_stderr():
        profiler.stop()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _cpu_sample(call: Call, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - started) * 1000.0 / count


def _cuda_sample(call: Call, flush: torch.Tensor) -> float:
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize()
    flush.zero_()
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _calls_a_sample(call: Call, cuda: bool) -> int:
    """Warm up, and find how many calls make a sample long enough for the clock."""
    call()
    if cuda:
        for _ in range(2):
            call()
        torch.cuda.synchronize()
        return 1
    elapsed = _cpu_sample(call, 1) / 1000.0
    return max(1, round(SHORTEST_SAMPLE / max(elapsed, 1e-7)))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector kept out of the samples."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Keep back the lines that the profiler's library prints to file descriptor 2 at its start and stop."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123 - a device, for its descriptor
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        with suppress(OSError):
            os.close(kept)


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
