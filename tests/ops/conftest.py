"""Short calls reach the band and the far part too, unless a test asks for what happens to them outside of tests."""

import importlib

import pytest


@pytest.fixture(autouse=True)
def always_banded(request, monkeypatch):
    if "short_is_near" not in request.keywords:
        monkeypatch.setattr(importlib.import_module("wavepos.ops.banded.band"), "SHORT", 0)


@pytest.fixture(params=["masked", "apart"])
def segments(request, monkeypatch):
    """Documents and padding by a mask, as where they are short, or each run of keys as a call of its own."""
    module = importlib.import_module("wavepos.ops.banded.segments")
    monkeypatch.setattr(module, "LEAST", 0 if request.param == "apart" else 10**6)
    return request.param


@pytest.fixture(params=["near", "stripes"])
def far(request, monkeypatch):
    """Keys between band and window are near, as where they are few, or calls of the fused kernel."""
    least = 1 if request.param == "stripes" else 10**6
    monkeypatch.setattr(importlib.import_module("wavepos.ops.banded.band"), "STRIPE", least)
    return request.param
