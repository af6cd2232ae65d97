"""Time and memory of a training step (forward, backward, AdamW) of the Baevski–Auli model, beside rotary."""

import copy
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.measure import check_time, comparison, device_kind, interleaved, peak_bytes
from benchmarks.parity import judge
from benchmarks.record import Cell, Record, measure_models, method_names, one_round
from wavepos.console import Update
from wavepos.models import BaevskiAuliForCausalLM, baevski_auli_config
from wavepos.models.baevski_auli import Size
from wavepos.names import METHODS
from wavepos.positions import LearnedRelativeConfig
from wavepos.testing import Error

PRECISIONS = ("fp32", "bf16")
PARITY_TOKENS = 128
BASELINE = "rotary"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStepConfig:
    """What is measured."""

    device: str
    """cpu, or cuda."""
    lengths: tuple[int, ...] = (512, 2048)
    """Tokens per block."""
    dtypes: tuple[str, ...] = ("fp32",)
    """fp32, or bf16 by autocast."""
    peers: tuple[str, ...] = ("rotary", "nope", "alibi", "transformer_xl", "wavelet")
    """Positional methods."""
    sizes: tuple[Size, ...] = ("tiny",)
    """Named sizes of the model."""
    batch_tokens: int = 2048
    """Tokens per step, at least one block."""
    vocab_size: int = 2048
    """V."""
    repeats: int = 9
    """Pairs of interleaved runs of each measurement, at most."""
    seconds: float = 4.0
    """Time after which a measurement begins no more pairs, once it has three."""

    def __post_init__(self) -> None:
        check_time("seconds", self.seconds)
        if self.batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {self.batch_tokens}")
        if not self.lengths or min(self.lengths) < 2:
            raise ValueError(f"lengths must be at least 2, got {self.lengths}")
        for name in self.dtypes:
            if name not in PRECISIONS:
                raise ValueError(f"dtypes of train-step takes {', '.join(PRECISIONS)}, got {name!r}")
        known = [method for method in METHODS if method != LearnedRelativeConfig.method]  # the model projects no states
        object.__setattr__(self, "peers", method_names(self.peers, "train-step", known))
        for size in self.sizes:
            if size not in get_args(Size):
                raise ValueError(f"sizes takes {', '.join(get_args(Size))}, got {size!r}")


def train_step_config(device: str) -> TrainStepConfig:
    """What fits the device."""
    if device_kind(device) == "cuda":
        return TrainStepConfig(
            device=device,
            lengths=(512, 2048, 8192),
            dtypes=("bf16",),
            sizes=("tiny", "small"),
            batch_tokens=32768,
            vocab_size=8192,
            repeats=20,
        )
    return TrainStepConfig(device=device)


def bench_train_step(config: TrainStepConfig, path: Path, resume: bool, update: Update) -> dict[str, Any]:
    """Check every method, then measure every cell.

    Raises:
        ParityError: a loss that differs from that of the reference attention; then no file is written.
    """
    keys = ("peer", "size", "seq_len", "dtype")
    varying = ("lengths", "dtypes", "peers", "sizes")
    record = Record(path, "train-step", dataclasses.asdict(config), keys, varying, resume)
    return measure_models(
        config, record, partial(check_method, config), partial(_measured, one_round(config)), "a step", update
    )


def check_method(config: TrainStepConfig, method: str, dtype: str) -> list[dict[str, Any]]:
    """Errors of the losses of a tiny model beside the same model on the reference attention, in float64.

    Raises:
        ParityError: an error beyond its bound.
    """
    model = _model(config, method, "tiny").eval()
    ids = _ids(config, 1, PARITY_TOKENS)
    with torch.no_grad():
        with _precision(config, dtype):
            found = model.token_losses(ids[:, :-1], ids[:, 1:])
        model.set_attn_implementation("eager")
        truth = copy.deepcopy(model).double().token_losses(ids[:, :-1], ids[:, 1:])
        with _precision(config, dtype):
            dense = model.token_losses(ids[:, :-1], ids[:, 1:])
    error, beside = (float((x.double() - truth).abs().max()) for x in (found, dense))
    eps = torch.finfo(torch.bfloat16 if dtype == "bf16" else torch.float32).eps
    magnitude = float(truth.abs().max())
    return judge(method, [Error(tensor="losses", error=error, dense=beside, magnitude=magnitude, eps=eps)])


def _measured(config: TrainStepConfig, cell: Cell, earlier: Cell) -> Cell:
    blocks = max(1, config.batch_tokens // cell["seq_len"])
    ids = _ids(config, blocks, cell["seq_len"])
    steps = [_step(config, name, cell, ids) for name in (BASELINE, cell["peer"])]
    times = comparison(earlier, *interleaved(steps[0], steps[1], config.device, config.repeats, config.seconds))
    tokens = ids.numel()
    return {
        **times,
        "tokens": tokens,
        "tokens_per_second": round(1000.0 * tokens / times["milliseconds"]["median"], 1),
        "peak_bytes": peak_bytes(steps[1], config.device),
        "baseline_peak_bytes": peak_bytes(steps[0], config.device),
    }


def _step(config: TrainStepConfig, method: str, cell: dict[str, Any], ids: Tensor) -> Callable[[], None]:
    """A training step as a loop of one's own writes it."""
    model = _model(config, method, cell["size"]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        with _precision(config, cell["dtype"]):
            loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _model(config: TrainStepConfig, method: str, size: Size) -> BaevskiAuliForCausalLM:
    torch.manual_seed(0)
    model = BaevskiAuliForCausalLM(baevski_auli_config(size, config.vocab_size, method))
    model.to(config.device)
    return model


def _ids(config: TrainStepConfig, blocks: int, seq_len: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (blocks, seq_len), generator=generator).to(config.device)


def _precision(config: TrainStepConfig, dtype: str) -> AbstractContextManager[object]:
    if dtype == "fp32":
        return nullcontext()
    return torch.autocast(device_kind(config.device), torch.bfloat16)
