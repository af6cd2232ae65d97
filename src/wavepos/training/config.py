"""What a training run depends on."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from wavepos.models.baevski_auli import Size
from wavepos.models.llama import LlamaSize, llama_config
from wavepos.positions import parse_position, position_dict

ModelName = Literal["baevski-auli", "llama"]
OptimizerName = Literal["adamw", "nag"]
Precision = Literal["auto", "fp32", "bf16"]
Sharding = Literal["none", "fsdp"]

SIZES: dict[str, tuple[str, ...]] = {"baevski-auli": get_args(Size), "llama": get_args(LlamaSize)}
"""The named sizes of each model."""
VALIDATION_TOKENS = 32_768
"""Targets of the valid split, at most, whose loss is logged while a model is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """All that a training run depends on.

    Attributes:
        model: "baevski-auli" or "llama".
        size: a named size of the model; with start_from it names the recipe alone.
        start_from: directory or hub name of a RoPE Llama, or of a saved model of our Llama family, whose sizes and
            weights the run begins with; None: random weights.
        position: JSON object of the positional method.
        corpus, tokenizer, max_tokens: as `wavepos.data.prepare` takes them.
        seq_len: L_train, tokens per block.
        steps: updates.
        batch_tokens: tokens per update, over all devices.
        micro_batch_tokens: tokens of one forward pass on one device; None: all of a device's share.
        optimizer: "adamw" (β 0.9, 0.95), or "nag" (Nesterov momentum 0.99, fairseq's).
        learning_rate: the highest, reached after warmup_steps from warmup_from, then by a cosine down to
            final_learning_rate.
        weight_decay: of weight matrices; not of embeddings, norms, biases and positions.
        gradient_clip: bound on the gradient's norm.
        precision: "bf16" autocast, "fp32", or "auto": bf16 where the hardware multiplies it.
        gradient_checkpointing: keep each layer's input only and compute the layer again in the backward pass.
        sharding: "none": each device holds the whole model (DDP); "fsdp": its share of weights, gradients and optimizer
            state (FSDP2); for a Llama.
        seed: of the initial weights, the order of the data and dropout.
        save_every, log_every: in updates; a logged loss is the mean since the one before.
        validate_every: updates after which the loss on the first `VALIDATION_TOKENS` of the valid split is logged, read
            in blocks of seq_len; None: never. What is trained does not depend on it.
    """

    model: ModelName = "baevski-auli"
    size: str
    start_from: str | None = None
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
    gradient_checkpointing: bool = False
    sharding: Sharding = "none"
    seed: int = 0
    save_every: int = 100
    log_every: int = 10
    validate_every: int | None = None

    def __post_init__(self) -> None:
        check_size(self.model, self.size)
        position = position_dict(parse_position(self.position))
        if self.model == "llama":  # the family has scales of its own for wavelets that come without
            position = llama_config("tiny", 1, position).position
        object.__setattr__(self, "position", position)
        for name in ("seq_len", "steps", "batch_tokens", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.validate_every is not None and self.validate_every < 1:
            raise ValueError(f"validate_every must be at least 1 or None, got {self.validate_every}")
        for name, choices in (("optimizer", OptimizerName), ("precision", Precision), ("sharding", Sharding)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {getattr(self, name)!r}")
        for name, asked in (("sharding='fsdp'", self.sharding == "fsdp"), ("start_from", self.start_from is not None)):
            if asked and self.model != "llama":
                raise ValueError(f"{name} is served for model llama, got model={self.model!r}")
        if not self.learning_rate > 0.0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.warmup_steps < 0 or self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps must lie between 0 and steps={self.steps}, got {self.warmup_steps}")

    def micro_batch(self, num_devices: int) -> tuple[int, int]:
        """Blocks of one forward pass, and forward passes per update, on each of that many devices."""
        share = self.micro_batch_tokens or self.batch_tokens // num_devices
        blocks, accumulation = share // self.seq_len, self.batch_tokens // max(1, share * num_devices)
        if blocks < 1 or accumulation < 1 or blocks * accumulation * num_devices * self.seq_len != self.batch_tokens:
            raise ValueError(
                f"batch_tokens must be a multiple of devices × micro-batch, a micro-batch a multiple of seq_len: got "
                f"batch_tokens={self.batch_tokens}, {num_devices} devices, micro-batch {share}, seq_len={self.seq_len}"
            )
        return blocks, accumulation


def learning_rate(config: TrainConfig, update: int) -> float:
    """The learning rate of an update (0-based): linear warm-up, then a cosine to final_learning_rate."""
    if update < config.warmup_steps:
        warmed = update / config.warmup_steps
        return config.warmup_from + warmed * (config.learning_rate - config.warmup_from)
    decayed = (update - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(decayed, 1.0)))
    return config.final_learning_rate + cosine * (config.learning_rate - config.final_learning_rate)


def uses_bf16(precision: Precision) -> bool:
    """Whether matrix products run in bfloat16: asked for, or "auto" on hardware that multiplies it."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def check_size(model: str, size: str) -> None:
    """Raise ValueError unless the model is one of ours and has a size of that name."""
    if model not in SIZES:
        raise ValueError(f"model must be one of {', '.join(SIZES)}, got {model!r}")
    if size not in SIZES[model]:
        raise ValueError(f"size must be one of {', '.join(SIZES[model])} for model {model}, got {size!r}")
