"""Gated calls with padding and documents leave out keys that weigh nothing, by the same bound as those without."""

from typing import Any

import pytest
import torch
from small_positions import HEAD_DIM, NUM_HEADS, WithGates, position
from torch import Tensor

from wavepos import Cable, attention
from wavepos.ops.banded import gated, tile
from wavepos.ops.banded.band import Band
from wavepos.ops.call import Call
from wavepos.ops.choice import run_backend
from wavepos.ops.mask import Mask
from wavepos.testing import Case, assert_within

LENGTH = 700
MASKS = ["holes", "interleaved", "left", "right", "both"]


def masks(kind: str) -> dict[str, Tensor]:
    place, generator = torch.arange(LENGTH), torch.Generator().manual_seed(1)
    holes = torch.rand(2, LENGTH, generator=generator) > 0.3
    interleaved = (place // 50 % 2).expand(2, -1)
    return {
        "holes": {"key_padding_BS": holes},
        "interleaved": {"document_ids_BS": interleaved},
        "left": {"key_padding_BS": torch.stack([place >= 90, holes[0] & (place >= 300)])},
        "right": {"key_padding_BS": torch.stack([place < 600, holes[0] & (place < 400)])},
        "both": {"key_padding_BS": holes, "document_ids_BS": interleaved},
    }[kind]


def gated_call(
    kind: str, name: str, dtype: torch.dtype, window: int | None = None
) -> tuple[Call, list[Tensor], Tensor]:
    """Keys far away attract as much as they can; the gates of every head just outweigh them."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(1, 1, 1, HEAD_DIM, generator=generator)
    q = 3.0 * direction + torch.randn(2, NUM_HEADS, LENGTH, HEAD_DIM, generator=generator)
    k = torch.randn(2, 2, LENGTH, HEAD_DIM, generator=generator)
    k[:, :, : LENGTH // 2] += 3.0 * direction
    v, grad = torch.randn(k.shape, generator=generator), torch.randn(q.shape, generator=generator)
    steepness = torch.tensor([0.5, 0.8, 2.0, 4.0])[:, None]
    gates = -steepness * torch.rand(2, NUM_HEADS, LENGTH, generator=generator) * 3.0
    leaves = [x.to(dtype).requires_grad_() for x in (q, k, v, gates)]
    inner = position(name)
    terms = WithGates(inner).terms(leaves[0], leaves[1], gates_BHS=leaves[3])
    mask = Mask(num_queries=LENGTH, num_keys=LENGTH, window=window, **masks(kind))
    return Call(terms=terms, v_BGSD=leaves[2], mask=mask, softmax_scale=0.25, factors=inner.factors), leaves, grad


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("name", ["nope", "wavelet-query-bias"])
@pytest.mark.parametrize(("dtype", "window"), [(torch.float32, None), (torch.bfloat16, None), (torch.float32, 600)])
def test_masked_keys_that_are_left_out_weigh_nothing(
    kind: str, name: str, dtype: torch.dtype, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile, "_CPU_SCORES", 1)  # one key/value head at a time, as in long calls
    computed: list[int] = []
    made = Band._tile

    def counted(band: Band, rows: slice) -> Any:
        found = made(band, rows)
        computed.append(found.layout.num_queries * found.layout.num_keys)
        return found

    def results() -> tuple[list[Tensor], int]:
        call, leaves, grad = gated_call(kind, name, dtype, window)
        computed.clear()
        out = run_backend("banded", call)
        return [out, *torch.autograd.grad(out, leaves, grad.to(dtype))], sum(computed)

    monkeypatch.setattr(Band, "_tile", counted)
    pruned, few = results()
    monkeypatch.setattr(tile, "first_keys_of_masked", lambda call, band: None)
    whole, per_heads = results()
    many = 5 * per_heads  # of 2 batch rows and 2 key/value heads, and the tiles that all would have
    if kind != "both":  # a hole at the start of a document: the last key kept is of another one
        assert few - per_heads < 0.8 * (many - per_heads), "nothing was left out"
    eps = torch.finfo(dtype).eps
    for ours, expected in zip(pruned, whole, strict=True):
        largest = float(expected.detach().abs().max())
        torch.testing.assert_close(ours, expected, rtol=0.0, atol=16.0 * eps * largest)  # scores of 50 round so


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("name", ["nope", "wavelet-query-bias"])
def test_within_the_yardstick(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile, "_CPU_SCORES", 1)
    given = {
        {"key_padding_BS": "key_padding_mask", "document_ids_BS": "document_ids"}[x]: y for x, y in masks(kind).items()
    }
    shape = Case(num_queries=LENGTH, num_keys=LENGTH, head_dim=HEAD_DIM)
    assert_within(WithGates(position(name)), shape, "banded", **given)


def test_a_query_whose_own_key_is_hidden_keeps_the_keys_before_it() -> None:
    """Its own key says nothing of what the others weigh: the last one seen may lie far behind."""
    q, k, v, _ = Case(batch=1, num_queries=LENGTH, num_keys=LENGTH, head_dim=HEAD_DIM).inputs()
    gates = Cable(NUM_HEADS).gates(torch.full((1, NUM_HEADS, LENGTH), 3.0))
    keep = torch.arange(LENGTH)[None] < 100
    keep[:, 300] = True  # padding on both sides of it goes by a mask
    arguments: dict[str, Any] = {"position": Cable(NUM_HEADS), "gates": gates, "key_padding_mask": keep}
    found = attention(q, k, v, backend="banded", **arguments)
    torch.testing.assert_close(found, attention(q, k, v, backend="reference", **arguments), rtol=1e-4, atol=1e-4)
    assert found[:, :, 100:].abs().amax() > 0.1


def test_a_nan_that_is_seen_is_not_left_out() -> None:
    q, k, v, _ = Case(batch=1, num_queries=LENGTH, num_keys=LENGTH, head_dim=HEAD_DIM).inputs()
    k[:, :, 3] = torch.nan
    gates = Cable(NUM_HEADS).gates(torch.full((1, NUM_HEADS, LENGTH), 3.0))
    ids = (torch.arange(LENGTH) // 3 % 2)[None]
    arguments: dict[str, Any] = {"position": Cable(NUM_HEADS), "gates": gates, "document_ids": ids}
    outs = [attention(q, k, v, backend=backend, **arguments).isnan() for backend in ("banded", "reference")]
    assert torch.equal(*outs)


def test_without_a_mask_or_with_gates_that_rise_nothing_is_looked_for() -> None:
    call, _, _ = gated_call("holes", "nope", torch.float32)
    from wavepos.ops.banded.prepare import prepared

    ready = prepared(call)
    assert gated.first_keys_of_masked(ready, Band.of(ready)) is not None
    rising = prepared(Call(terms=call.terms, v_BGSD=call.v_BGSD, mask=call.mask, softmax_scale=0.25))
    assert rising.sums_BHS is not None
    rising.sums_BHS[..., 90] = 1e3
    assert gated.first_keys_of_masked(rising, Band.of(rising)) is None
