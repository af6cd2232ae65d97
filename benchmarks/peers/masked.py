"""Calls that are not causal attention over all keys: a window, documents, padding, both directions; each beside SDPA's.

Their time, like that of all peers, is given over causal RoPE + SDPA of the same length.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from benchmarks.peers.peer import Built, Case, Peer
from benchmarks.peers.rope import THETA, cos_sin, rotate
from wavepos import Rotary, Wavelet, attention
from wavepos.positions import Position

WINDOW = 1024
"""Tokens, and a quarter of shorter sequences."""
DOCUMENTS = 8

Arguments = Callable[[Case], dict[str, Any]]


def window(case: Case) -> dict[str, Any]:
    return {"window": min(WINDOW, max(1, case.seq_len // 4))}


def packed(case: Case) -> dict[str, Any]:
    at = torch.arange(case.seq_len, device=case.device)
    return {"document_ids": (at * DOCUMENTS // case.seq_len).expand(case.batch, -1)}


def padded(case: Case) -> dict[str, Any]:
    """The first quarter of every row is padding, as in a batch of prompts of unequal length."""
    real = torch.arange(case.seq_len, device=case.device) >= case.seq_len // 4
    return {"key_padding_mask": real.expand(case.batch, -1)}


def both_ways(_: Case) -> dict[str, Any]:
    return {"causal": False}


def ours(make: Callable[[Case], Position], arguments: Arguments) -> Callable[[Case], Built]:
    """Builds a position of ours with further arguments of `attention`."""

    def build(case: Case) -> Built:
        position, given = make(case).to(case.device), arguments(case)

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(q, k, v, position=position, **given)

        return Built(run=run, position=position, arguments=given)

    return build


def rope_packed(case: Case) -> Built:
    """RoPE + SDPA, called for one document after the other; angles go on, which changes no score."""
    cos, sin = cos_sin(case.seq_len, case.head_dim, case.dtype, case.device)
    given = packed(case)
    lengths = given["document_ids"][0].bincount().tolist()

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        split = (torch.split(x, lengths, 2) for x in (rotate(q, cos, sin), rotate(k, cos, sin), v))
        return torch.cat(
            [scaled_dot_product_attention(a, b, c, is_causal=True) for a, b, c in zip(*split, strict=True)], 2
        )

    return Built(run=run, position=Rotary(case.head_dim, theta=THETA), state=(cos, sin), arguments=given)


def rope_padded(case: Case) -> Built:
    """RoPE + SDPA, called without the padding; queries there give zero, as ours do."""
    cos, sin = cos_sin(case.seq_len, case.head_dim, case.dtype, case.device)
    given = padded(case)
    start = int((~given["key_padding_mask"][0]).sum())

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x[:, :, start:] for x in (rotate(q, cos, sin), rotate(k, cos, sin), v))
        return pad(scaled_dot_product_attention(q, k, v, is_causal=True), (0, 0, start, 0))

    return Built(run=run, position=Rotary(case.head_dim, theta=THETA), state=(cos, sin), arguments=given)


def rope_both_ways(case: Case) -> Built:
    cos, sin = cos_sin(case.seq_len, case.head_dim, case.dtype, case.device)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)

    position = Rotary(case.head_dim, theta=THETA)
    return Built(run=run, position=position, state=(cos, sin), arguments=both_ways(case))


def _wavelet(case: Case) -> Position:
    return Wavelet(case.head_dim)


def _rotary(case: Case) -> Position:
    return Rotary(case.head_dim, theta=THETA)


_ROPE, _WAVELET = "rotate(q)·rotate(k)", "q·k + q·ψ(δ)"
PEERS = (
    Peer(
        name="wavelet-window",
        title=f"wavepos: Wavelet, window {WINDOW:,}",
        formula=f"{_WAVELET}, δ < W",
        build=ours(_wavelet, window),
    ),
    Peer(
        name="rope-window",
        title=f"wavepos: Rotary, window {WINDOW:,}",
        formula=f"{_ROPE}, δ < W",
        build=ours(_rotary, window),
    ),
    Peer(
        name="wavelet-packed",
        title=f"wavepos: Wavelet, {DOCUMENTS} documents",
        formula=f"{_WAVELET}, one document",
        build=ours(_wavelet, packed),
    ),
    Peer(
        name="rope-packed",
        title=f"RoPE + SDPA per document, {DOCUMENTS}",
        formula=f"{_ROPE}, one document",
        build=rope_packed,
    ),
    Peer(
        name="wavelet-padded",
        title="wavepos: Wavelet, a quarter padding",
        formula=_WAVELET,
        build=ours(_wavelet, padded),
    ),
    Peer(
        name="rope-padded",
        title="RoPE + SDPA without the padding",
        formula=_ROPE,
        build=rope_padded,
    ),
    Peer(
        name="wavelet-both-ways",
        title="wavepos: Wavelet, both directions",
        formula=f"{_WAVELET}, any δ",
        build=ours(_wavelet, both_ways),
    ),
    Peer(
        name="rope-both-ways",
        title="RoPE + SDPA, both directions",
        formula=f"{_ROPE}, any δ",
        build=rope_both_ways,
    ),
)
