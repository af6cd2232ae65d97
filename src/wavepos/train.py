"""Training on transformers' Trainer: a whole config in, a run directory out.

A run directory holds `model/` (safetensors, config and tokenizer), `checkpoints/`, `tensorboard/` and `run.json`
(config, versions, hardware, losses). The same call again resumes from the last complete checkpoint, or returns a
finished run.
"""

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.tensorboard import SummaryWriter
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments, set_seed
from transformers.integrations import TensorBoardCallback
from transformers.utils import logging

from wavepos.data import Blocks, PreparedData
from wavepos.models import BaevskiAuliForCausalLM, baevski_auli_config
from wavepos.models.baevski_auli import Size
from wavepos.positions import parse_position, position_dict
from wavepos.provenance import environment, write_json
from wavepos.training_callbacks import CompleteCheckpoints, Observer, StopOnSignal, complete_checkpoint

OptimizerName = Literal["adamw", "nag"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """All that a training run depends on.

    Attributes:
        size: a named size of the model.
        position: JSON object of the positional method.
        corpus, tokenizer, max_tokens: as `wavepos.data.prepare` takes them.
        seq_len: L_train, tokens a block.
        steps: updates.
        batch_tokens: tokens an update, over all devices.
        micro_batch_tokens: tokens of one forward pass on one device; None: all of a device's share.
        optimizer: "adamw" (β 0.9, 0.95), or "nag" (Nesterov momentum 0.99, fairseq's).
        learning_rate: the highest, reached after warmup_steps from warmup_from, then by a cosine down to
            final_learning_rate.
        weight_decay: of weight matrices; not of embeddings, norms, biases and positions.
        gradient_clip: bound on the gradient's norm.
        precision: "bf16" autocast, "fp32", or "auto": bf16 where the hardware multiplies it.
        seed: of the initial weights, the order of the data and dropout.
        save_every, log_every: in updates; a logged loss is the mean since the one before.
    """

    size: Size
    position: dict[str, Any]
    corpus: str
    tokenizer: str
    max_tokens: int | None = None
    seq_len: int
    steps: int
    batch_tokens: int
    micro_batch_tokens: int | None = None
    optimizer: OptimizerName = "adamw"
    learning_rate: float
    warmup_steps: int
    warmup_from: float = 0.0
    final_learning_rate: float = 0.0
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    precision: Precision = "auto"
    seed: int = 0
    save_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "position", position_dict(parse_position(self.position)))
        for name in ("seq_len", "steps", "batch_tokens", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, choices in (("optimizer", OptimizerName), ("precision", Precision), ("size", Size)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {getattr(self, name)!r}")
        if self.save_every % self.log_every:
            raise ValueError(
                f"save_every must be a multiple of log_every={self.log_every}, so that no logged mean is cut by a "
                f"restart, got {self.save_every}"
            )
        if not self.learning_rate > 0.0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.warmup_steps < 0 or self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps must lie between 0 and steps={self.steps}, got {self.warmup_steps}")

    def micro_batch(self, num_devices: int) -> tuple[int, int]:
        """Blocks of one forward pass, and forward passes an update, on each of that many devices."""
        share = self.micro_batch_tokens or self.batch_tokens // num_devices
        blocks, accumulation = share // self.seq_len, self.batch_tokens // (share * num_devices)
        if blocks < 1 or accumulation < 1 or blocks * accumulation * num_devices * self.seq_len != self.batch_tokens:
            raise ValueError(
                f"batch_tokens must be a multiple of devices × micro-batch, a micro-batch a multiple of seq_len: got "
                f"batch_tokens={self.batch_tokens}, {num_devices} devices, micro-batch {share}, seq_len={self.seq_len}"
            )
        return blocks, accumulation


def recipe(size: Size, *, corpus: str, position: str | dict[str, Any]) -> TrainConfig:
    """The config of a named size as it is meant to be trained; "paper" is the paper's (A.7).

    The paper's 9,216 tokens are those of one device pass; its 205 epochs give about 73,700 tokens an update.
    """
    run = partial(TrainConfig, size=size, corpus=corpus, position=position_dict(parse_position(position)))
    match size:
        case "tiny":
            return run(
                tokenizer="bpe:4096", seq_len=256, steps=1000, batch_tokens=4096, learning_rate=2e-3, warmup_steps=50
            )
        case "small":
            return run(
                tokenizer="bpe:8192",
                seq_len=512,
                steps=5000,
                batch_tokens=65536,
                learning_rate=1e-3,
                warmup_steps=250,
                final_learning_rate=1e-4,
                weight_decay=0.1,
                save_every=500,
            )
        case "paper":
            return run(
                tokenizer="words",
                seq_len=512,
                steps=286_000,
                batch_tokens=73_728,
                micro_batch_tokens=9_216,
                optimizer="nag",
                learning_rate=1.0,
                warmup_steps=16_000,
                warmup_from=1e-7,
                final_learning_rate=1e-4,
                gradient_clip=0.1,
                save_every=1_000,
                log_every=100,
            )
        case _:
            raise ValueError(f"size must be one of {', '.join(get_args(Size))}, got {size!r}")


def build_model(config: TrainConfig, vocab_size: int) -> PreTrainedModel:
    """The model of a run with its initial weights, which the seed alone decides."""
    set_seed(config.seed)
    return BaevskiAuliForCausalLM(baevski_auli_config(config.size, vocab_size, config.position))


def train(
    config: TrainConfig, out: Path, data: PreparedData, observe: Callable[[int, int, float | None], None] | None = None
) -> dict[str, Any]:
    """Train, or go on where a former call was cut off, or return the record of a finished run.

    Args:
        config: the run.
        out: the run directory.
        data: what `prepare(config.corpus, config.tokenizer)` gave.
        observe: called after each update with (update, updates, last logged loss or None).

    Returns:
        The content of run.json.

    Raises:
        ValueError: the directory holds a run with another config.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the state of the last finished update has been saved.
    """
    record = _opened_record(config, out)
    if record.get("status") == "finished":
        return record
    write_json(out / "run.json", record)
    checkpoints = CompleteCheckpoints(out / "checkpoints")
    stop = StopOnSignal()
    trainer = _trainer(config, out, data, [checkpoints, stop, Observer(observe)])
    trainer.train(resume_from_checkpoint=complete_checkpoint(out / "checkpoints"))
    if stop.requested:
        raise KeyboardInterrupt(f"stopped after update {trainer.state.global_step} of {config.steps}, state saved")
    _save_model(trainer.model, data, out / "model")
    losses = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    record |= {
        "status": "finished",
        "environment": environment(),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "train_tokens": config.steps * config.batch_tokens,
        "train_seconds": round(checkpoints.seconds, 1),
        "losses": losses,
    }
    write_json(out / "run.json", record)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return record


def optimizer_and_schedule(config: TrainConfig, model: nn.Module) -> tuple[Optimizer, LambdaLR]:
    """The optimizer with its learning-rate schedule.

    fairseq's NAG is torch's SGD with Nesterov momentum: its buffer is −lr times torch's, rescaled when lr changes.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.dim() >= 2 and not name.startswith(("embedding.bands", "positions."))
        (decayed if is_matrix else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    match config.optimizer:
        case "adamw":
            optimizer: Optimizer = AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
        case "nag":
            optimizer = SGD(groups, lr=config.learning_rate, momentum=0.99, nesterov=True)
    return optimizer, LambdaLR(optimizer, lambda update: learning_rate(config, update) / config.learning_rate)


def learning_rate(config: TrainConfig, update: int) -> float:
    """The learning rate of an update (0-based): linear warm-up, then a cosine to final_learning_rate."""
    if update < config.warmup_steps:
        share = update / config.warmup_steps
        return config.warmup_from + share * (config.learning_rate - config.warmup_from)
    share = (update - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))
    return config.final_learning_rate + cosine * (config.learning_rate - config.final_learning_rate)


def uses_bf16(precision: Precision) -> bool:
    """Whether matrix products run in bfloat16: asked for, or "auto" on hardware that multiplies it."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class LanguageModelTrainer(Trainer):  # type: ignore[misc] # transformers is untyped here
    """Trainer whose model scores `shift_labels` itself."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def _trainer(config: TrainConfig, out: Path, data: PreparedData, callbacks: list[Any]) -> Trainer:
    num_devices = int(os.environ.get("WORLD_SIZE", "1"))
    blocks, accumulation = config.micro_batch(num_devices)
    dataset = Blocks(data.train, config.seq_len)
    model = build_model(config, len(data.tokenizer))
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=config.steps,
        per_device_train_batch_size=blocks,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=config.gradient_clip,
        bf16=uses_bf16(config.precision),
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        data_seed=config.seed,
        save_steps=config.save_every,
        save_total_limit=2,
        logging_steps=config.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
    )
    logging.disable_progress_bar()
    trainer = LanguageModelTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        optimizers=optimizer_and_schedule(config, model),
        callbacks=[*callbacks, TensorBoardCallback(SummaryWriter(str(out / "tensorboard")))],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _opened_record(config: TrainConfig, out: Path) -> dict[str, Any]:
    """run.json of the directory, or the beginning of one."""
    ours = dataclasses.asdict(config)
    path = out / "run.json"
    if not path.exists():
        return {"status": "started", "config": ours}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    ours = json.loads(json.dumps(ours))
    for key in sorted({*ours, *record["config"]}):
        there, here = record["config"].get(key), ours.get(key)
        if there != here:
            raise ValueError(
                f"{out} holds a run with another config ({key}: {there!r} there, {here!r} here): "
                f"choose another directory or delete it"
            )
    return record


def _save_model(model: Any, data: PreparedData, directory: Path) -> None:
    temporary = directory.with_name(f".{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    data.tokenizer.save_pretrained(temporary)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)
