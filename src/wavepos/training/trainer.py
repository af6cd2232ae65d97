"""Training on transformers' Trainer: a whole config in, a run directory out.

A run directory holds `model/` (safetensors, config and tokenizer), `checkpoints/`, `tensorboard/` and `run.json`
(config, versions, hardware, losses). The same call again resumes from the last complete checkpoint, or returns a
finished run. Under `torchrun` all processes make the same call; the directory must lie where all of them see it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import RandomSampler, Sampler
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback
from transformers.utils import logging

from wavepos.console import Update, is_first_process
from wavepos.data import TrainingData
from wavepos.runs import CHECKPOINTS, RECORD, TENSORBOARD, opened_record
from wavepos.storage import write_record
from wavepos.training.arguments import trackers_named, training_arguments
from wavepos.training.build import build_model
from wavepos.training.callbacks import (
    Begin,
    CompleteCheckpoints,
    RunningLoss,
    Speed,
    StopOnSignal,
    TellProgress,
    Validation,
)
from wavepos.training.checkpoints import checkpoint_step, whole_checkpoint
from wavepos.training.config import RUN, VALIDATION_TOKENS, TrainConfig, learning_rate, uses_bf16
from wavepos.training.divergence import INDEX, Divergence, Numbered
from wavepos.training.failures import explained
from wavepos.training.finish import finish
from wavepos.training.lora import check_peft, load_learned, save_learned
from wavepos.training.processes import in_first

LOCK = ".training.lock"
NOT_DECAYED = ("embedding.bands.", "embed_tokens.", "embed_in.", "positions.", ".position.")
"""Parts of the names of embeddings and positions in our models."""


def train(
    config: TrainConfig,
    out: Path,
    data: TrainingData,
    update: Update | None = None,
    report_to: Sequence[str] = (),
    *,
    imports: Sequence[str] = (),
    weights: Path | None = None,
) -> dict[str, Any]:
    """Train, or go on where a former call was cut off, or return the record of a finished run.

    Args:
        config: the run.
        out: the run directory.
        data: what `prepare_training(config.corpus, config.tokenizer)` gave.
        update: told in the first process of each update, with the last logged loss and speed.
        report_to: trackers that Trainer knows ("wandb", "trackio", …) and that get what TensorBoard gets, the run under
            the directory's name.
        imports: modules, or files, that register what the config needs: recorded, and named where they are missing.
        weights: where the model lies that config.start_from names as a run.

    Returns:
        The content of run.json.

    Raises:
        ValueError: the directory holds a run with another config or on other data, or damaged checkpoints alone; the
            corpus or the devices do not fit the config; a run to begin with, and no weights; a tracker that Trainer
            does not know; another process at work in the directory.
        ImportError: a tracker's package is missing.
        FloatingPointError: a loss, or weights that were to be saved, are not finite.
        MemoryError: it ran out of memory.
        OSError: no space is left.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the state of the last finished update has been saved.
    """
    if weights is None and (config.start_from or "").startswith(RUN):
        raise ValueError(f"start_from={config.start_from!r} names a run of a study: only a study can train it")
    if config.lora is not None:
        check_peft()
    trackers = trackers_named(report_to)
    arguments = training_arguments(config, out)  # joins the processes
    record = in_first(lambda: opened_record(config, out, data, imports))
    if record["status"] == "finished":
        return record
    with _alone(out):
        record = in_first(lambda: opened_record(config, out, data, imports))
        if record["status"] == "finished":
            return record
        checkpoint = in_first(lambda: whole_checkpoint(out / CHECKPOINTS))
        done = 0 if checkpoint is None else checkpoint_step(checkpoint)
        begin = Begin(lambda: _note(out / RECORD, record), done)
        with explained(config, out, arguments.world_size, checkpoint, lambda: begin.reading):
            if checkpoint is None or done < config.steps:
                callbacks = [*trackers, TellProgress(update)]
                checkpoint = _trained(config, arguments, data, checkpoint, begin, callbacks, weights)
            last = checkpoint
            return in_first(lambda: finish(config, record, data, last, arguments.world_size, weights))


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other calls out of the directory until the run is finished; ValueError if one is at work there."""
    lock = FileLock(out / LOCK, timeout=0.0)

    def acquire() -> None:
        out.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise ValueError(f"another process trains in {out}: let it finish, or choose another directory") from error

    in_first(acquire)
    try:
        yield
        if is_first_process():  # whoever comes now finds the run finished
            with suppress(OSError):
                (out / LOCK).unlink()
    finally:
        lock.release()


def _note(path: Path, record: dict[str, Any]) -> None:
    """Write run.json of a run whose first update is done."""
    if not path.exists():
        write_record(path, record)


def _trained(
    config: TrainConfig,
    arguments: TrainingArguments,
    data: TrainingData,
    checkpoint: Path | None,
    begin: Begin,
    callbacks: Sequence[TrainerCallback],
    weights: Path | None,
) -> Path:
    """Go on from a checkpoint, or begin; returns the checkpoint of the last update."""
    directory = Path(arguments.output_dir)
    losses, stop = RunningLoss(), StopOnSignal()
    trainer = _trainer(config, arguments, data, [CompleteCheckpoints(directory, losses), stop], weights)
    trainer.losses, trainer.speed = losses, Speed(config.batch_tokens)
    for callback in (begin, *callbacks):
        trainer.add_callback(callback)
    begin.reading = checkpoint is not None
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        stop.restore()
    if stop.requested and trainer.state.global_step < config.steps:
        raise KeyboardInterrupt(f"stopped after update {trainer.state.global_step} of {config.steps}, state saved")
    return directory / f"checkpoint-{config.steps}"


def optimizer_and_schedule(config: TrainConfig, model: nn.Module) -> tuple[Optimizer, LambdaLR]:
    """The optimizer with its learning-rate schedule.

    fairseq's NAG is torch's SGD with Nesterov momentum: its buffer is −lr times torch's, rescaled when lr changes.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.dim() >= 2 and not any(part in name for part in NOT_DECAYED)
        (decayed if decays else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    match config.optimizer:
        case "adamw":
            optimizer: Optimizer = AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
        case "nag":
            optimizer = SGD(groups, lr=config.learning_rate, momentum=0.99, nesterov=True)
    return optimizer, LambdaLR(optimizer, lambda update: learning_rate(config, update) / config.learning_rate)


class LanguageModelTrainer(Trainer):  # type: ignore[misc] # transformers is untyped here
    """Trainer whose model scores `shift_labels` itself, and whose epochs consist of whole updates.

    A logged loss is the mean since the last one, whatever restarts lie between: Trainer's own begins at the restart.
    """

    losses: RunningLoss
    speed: Speed
    divergence: Divergence
    learned_only: bool = False
    """Whether checkpoints hold only what has gradients."""

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        indices = inputs.pop(INDEX)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.losses.add(loss)
        self.divergence.add(loss, indices)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs["loss"] = self.losses.take()
            logs |= self.speed.since_last(self.state.global_step)
        super().log(logs, start_time)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.learned_only:
            save_learned(self.model, Path(str(output_dir)))
        else:
            super()._save(output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.learned_only:
            load_learned(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        """What fills no whole update at an epoch's end is left out, so that any number of devices sees the same."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        update = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return RandomSampler(dataset, num_samples=len(dataset) // update * update)


def _trainer(
    config: TrainConfig,
    arguments: TrainingArguments,
    data: TrainingData,
    callbacks: list[Any],
    weights: Path | None,
) -> LanguageModelTrainer:
    dataset = data.training_set(config.seq_len, config.seed, config.steps * config.batch_tokens // config.seq_len)
    if len(dataset) * config.seq_len < config.batch_tokens:
        raise ValueError(
            f"batch_tokens must be at most the {len(dataset) * config.seq_len:,} tokens of the train split of corpus "
            f"{config.corpus!r} in whole blocks, got {config.batch_tokens:,}"
        )
    model = build_model(config, len(data.tokenizer), data.tokenizer, weights)
    logging.disable_progress_bar()
    if is_first_process():
        callbacks = [
            *callbacks,
            TensorBoardCallback(SummaryWriter(str(Path(arguments.output_dir).parent / TENSORBOARD))),
        ]
    divergence = Divergence(config, Path(arguments.output_dir), dataset)
    trainer = LanguageModelTrainer(
        model=model,
        args=arguments,
        train_dataset=Numbered(dataset),
        callbacks=[*callbacks, divergence],
    )
    trainer.divergence = divergence
    trainer.optimizer, trainer.lr_scheduler = optimizer_and_schedule(config, model)  # not as an argument, for FSDP
    trainer.learned_only = config.lora is not None
    trainer.model_accepts_loss_kwargs = False  # the mean of a micro-batch is the loss, and they are all of one size
    trainer.remove_callback(PrinterCallback)
    if config.validate_every is not None:
        precision = torch.bfloat16 if uses_bf16(config.precision) else None
        blocks = data.validation_set(config.seq_len, VALIDATION_TOKENS)
        every = config.validate_every
        trainer.add_callback(Validation(blocks, VALIDATION_TOKENS, every, precision, trainer.log, divergence))
    return trainer
