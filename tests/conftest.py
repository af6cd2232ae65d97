"""Tests write no file outside pytest's temporary folders and reach no network."""

import gc
import os
import signal
from collections import defaultdict

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in a shell's background, as would be what tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # each worker, and what it starts, gets its share of the cores
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

import pytest
import torch
from hypothesis import settings
from pairwise import FEWEST, covering

if not torch.cuda.is_available():  # Triton decides between compiling and interpreting while it is imported
    os.environ["TRITON_INTERPRET"] = "1"

gc.disable()  # while tests are imported and collected; see pytest_collection_finish

settings.register_profile("untimed", deadline=None)  # a busy machine is no defect of ours
settings.load_profile("untimed")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-combinations", action="store_true", help="of parameters; else every pair of their values")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of three and more parameters of a test run every pair of values, not every combination."""
    if config.getoption("--all-combinations"):
        return
    by_test = defaultdict(list)
    for item in items:
        parameters = _parameters(item)
        if len(parameters) >= FEWEST:
            by_test[item.nodeid.partition("[")[0]].append((item, parameters))
    kept = {rows[i][0] for rows in by_test.values() for i in covering([parameters for _, parameters in rows])}
    left_out = [item for rows in by_test.values() for item, _ in rows if item not in kept]
    config.hook.pytest_deselected(items=left_out)
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]


def _parameters(item: pytest.Item) -> tuple[tuple[int, ...], ...]:
    """The item's value of every parameter, by identity; those of one `parametrize` are one."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return ()
    values = {name: id(value) for name, value in item.callspec.params.items()}
    together = []
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
        together.append(tuple(values.pop(name.strip()) for name in names))
    return (*together, *((value,) for value in values.values()))


def pytest_collection_finish() -> None:
    """What was imported and collected, some million objects, is looked through by no collection of garbage any more."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or extensions tell at exit of functions that leaked


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["WAVEPOS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
