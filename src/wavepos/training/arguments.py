"""A run in the words of transformers' Trainer: its arguments, shards, and the trackers that it serves."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from wavepos.console import num_processes
from wavepos.names import did_you_mean
from wavepos.runs import CHECKPOINTS
from wavepos.training.config import TrainConfig, uses_bf16


def training_arguments(config: TrainConfig, out: Path) -> TrainingArguments:
    """What Trainer is told of a run; joins the processes."""
    blocks, accumulation = config.micro_batch(num_processes())
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


def trackers_named(names: Sequence[str]) -> list[TrainerCallback]:
    """The callbacks of trackers that Trainer serves, by name."""
    served = sorted(set(INTEGRATION_TO_CALLBACK) - {"tensorboard"})  # which every run directory has
    trackers = []
    for name in names:
        if name not in served:
            raise ValueError(f"report_to takes some of {', '.join(served)}, got {name!r}{did_you_mean(name, served)}")
        try:
            trackers.append(INTEGRATION_TO_CALLBACK[name]())
        except (RuntimeError, ImportError) as error:  # its package is not installed
            raise ImportError(f"report_to={name!r}: {error}") from error
    return trackers


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
