"""Progress tells how much there is to do and how long it takes, where output goes to a file too."""

from collections import deque
from types import SimpleNamespace

import pytest

from wavepos import console
from wavepos.experiments import machine
from wavepos.experiments.tasks import Task


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still unless it is put forward."""
    clock = SimpleNamespace(now=0.0)
    for module in (console, machine):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_lines_tell_the_time_left_of_each_part(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("reading") as update:
        for now, done, total in ((0, 0, 100), (20, 25, 100), (40, 100, 100), (60, 0, 500), (80, 100, 500)):
            clock.now = float(now)
            update(done, total, "of it")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "reading 25%, 1 min left of it",
        "reading 100% of it",
        "reading 0% of it",
        "reading 20%, 1 min left of it",
    ]


def test_a_study_tells_the_time_left_of_all_runs(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def perform(task: Task, update: console.Update) -> None:
        clock.now += 90.0
        update(1, 2)

    monkeypatch.setattr(machine, "perform", perform)
    monkeypatch.setattr(machine, "is_busy", lambda folder: False)
    tasks = [SimpleNamespace(title=title, folder=None, is_done=False) for title in ("NoPE", "RoPE", "ALiBi")]
    machine._one_after_the_other(machine.Ledger(deque(tasks)))  # type: ignore[arg-type] # what it asks of them
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["1/3 NoPE 50%", "2/3 (3 min left in all) RoPE 50%", "3/3 (2 min left in all) ALiBi 50%"]


@pytest.mark.parametrize(("seconds", "said"), [(0.0, "0 s"), (59.4, "59 s"), (150.0, "2 min"), (7500.0, "2 h 05 min")])
def test_durations_are_short(seconds: float, said: str) -> None:
    assert console.duration(seconds) == said
