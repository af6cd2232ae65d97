"""Time of a token in generation: one query against a cache of keys, batch 1 by default, beside RoPE + SDPA."""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.attention import DTYPES
from benchmarks.measure import check_time, comparison, device_kind, interleaved
from benchmarks.parity import judge
from benchmarks.peers.peer import Case, is_called
from benchmarks.peers.rope import cos_sin, rotate
from benchmarks.record import Cell, Record, one_round
from wavepos import ALiBi, NoPE, Rotary, Wavelet, attention
from wavepos.console import Update
from wavepos.positions import Position
from wavepos.positions.alibi import alibi_slopes
from wavepos.testing import Error

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
PARITY_LENGTH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A way to generate: made from the keys and values [B,H,S−1,D] before, it takes the newest q, k, v [B,H,1,D]."""

    name: str
    title: str
    build: Callable[[Case, Tensor, Tensor], Step]
    position: Callable[[Case], Position]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeConfig:
    """What is measured."""

    device: str
    """cpu, or cuda."""
    lengths: tuple[int, ...] = (1024, 8192, 32768)
    """Keys in the cache, the newest included."""
    dtypes: tuple[str, ...] = ("fp32", "bf16")
    """Of fp32, bf16, fp16."""
    peers: tuple[str, ...] = ("rope", "nope", "wavelet", "alibi", "alibi-mask")
    """Ways to decode, by name."""
    num_heads: int = 8
    """H, query heads."""
    head_dim: int = 128
    """D, size of a head."""
    batch: int = 1
    """Sequences per call."""
    repeats: int = 30
    """Pairs of interleaved runs of each measurement, at most."""
    seconds: float = 1.5
    """Time after which a measurement begins no more pairs, once it has three."""

    def __post_init__(self) -> None:
        check_time("seconds", self.seconds)
        check_cached(self.lengths, self.dtypes)
        object.__setattr__(self, "peers", tuple(find_decoder(name).name for name in self.peers))

    def case(self, seq_len: int, dtype: str) -> Case:
        return Case(
            batch=self.batch,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            seq_len=seq_len,
            dtype=DTYPES[dtype],
            device=self.device,
        )


def check_cached(lengths: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
    """Raise ValueError unless every cache has room for a key before the newest, in a precision that we know."""
    if not lengths or min(lengths) < 2:
        raise ValueError(f"lengths must be at least 2, got {lengths}")
    for name in dtypes:
        if name not in DTYPES:
            raise ValueError(f"dtypes takes {', '.join(DTYPES)}, got {name!r}")


def decode_config(device: str) -> DecodeConfig:
    """What fits the device."""
    return DecodeConfig(device=device, num_heads=32 if device_kind(device) == "cuda" else 8)


def bench_decode(config: DecodeConfig, path: Path, resume: bool, update: Update) -> dict[str, Any]:
    """Check every decoder, then measure every cell.

    Raises:
        ParityError: a decoder that does not compute what it says; then no file is written.
    """
    varying = ("lengths", "dtypes", "peers")
    keys = ("peer", "seq_len", "dtype")
    record = Record(path, "decode", dataclasses.asdict(config), keys, varying, resume)
    decoders = [find_decoder(name) for name in config.peers]
    for dtype in config.dtypes:
        for decoder in decoders:
            update(0, None, f"checking {decoder.name} {dtype}")
            errors = check_decoder(decoder, config.case(min(PARITY_LENGTH, max(config.lengths)), dtype))
            record.note("parity", {"peer": decoder.name, "dtype": dtype, "errors": errors})
    cells: list[Cell] = [
        {"peer": decoder.name, "title": decoder.title, "seq_len": seq_len, "dtype": dtype, "pass": "a token"}
        for seq_len, dtype, decoder in product(config.lengths, config.dtypes, decoders)
    ]
    return record.measure(cells, partial(_measured, one_round(config)), update)


def check_decoder(decoder: Decoder, case: Case) -> list[dict[str, Any]]:
    """Errors of one token, as records.

    Raises:
        ParityError: an error beyond its bound.
    """
    q, k, v = _token_and_cache(case)
    position = decoder.position(case)
    exact = copy.deepcopy(position).double().to(case.device)
    offset = {"query_offset": case.seq_len - 1, "backend": "reference"}
    with torch.no_grad():
        truth = attention(q.double(), k.double(), v.double(), position=exact, **offset)  # type: ignore[arg-type]
        dense = attention(q, k, v, position=position.to(case.device), **offset)  # type: ignore[arg-type]
        found = _step(decoder, case, q, k, v)()
    errors = ((x.double() - truth).abs().max() for x in (found, dense))
    error, beside = (float(x) for x in errors)
    magnitude, eps = float(truth.abs().max()), torch.finfo(case.dtype).eps
    return judge(decoder.name, [Error(tensor="out", error=error, dense=beside, magnitude=magnitude, eps=eps)])


def _measured(config: DecodeConfig, cell: Cell, earlier: Cell) -> Cell:
    decoder, case = find_decoder(cell["peer"]), config.case(cell["seq_len"], cell["dtype"])
    q, k, v = _token_and_cache(case)
    ours, baseline = _step(decoder, case, q, k, v), _step(ROPE, case, q, k, v)
    with torch.no_grad():
        return comparison(earlier, *interleaved(baseline, ours, case.device, config.repeats, config.seconds))


def _token_and_cache(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """The newest query [B,H,1,D], and all keys and values."""
    q, k, v, _ = case.inputs()
    return q[:, :, -1:].contiguous(), k, v


def _step(decoder: Decoder, case: Case, q: Tensor, k: Tensor, v: Tensor) -> Callable[[], Tensor]:
    step = decoder.build(case, k[:, :, :-1], v[:, :, :-1])
    newest_k, newest_v = k[:, :, -1:].contiguous(), v[:, :, -1:].contiguous()
    return lambda: step(q, newest_k, newest_v)


def _cache(before: Tensor) -> Tensor:
    """A static cache with room for the newest."""
    return torch.nn.functional.pad(before, (0, 0, 0, 1))


def _rope(case: Case, k: Tensor, v: Tensor) -> Step:
    """Keys are kept rotated: only the newest query and key are rotated."""
    cos, sin = cos_sin(case.seq_len, case.head_dim, case.dtype, case.device)
    keys, values = _cache(rotate(k, cos[:-1], sin[:-1])), _cache(v)
    cos, sin = cos[-1:], sin[-1:]

    def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys[:, :, -1:], values[:, :, -1:] = rotate(k, cos, sin), v
        return scaled_dot_product_attention(rotate(q, cos, sin), keys, values)

    return step


def _nope(case: Case, k: Tensor, v: Tensor) -> Step:
    keys, values = _cache(k), _cache(v)

    def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys[:, :, -1:], values[:, :, -1:] = k, v
        return scaled_dot_product_attention(q, keys, values)

    return step


def _alibi_mask(case: Case, k: Tensor, v: Tensor) -> Step:
    keys, values = _cache(k), _cache(v)
    slopes = torch.tensor(alibi_slopes(case.num_heads), device=case.device)[:, None, None]
    bias = (-slopes * torch.arange(case.seq_len - 1, -1, -1, device=case.device)).to(case.dtype)[None]

    def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys[:, :, -1:], values[:, :, -1:] = k, v
        return scaled_dot_product_attention(q, keys, values, attn_mask=bias)

    return step


def _ours(make: Callable[[Case], Position]) -> Callable[[Case, Tensor, Tensor], Step]:
    def build(case: Case, k: Tensor, v: Tensor) -> Step:
        keys, values = _cache(k), _cache(v)
        position = make(case).to(case.device)

        def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys[:, :, -1:], values[:, :, -1:] = k, v
            return attention(q, keys, values, position=position, query_offset=case.seq_len - 1)

        return step

    return build


def _wavelet(case: Case) -> Position:
    return Wavelet(case.head_dim)


def _alibi(case: Case) -> Position:
    return ALiBi(case.num_heads)


ROPE = Decoder(
    name="rope", title="RoPE + SDPA, rotated cache", build=_rope, position=lambda case: Rotary(case.head_dim)
)
DECODERS = (
    ROPE,
    Decoder(name="nope", title="NoPE + SDPA", build=_nope, position=lambda _: NoPE()),
    Decoder(name="wavelet", title="wavepos: Wavelet", build=_ours(_wavelet), position=_wavelet),
    Decoder(name="alibi", title="wavepos: ALiBi", build=_ours(_alibi), position=_alibi),
    Decoder(name="alibi-mask", title="ALiBi in SDPA's mask", build=_alibi_mask, position=_alibi),
)


def find_decoder(name: str) -> Decoder:
    """The decoder of a name.

    Raises:
        ValueError: an unknown name.
    """
    for decoder in DECODERS:
        if is_called(name, decoder.name):
            return decoder
    raise ValueError(f"peers of decode takes {', '.join(d.name for d in DECODERS)}, got {name!r}")
