"""Wavelets that learn their scales and shifts, in both families: trained, saved, loaded, converted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_llama import SIZES, small_llama, tokens
from small_models import FAMILIES, small
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

from wavepos import Wavelet
from wavepos.models import from_llama
from wavepos.models.loading import load_model

LEARNED = {"method": "wavelet", "scales": [1.0, 2.0], "learn": ["scales", "shifts"]}
POSITIONS = [LEARNED, {**LEARNED, "learn_per_head": True, "query_bias": "recency"}]


def grids(model: nn.Module) -> list[Any]:
    return [module.grid for module in model.modules() if isinstance(module, Wavelet)]


@pytest.mark.parametrize("position", POSITIONS, ids=["shared", "per head"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_trains_its_own_and_it_is_saved_and_loaded(family: str, position: Any, tmp_path: Path) -> None:
    model, x = small(family, position).train(), tokens()
    assert len(grids(model)) == 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = model(input_ids=x, labels=x).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    moved = [free for grid in grids(model) for free in grid.parameters()]
    assert len(moved) == 4
    assert all(bool(free.any()) for free in moved)
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(x).logits, model(x).logits)
    wider = load_model(tmp_path, position={"method": "wavelet", "stretch": 2.0})
    for before, after in zip(grids(model), grids(wider), strict=True):
        torch.testing.assert_close(after()[0], 2.0 * before()[0])
        torch.testing.assert_close(after()[1], before()[1])


@pytest.mark.parametrize("position", POSITIONS, ids=["shared", "per head"])
def test_a_converted_llama_starts_at_the_grid(position: Any) -> None:
    model = from_llama(LlamaForCausalLM(LlamaConfig(**SIZES)), position)
    assert all(not bool(free.any()) for grid in grids(model) for free in grid.parameters())
    plain = from_llama(LlamaForCausalLM(LlamaConfig(**SIZES)), {"method": "nope", "temperature": "log"})
    learned = [value for key, value in plain.named_parameters() if key.endswith("temperature.s_H")]
    assert [value.tolist() for value in learned] == [pytest.approx([0.168] * 4)] * 2


@pytest.mark.parametrize("position", POSITIONS, ids=["shared", "per head"])
def test_what_learns_can_be_taken_up_while_loading(position: Any, tmp_path: Path) -> None:
    fixed = {key: value for key, value in position.items() if not key.startswith("learn")}
    model, x = small_llama(fixed), tokens()
    model.save_pretrained(tmp_path)
    more = {key: value for key, value in position.items() if key.startswith("learn")}
    learning = load_model(tmp_path, position={"method": "wavelet", **more})
    torch.testing.assert_close(learning(x).logits, model(x).logits, atol=1e-5, rtol=0.0)
    assert len(grids(learning)) == 2


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_cached_equals_uncached(kind: str) -> None:
    model, x = small_llama(POSITIONS[1]), tokens()
    for grid in grids(model):
        for free in grid.parameters():
            nn.init.normal_(free, std=0.5)
    cache = DynamicCache(config=model.config) if kind == "dynamic" else StaticCache(model.config, max_cache_len=64)
    with torch.no_grad():
        whole = model(x, use_cache=False).logits
        pieces = [model(piece, past_key_values=cache).logits for piece in x.split([20] + [1] * 28, 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=0.0)
