"""The configs of the named sizes as they are meant to be trained; "paper" and "7b" are the paper's (A.7, A.8)."""

from dataclasses import replace
from functools import partial
from typing import Any

from transformers import AutoConfig

from wavepos.models.llama import WaveposLlamaConfig, converted_config
from wavepos.positions import RotaryConfig, position_fields
from wavepos.training.config import ModelName, TrainConfig, check_size

PAPER_THETA = 5e5
"""θ of the paper's RoPE at 7B (section 7.1)."""
PAPER_SEQUENCES = 8
"""Sequences per update of the paper's 7B: a batch size of 1 on each of 8 GPUs (A.8)."""


def recipe(
    size: str,
    *,
    corpus: str,
    position: str | dict[str, Any],
    model: ModelName = "baevski-auli",
    start_from: str | None = None,
) -> TrainConfig:
    """The config of a named size as it is meant to be trained.

    Args:
        size: tiny, small or paper of "baevski-auli"; tiny, small, 1b or 7b of "llama".
        corpus: as `wavepos.data.prepare` takes it.
        position: a method's name or its JSON object.
        model: the family.
        start_from: a Llama to begin with; its tokenizer is taken, and what its own position says of the same method.

    Raises:
        ValueError: no such model, size or position.

    "paper" is the paper's A.7: its 9,216 tokens are those of one device pass, its 205 epochs give about 73,700 tokens
    per update. "7b" is section 7.1 and A.8: L_train 4096, 30,000 updates, AdamW (0.9, 0.95) at 3e-4, wavelet scales
    2² … 2⁹, RoPE with θ = 5·10⁵ where no other is given.

    As in the paper, where it says anything. Its batch size of 1 is read as one sequence on each of its 8 GPUs, so eight
    sequences per update: 30,000 updates of 8 · 4,096 tokens are 983,040,000, its "1B-token sample". On fewer devices
    an update has more forward passes; a number of devices that does not divide 8 needs another batch_tokens. What is
    streamed ends where the last update does. "The other parameters" are taken as those of Llama-2: warm-up over 2,000
    updates, a cosine down to a tenth, weight decay 0.1, gradients clipped at 1.0, its tokenizer of 32,000 words.
    """
    check_size(model, size)
    run = partial(TrainConfig, model=model, size=size, corpus=corpus)
    if start_from is not None:
        config = _recipe(partial(run, start_from=start_from), _position_from(start_from, position))
        return replace(config, tokenizer=f"file:{start_from}")
    return _recipe(run, position)


def _recipe(run: "partial[TrainConfig]", position: str | dict[str, Any]) -> TrainConfig:
    model, size = run.keywords["model"], run.keywords["size"]
    if model == "llama" and size == "7b":
        return _paper_llama_recipe(run, position)
    if model == "llama":
        return _llama_recipe(partial(run, position=position_fields(position)), size)
    return _baevski_auli_recipe(partial(run, position=position_fields(position)), size)


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


def _paper_llama_recipe(run: "partial[TrainConfig]", position: str | dict[str, Any]) -> TrainConfig:
    given = position_fields(position)
    if given["method"] == RotaryConfig.method:
        given = {"theta": PAPER_THETA, **given}
    return run(
        position=given,
        tokenizer="file:llama-2-tokenizer",
        max_tokens=30_000 * PAPER_SEQUENCES * 4096 + 1,
        seq_len=4096,
        steps=30_000,
        batch_tokens=PAPER_SEQUENCES * 4096,
        micro_batch_tokens=4096,
        learning_rate=3e-4,
        warmup_steps=2_000,
        final_learning_rate=3e-5,
        weight_decay=0.1,
        save_every=1_000,
    )
