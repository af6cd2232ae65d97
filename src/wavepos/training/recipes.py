"""The configs of the named sizes as they are meant to be trained; "paper" and "7b" are the paper's (A.7, A.8)."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from wavepos.console import first_line
from wavepos.names import ModelName, check_size
from wavepos.training.config import Recipe, TrainConfig

if TYPE_CHECKING:
    from wavepos.positions import LayersLike

PAPER_THETA = 5e5
"""θ of the paper's RoPE at 7B (section 7.1)."""
PAPER_SEQUENCES = 8
"""Sequences per update of the paper's 7B: a batch size of 1 on each of 8 GPUs (A.8)."""


def recipe(
    size: str,
    *,
    corpus: str,
    position: "LayersLike",
    model: ModelName = "baevski-auli",
    start_from: str | None = None,
) -> TrainConfig:
    """The config of a named size as it is meant to be trained.

    Args:
        size: tiny, small, paper or probe of "baevski-auli"; tiny, small, 1b or 7b of "llama"; tiny or small of "qwen3".
        corpus: as `wavepos.data.prepare` takes it.
        position: a method's name or its JSON object, or a list or pattern of layers.
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
    given = size_recipe(size, model=model, start_from=start_from)
    position = recipe_position(size, position, model=model, start_from=start_from)
    return TrainConfig(**asdict(given), model=model, size=size, start_from=start_from, position=position, corpus=corpus)


def size_recipe(size: str, *, model: ModelName = "baevski-auli", start_from: str | None = None) -> Recipe:
    """How a named size is trained: what `recipe` says but for text and position. Imports no torch.

    Raises:
        ValueError: no such model or size.
    """
    check_size(model, size)
    found = _baevski_auli_recipe(size) if model == "baevski-auli" else _llama_recipe(size)
    return found if start_from is None else replace(found, tokenizer=f"file:{start_from}")


def recipe_position(
    size: str,
    position: "LayersLike",
    *,
    model: ModelName = "baevski-auli",
    start_from: str | None = None,
    native_rotation: bool | None = None,
) -> Any:
    """The position of a run as JSON, completed by what the size or the model to begin with says of the same method.

    Raises:
        ValueError: no such position, or no model of the family to begin with.
    """
    from wavepos.positions import RotaryConfig, layers_fields
    from wavepos.positions.layers import with_each_field

    if start_from is not None:
        position = _position_from(start_from, position, model, native_rotation)

    def completed(given: dict[str, Any]) -> dict[str, Any]:
        of_the_7b = model == "llama" and size == "7b" and given["method"] == RotaryConfig.method
        return {"theta": PAPER_THETA, **given} if of_the_7b else given

    return with_each_field(layers_fields(position), completed)


def _position_from(start_from: str, position: "LayersLike", model: ModelName, native_rotation: bool | None) -> Any:
    from wavepos.models import BaevskiAuliConfig
    from wavepos.models.decoder.convert import converted_config
    from wavepos.models.loading import saved_config

    kept = {} if native_rotation is None else {"native_rotation": native_rotation}
    try:
        theirs = saved_config(start_from)
    except OSError as error:
        raise ValueError(
            f"start_from must be a directory or hub name of a model, got {start_from!r}: {first_line(error)}"
        ) from error
    own = BaevskiAuliConfig.model_type
    if (theirs.model_type == own) != (model == "baevski-auli"):
        wanted = f"model of type {own!r}" if model == "baevski-auli" else "decoder of transformers"
        raise ValueError(
            f"start_from must be a {wanted} for model {model}, got one of type {theirs.model_type!r} in {start_from!r}"
        )
    if theirs.model_type.startswith("wavepos_"):
        theirs = saved_config(start_from, position=position, **kept)
    else:
        theirs = converted_config(theirs, position, **kept)
    return theirs.position


def _baevski_auli_recipe(size: str) -> Recipe:
    match size:
        case "tiny":
            return Recipe(
                tokenizer="bpe:4096", seq_len=256, steps=1000, batch_tokens=4096, learning_rate=2e-3, warmup_steps=50
            )
        case "small":
            return Recipe(
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
        case "probe":
            return Recipe(
                tokenizer="task:mqar",
                seq_len=128,
                steps=1000,
                batch_tokens=2048,
                learning_rate=4e-3,
                warmup_steps=50,
                final_learning_rate=4e-4,
                precision="fp32",
                save_every=500,
                log_every=50,
            )
        case _:
            return Recipe(
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


def _llama_recipe(size: str) -> Recipe:
    match size:
        case "tiny":
            return Recipe(
                weight_decay=0.1,
                tokenizer="bpe:4096",
                seq_len=256,
                steps=1000,
                batch_tokens=4096,
                learning_rate=2e-3,
                warmup_steps=50,
                final_learning_rate=2e-4,
            )
        case "small":
            return Recipe(
                weight_decay=0.1,
                tokenizer="bpe:8192",
                seq_len=1024,
                steps=5000,
                batch_tokens=65536,
                learning_rate=1e-3,
                warmup_steps=250,
                final_learning_rate=1e-4,
                save_every=500,
            )
        case "1b":
            return Recipe(
                weight_decay=0.1,
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
        case _:
            return _paper_llama_recipe()


def _paper_llama_recipe() -> Recipe:
    return Recipe(
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
