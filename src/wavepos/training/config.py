"""What a training run depends on. Importing this imports no torch: the command line reads the configs for its help."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from wavepos.names import ModelName, check_size
from wavepos.training.lora import parse_lora

OptimizerName = Literal["adamw", "nag"]
Precision = Literal["auto", "fp32", "bf16"]
Sharding = Literal["none", "fsdp"]

RUN = "run:"
"""What start_from begins with where it names another run of a study."""
VALIDATION_TOKENS = 32_768
"""Targets of the valid split, at most, whose loss is logged while a model is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is trained, whatever its position and its text; `wavepos.training.recipes` has one for each size.

    Raises:
        ValueError: a value that is out of its range.
    """

    tokenizer: str
    """bpe:SIZE, words, or file:DIR of a saved tokenizer, as `wavepos.data.prepare` takes it."""
    max_tokens: int | None = None
    """Bound on the training tokens; a stream without end needs it."""
    seq_len: int
    """L_train, tokens per block."""
    steps: int
    """Updates."""
    batch_tokens: int
    """Tokens per update, over all devices."""
    micro_batch_tokens: int | None = None
    """Tokens of one forward pass on one device; None: all of a device's share."""
    optimizer: OptimizerName = "adamw"
    """adamw (β 0.9, 0.95), or nag (Nesterov momentum 0.99, fairseq's)."""
    learning_rate: float
    """The highest, reached after warmup_steps from warmup_from, then by a cosine down to final_learning_rate."""
    warmup_steps: int
    """Updates until the highest learning rate is reached."""
    warmup_from: float = 0.0
    """The learning rate before the first update."""
    final_learning_rate: float = 0.0
    """The learning rate after the last update."""
    weight_decay: float = 0.0
    """Of weight matrices; not of embeddings, norms, biases and positions."""
    gradient_clip: float = 1.0
    """Bound on the gradient's norm."""
    precision: Precision = "auto"
    """bf16 (autocast), fp32, or auto: bf16 where the hardware multiplies it."""
    gradient_checkpointing: bool = False
    """Keep each layer's input only and compute the layer again in the backward pass."""
    sharding: Sharding = "none"
    """none: each device holds the whole model (DDP); fsdp, for a Llama: its share of weights, gradients and optimizer
    state (FSDP2)."""
    seed: int = 0
    """Of the initial weights, the order of the data and dropout."""
    save_every: int = 100
    """Updates between checkpoints."""
    log_every: int = 10
    """Updates between logged losses, each the mean since the one before."""
    validate_every: int | None = None
    """Updates between two looks at the loss on the beginning of the valid split, read in blocks of seq_len; None: no
    look is taken. What is trained does not depend on it."""

    def __post_init__(self) -> None:
        for name in ("seq_len", "steps", "batch_tokens", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("validate_every", "max_tokens", "micro_batch_tokens"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {number}")
        for name, choices in (("optimizer", OptimizerName), ("precision", Precision), ("sharding", Sharding)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {getattr(self, name)!r}")
        self._check_reals()
        if self.warmup_steps < 0 or self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps must lie between 0 and steps={self.steps}, got {self.warmup_steps}")

    def _check_reals(self) -> None:
        if not 0.0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}: 1e-3 would do")
        for name in ("warmup_from", "final_learning_rate", "weight_decay", "gradient_clip"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie between 0 and 2**32 - 1, got {self.seed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Recipe):
    """All that a training run depends on: a recipe, and what it is followed with.

    Raises:
        ValueError: no such model, size or position, or a value that is out of its range or not served for the model.
    """

    model: ModelName = "baevski-auli"
    """The family of the model."""
    size: str
    """A named size of the model; of a decoder with start_from it names the recipe alone."""
    start_from: str | None = None
    """Directory or hub name of a saved model of the family, or with a decoder of any that is served, that the
    run begins with (a decoder's sizes are taken too); in a study "run:…" stands for the model of another of its runs;
    None: random weights."""
    freeze: bool = False
    """Train only what the position learns and what it reads of the hidden state (gates, relative states): the weights
    of the decoder that the run begins with stay as they are."""
    lora: Any = None
    """JSON object, "rank" and maybe "alpha" and "targets" (`parse_lora`): of the decoder that the run begins with only
    low-rank updates of linear layers are trained, and what the position learns; the run's model has them merged."""
    native_rotation: bool | None = None
    """Whether a decoder's own rotation stays beside the position ("nope": it alone); None: as a model of ours was
    saved, and not otherwise. A Llama's is position "rotary"."""
    position: Any
    """JSON of the positional method: an object, a list of one per layer, or a pattern of local and global layers."""
    corpus: str
    """As `wavepos.data.prepare` takes it."""

    def __post_init__(self) -> None:
        from wavepos.models.positioned_config import with_family_scales  # here, for it imports transformers
        from wavepos.positions import layers_json, parse_layers

        check_size(self.model, self.size)
        position = layers_json(parse_layers(self.position))
        if self.is_decoder:  # their configs have scales of its own for wavelets that come without
            position = with_family_scales(position)
        object.__setattr__(self, "position", position)
        asked_for = {
            "sharding='fsdp'": self.sharding == "fsdp",
            "freeze=True": self.freeze,
            "lora": self.lora is not None,
            f"native_rotation={self.native_rotation}": self.native_rotation is not None,
        }
        for name, asked in asked_for.items():
            if asked and not self.is_decoder:
                raise ValueError(f"{name} is served for model llama or qwen3, got model={self.model!r}")
        if self.freeze and self.start_from is None:
            raise ValueError("freeze=True needs start_from: random weights that stay as they are predict nothing")
        if self.lora is not None:
            object.__setattr__(self, "lora", parse_lora(self.lora))
            self._check_lora()
        Recipe.__post_init__(self)  # super() does not know the class that slots=True makes anew

    def _check_lora(self) -> None:
        if self.start_from is None:
            raise ValueError("lora needs start_from: it updates the weights of a trained decoder")
        if self.freeze:
            raise ValueError(
                "lora and freeze=True exclude each other: lora freezes all but its updates and the position"
            )
        if self.sharding == "fsdp":
            raise ValueError(
                "sharding='fsdp' is not served with lora, whose gradients and optimizer states are small: leave it "
                "out, and each device holds the whole model (DDP)"
            )

    @property
    def is_decoder(self) -> bool:
        """Whether the model is a decoder of transformers."""
        return self.model != "baevski-auli"

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
    import torch  # here, for what the command line reads of this module needs none

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # torch 2.9 and 2.10
