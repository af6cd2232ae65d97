"""Training on transformers' Trainer: a whole config in, a run directory out.

A run directory holds `model/` (safetensors, config and tokenizer), `checkpoints/`, `tensorboard/` and `run.json`
(config, versions, hardware, losses). The same call again resumes from the last complete checkpoint, or returns a
finished run. Under `torchrun` all processes make the same call; the directory must lie where all of them see it.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import RandomSampler, Sampler
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import TensorBoardCallback
from transformers.utils import logging

from wavepos.console import is_first_process
from wavepos.data import Blocks, PreparedData
from wavepos.models import (
    BaevskiAuliForCausalLM,
    WaveposLlamaConfig,
    WaveposLlamaForCausalLM,
    baevski_auli_config,
    from_llama,
    llama_config,
)
from wavepos.models.baevski_auli import Size
from wavepos.models.llama import LlamaSize, converted_config
from wavepos.models.loading import load_model
from wavepos.provenance import environment, write_json
from wavepos.training_callbacks import CompleteCheckpoints, Observer, StopOnSignal, complete_checkpoint
from wavepos.training_config import TrainConfig, learning_rate, recipe, uses_bf16
from wavepos.training_processes import in_first

__all__ = ["TrainConfig", "build_model", "learning_rate", "optimizer_and_schedule", "recipe", "train", "uses_bf16"]

NOT_DECAYED = ("embedding.bands.", "embed_tokens.", "positions.", ".position.")
"""Parts of the names of embeddings and positions in our models."""


def build_model(
    config: TrainConfig, vocab_size: int, tokenizer: PreTrainedTokenizerFast | None = None
) -> PreTrainedModel:
    """The model of a run with its initial weights, which the seed and `start_from` alone decide.

    Args:
        config: the run.
        vocab_size: V.
        tokenizer: a Llama's config names its special tokens, so that `generate` stops where a document ends.

    Raises:
        ValueError: start_from has fewer words than the tokenizer, or holds no Llama.
    """
    set_seed(config.seed)
    if config.model == "baevski-auli":
        return BaevskiAuliForCausalLM(baevski_auli_config(cast(Size, config.size), vocab_size, config.position))
    if config.start_from is not None:
        return _started(config.start_from, config, vocab_size)
    model_config = llama_config(cast(LlamaSize, config.size), vocab_size, config.position)
    model_config.max_position_embeddings = config.seq_len
    if tokenizer is not None:
        model_config.bos_token_id = tokenizer.bos_token_id
        model_config.eos_token_id = tokenizer.eos_token_id
        model_config.pad_token_id = tokenizer.pad_token_id
    return WaveposLlamaForCausalLM(model_config)


def _started(start_from: str, config: TrainConfig, vocab_size: int) -> PreTrainedModel:
    """The model that a run begins with, in float32; without weights where tensors have no storage."""
    theirs: Any = AutoConfig.from_pretrained(start_from, trust_remote_code=False)
    ours = theirs.model_type == WaveposLlamaConfig.model_type
    if theirs.vocab_size < vocab_size:
        raise ValueError(
            f"start_from must have a vocabulary of at least the tokenizer's {vocab_size:,} words, "
            f"got {theirs.vocab_size:,}"
        )
    if torch.empty(0).is_meta:  # the dry run's
        if ours:
            ours_config = AutoConfig.from_pretrained(start_from, position=config.position, trust_remote_code=False)
            return WaveposLlamaForCausalLM(ours_config)
        return WaveposLlamaForCausalLM(converted_config(theirs, config.position))
    if ours:
        return load_model(start_from, position=config.position, dtype=torch.float32)
    return from_llama(start_from, config.position, dtype=torch.float32)


def train(
    config: TrainConfig, out: Path, data: PreparedData, observe: Callable[[int, int, float | None], None] | None = None
) -> dict[str, Any]:
    """Train, or go on where a former call was cut off, or return the record of a finished run.

    Args:
        config: the run.
        out: the run directory.
        data: what `prepare(config.corpus, config.tokenizer)` gave.
        observe: called in the first process after each update with (update, updates, last logged loss or None).

    Returns:
        The content of run.json.

    Raises:
        ValueError: the directory holds a run with another config; the corpus or the devices do not fit the config.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the state of the last finished update has been saved.
    """
    arguments = _arguments(config, out)  # joins the processes
    record = in_first(lambda: _opened_record(config, out))
    if record.get("status") == "finished":
        return record
    checkpoints = CompleteCheckpoints(out / "checkpoints")
    stop = StopOnSignal()
    trainer = _trainer(config, arguments, data, [checkpoints, stop, Observer(observe)])
    trainer.train(resume_from_checkpoint=in_first(lambda: complete_checkpoint(out / "checkpoints")))
    if stop.requested:
        raise KeyboardInterrupt(f"stopped after update {trainer.state.global_step} of {config.steps}, state saved")
    weights = trainer.accelerator.get_state_dict(trainer.model)  # of shards in all processes, so in all of them
    record |= {
        "status": "finished",
        "environment": environment(),
        "processes": arguments.world_size,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "train_tokens": config.steps * config.batch_tokens,
        "train_seconds": round(checkpoints.seconds, 1),
        "losses": [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry],
    }

    def finish() -> dict[str, Any]:
        _save_model(trainer.model, weights, data, out / "model")
        write_json(out / "run.json", record)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        return record

    return in_first(finish)


def optimizer_and_schedule(config: TrainConfig, model: nn.Module) -> tuple[Optimizer, LambdaLR]:
    """The optimizer with its learning-rate schedule.

    fairseq's NAG is torch's SGD with Nesterov momentum: its buffer is −lr times torch's, rescaled when lr changes.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
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
    """Trainer whose model scores `shift_labels` itself, and whose epochs consist of whole updates."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        """What fills no whole update at an epoch's end is left out, so that any number of devices sees the same."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        update = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return RandomSampler(dataset, num_samples=len(dataset) // update * update)


def _trainer(
    config: TrainConfig, arguments: TrainingArguments, data: PreparedData, callbacks: list[Any]
) -> LanguageModelTrainer:
    dataset = Blocks(data.train, config.seq_len)
    if len(dataset) * config.seq_len < config.batch_tokens:
        raise ValueError(
            f"batch_tokens must be at most the {len(dataset) * config.seq_len:,} tokens of the train split of corpus "
            f"{config.corpus!r} in whole blocks, got {config.batch_tokens:,}"
        )
    model = build_model(config, len(data.tokenizer), data.tokenizer)
    logging.disable_progress_bar()
    if is_first_process():
        callbacks = [
            *callbacks,
            TensorBoardCallback(SummaryWriter(str(Path(arguments.output_dir).parent / "tensorboard"))),
        ]
    trainer = LanguageModelTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        callbacks=callbacks,
    )
    trainer.optimizer, trainer.lr_scheduler = optimizer_and_schedule(config, model)  # not as an argument, for FSDP
    trainer.model_accepts_loss_kwargs = False  # the mean of a micro-batch is the loss, and they are all of one size
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(config: TrainConfig, out: Path) -> TrainingArguments:
    blocks, accumulation = config.micro_batch(int(os.environ.get("WORLD_SIZE", "1")))
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    checkpointing = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in fields)
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


def _opened_record(config: TrainConfig, out: Path) -> dict[str, Any]:
    """run.json of the directory, begun if there is none."""
    ours = dataclasses.asdict(config)
    path = out / "run.json"
    if not path.exists():
        begun = {"status": "started", "config": ours}
        write_json(path, begun)
        return begun
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


def _save_model(model: Any, weights: dict[str, Tensor], data: PreparedData, directory: Path) -> None:
    temporary = directory.with_name(f".{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, state_dict=weights)
    data.tokenizer.save_pretrained(temporary)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)
