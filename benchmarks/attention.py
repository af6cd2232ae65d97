"""Time and memory of one attention call, forward and with the backward, of every peer beside RoPE + SDPA."""

import dataclasses
import gc
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Call, check_time, comparison, device_kind, interleaved, peak_bytes
from benchmarks.parity import check_peer
from benchmarks.peers import BASELINE, PASSES, PEERS, Built, Case, Pass, Peer, find_peer
from benchmarks.record import Cell, Record, one_round
from wavepos.console import Update, first_line

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KEYS = ("peer", "seq_len", "dtype", "pass")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig:
    """What is measured."""

    device: str
    """cpu, or cuda."""
    lengths: tuple[int, ...]
    """L, tokens."""
    dtypes: tuple[str, ...] = ("fp32", "bf16")
    """Of fp32, bf16, fp16."""
    peers: tuple[str, ...] = tuple(peer.name for peer in PEERS if peer.name not in ("bare", "t5", "rope-cudnn"))
    """Methods by their names in benchmarks/peers; wavelet@banded names the backend too."""
    num_heads: int = 2
    """H, query heads."""
    head_dim: int = 128
    """D, size of a head."""
    batch: int = 1
    """Sequences per call."""
    repeats: int = 9
    """Pairs of interleaved runs of each measurement, at most."""
    seconds: float = 2.0
    """Time after which a measurement begins no more pairs, once it has three."""
    max_gib: float = 1.0
    """A peer is left out where what it holds as L² would be more."""

    def __post_init__(self) -> None:
        check_time("seconds", self.seconds)
        check_time("max_gib", self.max_gib)
        for name in self.dtypes:
            if name not in DTYPES:
                raise ValueError(f"dtypes takes {', '.join(DTYPES)}, got {name!r}")
        for name in ("num_heads", "head_dim", "batch", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"lengths must be positive, got {self.lengths}")
        object.__setattr__(self, "peers", tuple(find_peer(peer).name for peer in self.peers))

    def case(self, seq_len: int, dtype: str) -> Case:
        return Case(
            batch=self.batch,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            seq_len=seq_len,
            dtype=DTYPES[dtype],
            device=self.device,
        )


def attention_config(device: str) -> AttentionConfig:
    """What fits the device: some minutes on two CPU cores, or on a data-centre GPU."""
    if device_kind(device) == "cuda":
        lengths = tuple(1024 * 2**i for i in range(7))
        everything = tuple(peer.name for peer in PEERS)
        return AttentionConfig(device=device, lengths=lengths, peers=everything, num_heads=16, repeats=30, max_gib=40.0)
    return AttentionConfig(device=device, lengths=(1024, 2048, 4096, 8192))


def bench_attention(config: AttentionConfig, path: Path, resume: bool, update: Update) -> dict[str, Any]:
    """Check every peer, then measure every cell; the result is what the file holds.

    Raises:
        ParityError: a peer that does not compute what it says; then nothing is measured and no file is written.
    """
    varying = ("lengths", "dtypes", "peers")
    record = Record(path, "attention", dataclasses.asdict(config), KEYS, varying, resume)
    peers = _checked(config, record, update)
    cells: list[Cell] = [
        {"peer": peer.name, "title": peer.title, "formula": peer.formula, "seq_len": n, "dtype": dtype, "pass": kind}
        for n in config.lengths
        for dtype, serving in peers.items()
        for peer in serving
        for kind in PASSES
    ]
    return record.measure(cells, partial(_visit, one_round(config)), update)


def _checked(config: AttentionConfig, record: Record, update: Update) -> dict[str, list[Peer]]:
    """For each dtype the peers that can be measured, all of them checked; the others are noted with their reason."""
    serving: dict[str, list[Peer]] = {}
    for dtype in config.dtypes:
        case = config.case(max(config.lengths), dtype)
        serving[dtype] = []
        for peer in map(find_peer, config.peers):
            update(0, None, f"checking {peer.name} {dtype}")
            reason = peer.missing() or peer.refusal(case, "forward")
            errors: list[dict[str, Any]] = []
            if reason is None:
                try:
                    errors = check_peer(peer, case)
                except RuntimeError as error:
                    if not peer.compiled:
                        raise
                    reason = f"{type(error).__name__}: {first_line(error)}"
            if reason is not None:
                record.note("left_out", {"peer": peer.name, "dtype": dtype, "reason": reason})
                continue
            record.note("parity", {"peer": peer.name, "dtype": dtype, "errors": errors})
            serving[dtype].append(peer)
    return serving


def _visit(config: AttentionConfig, cell: Cell, earlier: Cell) -> Cell:
    """What is measured of a cell in a round, or why it is skipped."""
    peer, case, kind = find_peer(cell["peer"]), config.case(cell["seq_len"], cell["dtype"]), cell["pass"]
    reason = peer.refusal(case, kind)
    held = peer.quadratic_bytes(case, kind)
    if reason is None and held > config.max_gib * 2**30:
        reason = f"would hold about {held / 2**30:.1f} GiB that grow as L², the bound is {config.max_gib:g} GiB"
    if reason is not None:
        return {"skipped": reason}
    try:
        return _measured(config, peer, case, kind, earlier)
    except torch.OutOfMemoryError:
        return {"skipped": "out of memory"}
    finally:
        gc.collect()


def _measured(config: AttentionConfig, peer: Peer, case: Case, kind: Pass, earlier: Cell) -> Cell:
    built, beside = peer.build(case), BASELINE.build(case)
    inputs = case.inputs()
    ours, baseline = call(built, inputs, kind), call(beside, inputs, kind)
    times = interleaved(baseline, ours, case.device, config.repeats, config.seconds)
    peaks = [peak_bytes(each, case.device) + _bytes(one.state) for each, one in ((baseline, beside), (ours, built))]
    return {
        **comparison(earlier, *times),
        "peak_bytes": peaks[1],
        "baseline_peak_bytes": peaks[0],
        "input_bytes": _bytes(inputs[: 3 if kind == "forward" else 4]),
    }


def call(built: Built, inputs: tuple[Tensor, ...], kind: Pass) -> Call:
    """One run of a peer: as in inference, or with the gradients that a training step asks for."""
    q, k, v, grad = inputs
    if kind == "forward":

        def forward() -> None:
            with torch.no_grad():
                built.run(q, k, v)

        return forward
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]

    def both() -> None:
        torch.autograd.grad(built.run(*leaves), (*leaves, *built.learned), grad)

    return both


def _bytes(tensors: tuple[Tensor, ...]) -> int:
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return sum(storages.values())
