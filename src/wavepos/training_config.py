"""What a training run depends on, and the recipes of the named sizes."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from transformers import AutoConfig

from wavepos.models.baevski_auli import Size
from wavepos.models.llama import LlamaSize, WaveposLlamaConfig, converted_config, llama_config
from wavepos.positions import parse_position, position_dict

ModelName = Literal["baevski-auli", "llama"]
OptimizerName = Literal["adamw", "nag"]
Precision = Literal["auto", "fp32", "bf16"]
Sharding = Literal["none", "fsdp"]

SIZES: dict[str, tuple[str, ...]] = {"baevski-auli": get_args(Size), "llama": get_args(LlamaSize)}
"""The named sizes of each model."""
PAPER_THETA = 5e5
"""θ of the paper's RoPE at 7B (section 7.1)."""


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
        gradient_checkpointing: keep each layer's input only and compute the layer again in the backward pass.
        sharding: "none": each device holds the whole model (DDP); "fsdp": its share of weights, gradients and optimizer
            state (FSDP2); for a Llama.
        seed: of the initial weights, the order of the data and dropout.
        save_every, log_every: in updates; a logged loss is the mean since the one before.
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

    def __post_init__(self) -> None:
        _check_size(self.model, self.size)
        position = position_dict(parse_position(self.position))
        if self.model == "llama":  # the family has scales of its own for wavelets that come without
            position = llama_config("tiny", 1, position).position
        object.__setattr__(self, "position", position)
        for name in ("seq_len", "steps", "batch_tokens", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, choices in (("optimizer", OptimizerName), ("precision", Precision), ("sharding", Sharding)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {getattr(self, name)!r}")
        for name, asked in (("sharding='fsdp'", self.sharding == "fsdp"), ("start_from", self.start_from is not None)):
            if asked and self.model != "llama":
                raise ValueError(f"{name} is served for model llama, got model={self.model!r}")
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
        blocks, accumulation = share // self.seq_len, self.batch_tokens // max(1, share * num_devices)
        if blocks < 1 or accumulation < 1 or blocks * accumulation * num_devices * self.seq_len != self.batch_tokens:
            raise ValueError(
                f"batch_tokens must be a multiple of devices × micro-batch, a micro-batch a multiple of seq_len: got "
                f"batch_tokens={self.batch_tokens}, {num_devices} devices, micro-batch {share}, seq_len={self.seq_len}"
            )
        return blocks, accumulation


def recipe(
    size: str,
    *,
    corpus: str,
    position: str | dict[str, Any],
    model: ModelName = "baevski-auli",
    num_devices: int = 1,
    start_from: str | None = None,
) -> TrainConfig:
    """The config of a named size as it is meant to be trained.

    Args:
        size: tiny, small or paper of "baevski-auli"; tiny, small, 1b or 7b of "llama".
        corpus: as `wavepos.data.prepare` takes it.
        position: a method's name or its JSON object.
        model: the family.
        num_devices: devices that share the batch; only "7b" depends on it.
        start_from: a Llama to begin with; its tokenizer is taken, and what its own position says of the same method.

    Raises:
        ValueError: no such model, size or position.

    "paper" is the paper's A.7: its 9,216 tokens are those of one device pass, its 205 epochs give about 73,700 tokens
    an update. "7b" is section 7.1 and A.8: L_train 4096, 30,000 updates, AdamW (0.9, 0.95) at 3e-4, wavelet scales
    2² … 2⁹, RoPE with θ = 5·10⁵ where no other is given.

    Deviates from the paper: no, but it is silent on what follows, and "the other parameters" are taken as those of
    Llama-2: warm-up over 2,000 updates, a cosine down to a tenth, weight decay 0.1, gradients clipped at 1.0, its
    tokenizer of 32,000 words. Its batch size of 1 is read as one sequence a device, so one an update on one device;
    what is streamed ends where 30,000 such updates do.
    """
    _check_size(model, size)
    run = partial(TrainConfig, model=model, size=size, corpus=corpus)
    if start_from is not None:
        config = _recipe(partial(run, start_from=start_from), _position_from(start_from, position), num_devices)
        return replace(config, tokenizer=f"file:{start_from}")
    return _recipe(run, position, num_devices)


def _recipe(run: "partial[TrainConfig]", position: str | dict[str, Any], num_devices: int) -> TrainConfig:
    model, size = run.keywords["model"], run.keywords["size"]
    if model == "llama" and size == "7b":
        return _paper_llama_recipe(run, position, num_devices)
    if model == "llama":
        return _llama_recipe(partial(run, position=position_dict(parse_position(position))), size)
    return _baevski_auli_recipe(partial(run, position=position_dict(parse_position(position))), size)


def _position_from(start_from: str, position: str | dict[str, Any]) -> dict[str, Any]:
    """The position, completed by that of the model to begin with where the method is the same."""
    try:
        theirs = AutoConfig.from_pretrained(start_from, trust_remote_code=False)
    except OSError as error:
        raise ValueError(
            f"start_from must be a directory or hub name of a Llama, got {start_from!r}: {str(error).splitlines()[0]}"
        ) from error
    if theirs.model_type == WaveposLlamaConfig.model_type:
        theirs = AutoConfig.from_pretrained(start_from, position=position, trust_remote_code=False)
    else:
        theirs = converted_config(theirs, position)
    ours: dict[str, Any] = theirs.position
    return ours


def _baevski_auli_recipe(run: "partial[TrainConfig]", size: str) -> TrainConfig:
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
        case _:
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


def _llama_recipe(run: "partial[TrainConfig]", size: str) -> TrainConfig:
    run = partial(run, weight_decay=0.1)
    match size:
        case "tiny":
            return run(
                tokenizer="bpe:4096",
                seq_len=256,
                steps=1000,
                batch_tokens=4096,
                learning_rate=2e-3,
                warmup_steps=50,
                final_learning_rate=2e-4,
            )
        case "small":
            return run(
                tokenizer="bpe:8192",
                seq_len=1024,
                steps=5000,
                batch_tokens=65536,
                learning_rate=1e-3,
                warmup_steps=250,
                final_learning_rate=1e-4,
                save_every=500,
            )
        case _:
            return run(
                tokenizer="bpe:32000",
                seq_len=2048,
                steps=30_000,
                batch_tokens=524_288,
                micro_batch_tokens=8_192,
                learning_rate=4e-4,
                warmup_steps=2_000,
                final_learning_rate=4e-5,
                save_every=1_000,
            )


def _paper_llama_recipe(run: "partial[TrainConfig]", position: str | dict[str, Any], num_devices: int) -> TrainConfig:
    given = {"method": position} if isinstance(position, str) else position
    if given.get("method") == "rotary":
        given = {"theta": PAPER_THETA, **given}
    return run(
        position=position_dict(parse_position(given)),
        tokenizer="file:llama-2-tokenizer",
        max_tokens=30_000 * 4096 * num_devices + 1,
        seq_len=4096,
        steps=30_000,
        batch_tokens=4096 * num_devices,
        micro_batch_tokens=4096,
        learning_rate=3e-4,
        warmup_steps=2_000,
        final_learning_rate=3e-5,
        weight_decay=0.1,
        save_every=1_000,
    )


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


def _check_size(model: str, size: str) -> None:
    if model not in SIZES:
        raise ValueError(f"model must be one of {', '.join(SIZES)}, got {model!r}")
    if size not in SIZES[model]:
        raise ValueError(f"size must be one of {', '.join(SIZES[model])} for model {model}, got {size!r}")
