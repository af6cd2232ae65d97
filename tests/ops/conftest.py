"""Short calls reach the band and the far part too, unless a test asks for what happens to them outside of tests."""

import importlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def always_banded(request, monkeypatch):
    if "short_is_near" not in request.keywords:
        band = importlib.import_module("wavepos.ops.banded.band")
        monkeypatch.setattr(band, "SHORT", 0)
        monkeypatch.setattr(band, "GATED_BLOCK", 32)


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


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Fills every uninitialised tensor with NaN, so that an entry that is never written shows."""
    filled: list[int] = []
    new_empty, empty_like = Tensor.new_empty, torch.empty_like

    def poison(x: Tensor) -> Tensor:
        filled.append(x.numel())
        return x.fill_(float("nan")) if x.is_floating_point() else x

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "new_empty", lambda *args, **kwargs: poison(new_empty(*args, **kwargs)))
        patch.setattr(torch, "empty_like", lambda *args, **kwargs: poison(empty_like(*args, **kwargs)))
        yield filled
