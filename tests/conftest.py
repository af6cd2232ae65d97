"""Tests write no file outside pytest's temporary folders and reach no network."""

import gc
import os
import signal

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in a shell's background, as would be what tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # each worker, and what it starts, gets its share of the cores
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():  # Triton decides between compiling and interpreting while it is imported
    os.environ["TRITON_INTERPRET"] = "1"

gc.disable()  # while tests are imported and collected; see pytest_collection_finish

settings.register_profile("untimed", deadline=None)  # a busy machine is no defect of ours
settings.load_profile("untimed")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"


def pytest_collection_finish() -> None:
    """What was imported and collected, some million objects, is looked through by no collection of garbage any more."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or extensions tell at exit of functions that leaked


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["WAVEPOS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
