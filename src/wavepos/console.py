"""Progress on the console: a bar on a terminal, a line now and then where output goes to a file."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console()
LINE_EVERY_SECONDS = 10.0
SAYS_NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
SAYS_NO_THREADS = ("can't start new thread", "thread pool has not been initialized")


def is_first_process() -> bool:
    """Whether this is the only process, or the first of those that `torchrun` started.

    Raises:
        ValueError: RANK and WORLD_SIZE are not what torchrun sets.
    """
    rank = _number("RANK", 0)
    if rank >= num_processes():
        raise ValueError(
            f"the environment's RANK must be less than its WORLD_SIZE={num_processes()}, as torchrun sets both, got "
            f"{rank}: unset RANK to use one process"
        )
    return rank == 0


def num_processes() -> int:
    """Processes that `torchrun` started, or 1.

    Raises:
        ValueError: WORLD_SIZE is not what torchrun sets.
    """
    return max(1, _number("WORLD_SIZE", 1))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ValueError(f"the environment's {name} must be a number, as torchrun sets it, got {text!r}: unset it")
    return int(text)


class Update(Protocol):
    """Tell how far the work is: done of total (None: unknown), and a word on its state.

    Everything that takes time takes one, as its argument `update`.
    """

    def __call__(self, done: float, total: float | None, note: str = "", /) -> None: ...


class Tally:
    """Counts what is done in parts and tells of the sum.

    Args:
        update: told; None: nobody.
        total: of all parts.
        note: what stands behind the count, such as "tokens scored".
    """

    def __init__(self, update: Update | None, total: float, note: str) -> None:
        self.done = 0
        self._update, self._total, self._note = update, total, note

    def add(self, part: int) -> None:
        """A part more is done."""
        self.done += part
        if self._update is not None:
            self._update(self.done, self._total, f"{self.done:,} {self._note}")


@contextmanager
def progress(title: str) -> Iterator[Update]:
    """Show the progress of one piece of work while the block runs."""
    if not is_first_process():
        yield lambda done, total, note="": None
        return
    with _bar(title) if console.is_terminal else _lines(title) as update:
        yield update


@contextmanager
def _bar(title: str) -> Iterator[Update]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, note="")

        def update(done: float, total: float | None, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield update


@contextmanager
def _lines(title: str) -> Iterator[Update]:
    last = begun = time.monotonic()
    first, known = 0.0, None

    def update(done: float, total: float | None, note: str = "") -> None:
        nonlocal last, begun, first, known
        now = time.monotonic()
        if total != known or done < first:  # another part of the work
            begun, first, known = now, done, total
        if now - last >= LINE_EVERY_SECONDS:
            last = now
            share = f" {100.0 * done / total:.0f}%" if total else ""
            if total and first < done < total:
                share += f", {duration((now - begun) * (total - done) / (done - first))} left"
            console.print(f"{title}{share} {note}".rstrip(), markup=False, highlight=False)

    yield update


def duration(seconds: float) -> str:
    """Of at least no time, to whole seconds: "7 s", "3 min", "2 h 05 min"."""
    if seconds < 60.0:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60.0)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that no memory is left: Python's own, torch's on CPUs and GPUs, those of libraries."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in SAYS_NO_MEMORY)
    return said or isinstance(error, MemoryError)


def has_no_threads(error: BaseException) -> bool:
    """Whether an error says that no thread can be started, for want of memory or by a limit: Python's, Rust's."""
    return any(words in str(error) for words in SAYS_NO_THREADS)


def first_line(error: BaseException) -> str:
    """What an error says in its first line; "" of one that says nothing."""
    return next(iter(str(error).strip().splitlines()), "")
