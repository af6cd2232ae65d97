"""The gate of a served family as numbers: how far its derived model is from what it has to equal."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from small_families import positioned, read, small_model, tokens
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from wavepos.models import convert
from wavepos.models.decoder.rotation import INTERLEAVED

RECENCY = {"method": "wavelet", "query_bias": "recency"}


def worst(found: Tensor, expected: Tensor) -> float:
    """The largest difference."""
    return float((found - expected).abs().max())


def largest(differences: Iterable[float]) -> float:
    """The largest of all, NaN if one is NaN."""
    return float(torch.tensor(list(differences), dtype=torch.float64).max())


def losses_and_gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    out = model(x, labels=x, use_cache=False)
    out.loss.backward()
    return out.logits.detach(), {key: value.grad for key, value in model.named_parameters() if value.grad is not None}


def rotation(family: str, native: bool) -> tuple[float, float]:
    """Logits and gradients beside the family's own, with its rotation left in place or with `Rotary` in its place."""
    theirs = small_model(family)
    ours = convert(theirs, "nope" if native else "rotary", native_rotation=native).eval()
    assert ours.config.native_rotation is native
    (logits, gradients), (found, own) = losses_and_gradients(theirs, tokens()), losses_and_gradients(ours, tokens())
    assert own.keys() == gradients.keys()
    return worst(found, logits), largest(worst(own[key], gradient) for key, gradient in gradients.items())


@torch.no_grad()
def order(family: str) -> tuple[float, float]:
    """What permuting earlier tokens does to the last logits of one layer: with NoPE, and in the family's own model."""
    theirs = small_model(family, num_hidden_layers=1)
    x = tokens(length=8)  # no further than any window
    permuted = x[:, [3, 5, 0, 6, 1, 4, 2, 7]]
    ours, own = (
        worst(model(permuted).logits[:, -1], model(x).logits[:, -1])
        for model in (convert(theirs, "nope").eval(), theirs)
    )
    return ours, own


@torch.no_grad()
def cached(model: Any) -> float:
    """Read in pieces into a dynamic and into a static cache, beside all at once."""
    x = tokens()
    whole = model(x, use_cache=False).logits
    caches = DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=24)
    return largest(worst(read(model, x, cache, [10, 5, 1, 1, 7]), whole) for cache in caches)


@torch.no_grad()
def padded(model: Any) -> float:
    """Rows with padding at their left, beside rows without."""
    x = tokens()
    mask = torch.ones(2, 30, dtype=torch.int64)
    mask[:, :6] = 0
    found = model(torch.cat([torch.zeros_like(x[:, :6]), x], 1), mask).logits[:, 6:]
    return worst(found, model(x, use_cache=False).logits)


@torch.no_grad()
def packed(model: Any) -> float:
    """Two rows in one, told apart by position_ids, beside the two; without a mask and with one of ones."""
    x = tokens()
    whole = model(x, use_cache=False).logits
    row, positions = x.reshape(1, -1), torch.arange(24).repeat(2)[None]
    masks = None, torch.ones_like(row)
    return largest(worst(model(row, mask, position_ids=positions).logits.view_as(whole), whole) for mask in masks)


@torch.no_grad()
def compiled(model: Any) -> float:
    """Steps compiled whole with a static cache, beside all at once."""
    torch.compiler.reset()
    x, cache = tokens(), StaticCache(config=model.config, max_cache_len=24)
    step = torch.compile(model, fullgraph=True, backend="eager")
    whole = model(x, use_cache=False).logits[:, 20:]
    model(x[:, :20], past_key_values=cache, use_cache=True)
    found = [step(x[:, [at]], past_key_values=cache, use_cache=True).logits for at in range(20, 24)]
    return worst(torch.cat(found, 1), whole)


@torch.no_grad()
def reloaded(model: Any) -> float:
    """Saved and loaded by an Auto class, beside the model in memory."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert type(loaded) is type(model)
    assert loaded.config.position == model.config.position
    return worst(loaded(tokens()).logits, model(tokens()).logits)


CHECKS: Mapping[str, Callable[[Any], float]] = {
    "cached": cached,
    "left padding": padded,
    "packed": packed,
    "compiled": compiled,
    "reloaded": reloaded,
}
"""Of a model with a position."""


def measured(family: str, positions: Mapping[str, Any]) -> dict[str, float | None]:
    """All checks of a family, those of `CHECKS` at their worst over the positions; None: nothing to compare with."""
    ours = (None, None) if family in INTERLEAVED else rotation(family, native=False)
    kept = (None, None) if family == "llama" else rotation(family, native=True)
    names = ("our rotation, logits", "our rotation, gradients", "own rotation, logits", "own rotation, gradients")
    found: dict[str, float | None] = dict(zip(names, (*ours, *kept), strict=True))
    found |= dict(zip(("order left", "order in theirs"), order(family), strict=True))
    models = [positioned(family, position) for position in positions.values()]
    return found | {name: largest(check(model) for model in models) for name, check in CHECKS.items()}
