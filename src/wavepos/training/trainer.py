"""Training on transformers' Trainer: a whole config in, a run directory out.

A run directory holds `model/` (safetensors, config and tokenizer), `checkpoints/`, `tensorboard/` and `run.json`
(config, versions, hardware, losses). The same call again resumes from the last complete checkpoint, or returns a
finished run. Under `torchrun` all processes make the same call; the directory must lie where all of them see it.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
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
from wavepos.runs import CHECKPOINTS, MODEL, RECORD, TENSORBOARD, environment, opened_record, write_json
from wavepos.training.build import build_model
from wavepos.training.callbacks import (
    CompleteCheckpoints,
    RunningLoss,
    Speed,
    StopOnSignal,
    TellProgress,
    Validation,
    trackers_by_name,
)
from wavepos.training.checkpoints import checkpoint_step, marked_facts, whole_checkpoint
from wavepos.training.config import RUN, VALIDATION_TOKENS, TrainConfig, learning_rate, uses_bf16
from wavepos.training.lora import check_peft, load_learned, merged, save_learned
from wavepos.training.processes import in_first

NOT_DECAYED = ("embedding.bands.", "embed_tokens.", "embed_in.", "positions.", ".position.")
"""Parts of the names of embeddings and positions in our models."""
MODEL_FILES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "*.py")
"""What `save_pretrained` writes, among the files of a checkpoint."""


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
            does not know.
        ImportError: a tracker's package is missing.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the state of the last finished update has been saved.
    """
    if weights is None and (config.start_from or "").startswith(RUN):
        raise ValueError(f"start_from={config.start_from!r} names a run of a study: only a study can train it")
    if config.lora is not None:
        check_peft()
    trackers = trackers_by_name(report_to)
    arguments = _arguments(config, out)  # joins the processes
    record = in_first(lambda: opened_record(config, out, data, imports))
    if record["status"] == "finished":
        return record
    checkpoint = in_first(lambda: whole_checkpoint(out / CHECKPOINTS))
    if checkpoint is None or checkpoint_step(checkpoint) < config.steps:
        checkpoint = _trained(config, arguments, data, checkpoint, [*trackers, TellProgress(update)], weights)
    return in_first(lambda: _finished(config, record, data, checkpoint, arguments.world_size, weights))


def _trained(
    config: TrainConfig,
    arguments: TrainingArguments,
    data: TrainingData,
    checkpoint: Path | None,
    callbacks: Sequence[TrainerCallback],
    weights: Path | None,
) -> Path:
    """Go on from a checkpoint, or begin; returns the checkpoint of the last update."""
    directory = Path(arguments.output_dir)
    losses, stop = RunningLoss(), StopOnSignal()
    trainer = _trainer(config, arguments, data, [CompleteCheckpoints(directory, losses), stop, *callbacks], weights)
    trainer.losses, trainer.speed = losses, Speed(config.batch_tokens)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        stop.restore()
    if stop.requested and trainer.state.global_step < config.steps:
        raise KeyboardInterrupt(f"stopped after update {trainer.state.global_step} of {config.steps}, state saved")
    return directory / f"checkpoint-{config.steps}"


def _finished(
    config: TrainConfig,
    record: dict[str, Any],
    data: TrainingData,
    checkpoint: Path,
    processes: int,
    weights: Path | None,
) -> dict[str, Any]:
    """Make the last checkpoint the run's model and record; called anew where that was cut off."""
    out = checkpoint.parent.parent
    history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    with torch.device("meta"):
        whole = build_model(dataclasses.replace(config, lora=None), len(data.tokenizer), weights=weights)
        parameters = sum(parameter.numel() for parameter in whole.parameters())
    finished = record | {
        "status": "finished",
        "environment": environment(),
        "processes": processes,
        "parameters": parameters,
        "train_tokens": config.steps * config.batch_tokens,
        "train_seconds": round(marked_facts(checkpoint)["seconds"], 1),
        "losses": [(entry["step"], entry["loss"]) for entry in history if "loss" in entry],
        "valid_losses": [(entry["step"], entry["valid_loss"]) for entry in history if "valid_loss" in entry],
    }
    _save_model(config, checkpoint, data, out / MODEL, weights)
    write_json(out / RECORD, finished)
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    return finished


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
    learned_only: bool = False
    """Whether checkpoints hold only what has gradients."""

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.losses.add(loss)
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
    trainer = LanguageModelTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        callbacks=callbacks,
    )
    trainer.optimizer, trainer.lr_scheduler = optimizer_and_schedule(config, model)  # not as an argument, for FSDP
    trainer.learned_only = config.lora is not None
    trainer.model_accepts_loss_kwargs = False  # the mean of a micro-batch is the loss, and they are all of one size
    trainer.remove_callback(PrinterCallback)
    if config.validate_every is not None:
        precision = torch.bfloat16 if uses_bf16(config.precision) else None
        blocks = data.validation_set(config.seq_len, VALIDATION_TOKENS)
        every = config.validate_every
        trainer.add_callback(Validation(blocks, VALIDATION_TOKENS, every, precision, trainer.log))
    return trainer


def _arguments(config: TrainConfig, out: Path) -> TrainingArguments:
    blocks, accumulation = config.micro_batch(int(os.environ.get("WORLD_SIZE", "1")))
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    checkpointing = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in fields)
    arguments = TrainingArguments(
        output_dir=str(out / CHECKPOINTS),
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
        run_name=out.name,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        **{checkpointing: config.gradient_checkpointing},
        **_sharding(config),
    )
    if config.sharding == "fsdp":
        _shard_precisely(arguments)
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # or Trainer would multiply the batch by nn.DataParallel; torchrun is how to use them all
    return arguments


def _sharding(config: TrainConfig) -> dict[str, Any]:
    """Trainer's arguments for FSDP2; the layers that are units of their own are those the model names."""
    if config.sharding == "none":
        return {}
    _check_devices()
    return {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT"}}


def _check_devices() -> None:
    """Without GPUs accelerate would train with DDP in silence."""
    if not torch.cuda.is_available() or "WORLD_SIZE" not in os.environ:
        raise ValueError(
            f"sharding='fsdp' needs GPUs and one process for each (torchrun --nproc-per-node N …), got "
            f"{torch.cuda.device_count()} GPUs and {os.environ.get('WORLD_SIZE', '1 (no torchrun)')} processes"
        )


def _shard_precisely(arguments: TrainingArguments) -> None:
    """Gradients are summed and losses logged in float32; accelerate's own policy rounds both to bf16."""
    plugin = arguments.fsdp_plugin_args
    if plugin.get("auto_wrap_policy") is None:
        raise ImportError("sharding='fsdp' needs a newer transformers, this one would gather the whole model at once")
    if arguments.bf16:
        plugin["mixed_precision_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def _save_model(
    config: TrainConfig, checkpoint: Path, data: TrainingData, directory: Path, weights: Path | None
) -> None:
    """The model's own files of a checkpoint and the tokenizer, as one folder that is whole or absent."""
    temporary = directory.with_name(f".{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    if config.lora is not None:
        model = build_model(config, len(data.tokenizer), data.tokenizer, weights)
        load_learned(model, checkpoint)
        merged(model).save_pretrained(temporary)
    for pattern in () if config.lora is not None else MODEL_FILES:
        for path in checkpoint.glob(pattern):
            shutil.copyfile(path, temporary / path.name)
    data.tokenizer.save_pretrained(temporary)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)
