"""Short calls reach the band and the far part too, unless a test asks for what happens to them outside of tests."""

import importlib

import pytest


@pytest.fixture(autouse=True)
def always_banded(request, monkeypatch):
    if "short_is_near" not in request.keywords:
        band = importlib.import_module("wavepos.ops.banded.band")
        monkeypatch.setattr(band, "SHORT", 0)
        monkeypatch.setattr(band, "GATED_BLOCK", 32)
