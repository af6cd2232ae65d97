"""What a run ends in: the model of its last checkpoint, whole in a folder of its own, and a record of the training."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import torch

from wavepos.data import TrainingData
from wavepos.runs import MODEL, RECORD, environment
from wavepos.storage import flush, mark_complete, marked_facts, read_record, write_record
from wavepos.training.build import build_model
from wavepos.training.config import TrainConfig, uses_bf16
from wavepos.training.divergence import diverged
from wavepos.training.lora import load_learned, merged

MODEL_FILES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "*.py")
"""What `save_pretrained` writes, among the files of a checkpoint."""


def finish(
    config: TrainConfig,
    record: dict[str, Any],
    data: TrainingData,
    checkpoint: Path,
    processes: int,
    weights: Path | None,
) -> dict[str, Any]:
    """Make the last checkpoint the run's model and record; called anew where that was cut off.

    Args:
        config: the run.
        record: its run.json so far.
        data: what it was trained on.
        checkpoint: of the last update.
        processes: that trained together.
        weights: where the model lies that config.start_from names as a run.

    Returns:
        The content of run.json.

    Raises:
        ValueError: the checkpoint is damaged.
        FloatingPointError: a loss that was logged is not finite.
    """
    out, facts = checkpoint.parent.parent, marked_facts(checkpoint)
    history = _history(checkpoint, config)
    with torch.device("meta"):
        whole = build_model(dataclasses.replace(config, lora=None), len(data.tokenizer), weights=weights)
        parameters = sum(parameter.numel() for parameter in whole.parameters())
    finished = record | {
        "status": "finished",
        "environment": environment(),
        "processes": processes,
        "precision": "bf16" if uses_bf16(config.precision) else "fp32",
        "parameters": parameters,
        "train_tokens": config.steps * config.batch_tokens,
        "train_seconds": round(facts["seconds"], 1),
        "losses": [(entry["step"], entry["loss"]) for entry in history if "loss" in entry],
        "valid_losses": [(entry["step"], entry["valid_loss"]) for entry in history if "valid_loss" in entry],
    }
    if "last_loss" in facts:
        finished["last_loss"] = facts["last_loss"]
    _save_model(config, checkpoint, data, out / MODEL, weights)
    write_record(out / RECORD, finished)
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    return finished


def _history(checkpoint: Path, config: TrainConfig) -> list[dict[str, Any]]:
    """What was logged up to a checkpoint; an earlier version logged what is not finite, and trained on."""
    path = checkpoint / "trainer_state.json"
    advice = f"delete {checkpoint}, and the same command goes on from the one before, or begins anew"
    history = read_record(path, advice).get("log_history")
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise ValueError(f"{path} holds no log_history: {advice}")
    for entry in history:
        if not math.isfinite(entry.get("loss", entry.get("valid_loss", 0.0))):
            raise diverged(f"a loss logged at update {entry['step']:,} is not finite", config, checkpoint.parent)
    return history


def _save_model(
    config: TrainConfig, checkpoint: Path, data: TrainingData, directory: Path, weights: Path | None
) -> None:
    """The model's own files of a checkpoint and the tokenizer, as one folder that is whole or absent."""
    temporary = directory.with_name(f".{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        if config.lora is not None:
            model = build_model(config, len(data.tokenizer), data.tokenizer, weights)
            load_learned(model, checkpoint)
            merged(model).save_pretrained(temporary)
        else:
            for path in (path for pattern in MODEL_FILES for path in checkpoint.glob(pattern)):
                shutil.copyfile(path, temporary / path.name)
        data.tokenizer.save_pretrained(temporary)
        mark_complete(temporary, {})
        shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
        flush(directory.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
