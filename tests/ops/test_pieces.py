"""Near and far part together hold every pair of query and key that is seen, once, and no other."""

import importlib
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from wavepos.ops.banded.band import Band, Tile
from wavepos.ops.banded.operator import _call
from wavepos.ops.banded.pieces import Piece, at_least, at_most, stripe


def counted(pieces: Iterable[Piece], num_queries: int, num_keys: int) -> Tensor:
    """How often each pair is in a piece."""
    count = torch.zeros(num_queries, num_keys, dtype=torch.int64)
    for piece in pieces:
        part = count[piece.rows, piece.keys]
        assert part.numel() > 0
        assert part.shape == (piece.rows.stop - piece.rows.start, piece.keys.stop - piece.keys.start)
        assert piece.shape == "whole" or part.shape[0] == part.shape[1]
        ones = torch.ones_like(part)
        part += {"whole": ones, "lower": ones.tril(), "upper": ones.triu()}[piece.shape]
    return count


@settings(max_examples=200, deadline=None)
@given(
    num_queries=st.integers(1, 40), num_keys=st.integers(1, 40), shift=st.integers(-45, 45), width=st.integers(1, 30)
)
def test_pieces_are_half_planes_and_stripes(num_queries: int, num_keys: int, shift: int, width: int) -> None:
    rows, keys = slice(0, num_queries), slice(0, num_keys)
    distance = torch.arange(num_keys) - torch.arange(num_queries)[:, None]
    for found, expected in (
        (at_most(rows, keys, shift), distance <= shift),
        (at_least(rows, keys, shift), distance >= shift),
        (stripe(rows, keys, shift, shift + width - 1), (distance >= shift) & (distance < shift + width)),
    ):
        assert torch.equal(counted(found, num_queries, num_keys), expected.long())


def visible(tile: Tile) -> Tensor:
    """Which keys of a tile its queries see, as the triangles of its layout leave them."""
    column = torch.arange(tile.layout.num_keys) - torch.arange(tile.layout.num_queries)[:, None]
    return (column > tile.layout.beyond) & (column < tile.layout.ahead)


@pytest.mark.parametrize("least", [1, 10**6])
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.tuples(st.integers(1, 120), st.integers(1, 120), st.integers(0, 120)),
    causal=st.booleans(),
    window=st.one_of(st.none(), st.integers(1, 130)),
    table=st.one_of(st.none(), st.tuples(st.integers(0, 60), st.integers(0, 60))),
    tile=st.sampled_from([8, 64]),
)
def test_near_and_far_part_hold_every_pair_once(
    monkeypatch: pytest.MonkeyPatch, least: int, sizes: Any, causal: bool, window: int | None, table: Any, tile: int
) -> None:
    monkeypatch.setattr(importlib.import_module("wavepos.ops.banded.band"), "STRIPE", least)
    num_queries, num_keys, offset = sizes
    if causal:
        num_keys = min(num_keys, offset + num_queries)
    before, behind = (0, 0) if table is None else table
    before = 0 if causal else before
    q, k = torch.zeros(1, 1, num_queries, 2), torch.zeros(1, 1, num_keys, 2)
    values = None if table is None else torch.zeros(1, before + behind + 1, 2)
    scales = (1.0, 1.0)
    band = Band.of(_call((q, k, k, q, values, None, None, None), offset, causal, window, -before, scales))
    count = counted(band.far(), num_queries, num_keys)
    for one in band.tiles(tile) if band.has_near else ():
        near = visible(one).long()
        count[one.rows, one.keys] += near
        layout = one.layout
        entries = torch.arange(layout.table_length) + torch.arange(layout.num_queries)[:, None] + layout.first_column
        assert layout.table_length == 0 or (entries.min() >= 0 and entries.max() < layout.pitch)
    distance = offset + torch.arange(num_queries)[:, None] - torch.arange(num_keys)
    expected = (distance >= 0) | (not causal)
    if window is not None:
        expected &= distance.abs() < window
    assert torch.equal(count, expected.long())
    has_entry = expected & (distance >= -before) & (distance <= behind) & (table is not None)
    assert not (has_entry & (counted(band.far(), num_queries, num_keys) > 0)).any()
