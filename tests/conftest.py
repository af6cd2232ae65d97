"""Tests write no file outside pytest's temporary folders and reach no network."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["WAVEPOS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
