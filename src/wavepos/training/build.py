"""The model that a run begins with."""

from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, set_seed

from wavepos.models import (
    BaevskiAuliConfig,
    BaevskiAuliForCausalLM,
    WaveposLlamaForCausalLM,
    baevski_auli_config,
    convert,
    llama_config,
)
from wavepos.models.decoder.convert import converted_config
from wavepos.models.loading import load_model, saved_config
from wavepos.names import BaevskiAuliSize, LlamaSize
from wavepos.training.config import RUN, TrainConfig

OF_POSITIONS = (".position.", ".r_proj.")
"""Parts of the names of what positions learn and read by, in decoders of transformers."""


def build_model(
    config: TrainConfig,
    vocab_size: int,
    tokenizer: PreTrainedTokenizerFast | None = None,
    weights: Path | None = None,
) -> PreTrainedModel:
    """The model of a run with its initial weights, which the seed and `start_from` alone decide.

    Args:
        config: the run.
        vocab_size: V.
        tokenizer: a Llama's config names its special tokens, so that `generate` stops where a document ends.
        weights: where the model lies that `start_from` names as a run.

    Raises:
        ValueError: start_from has fewer words than the tokenizer, or holds no model that fits.
    """
    set_seed(config.seed)
    if config.model == "baevski-auli":
        ours = baevski_auli_config(cast(BaevskiAuliSize, config.size), vocab_size, config.position)
        start = weights or config.start_from
        if start is None or str(start).startswith(RUN) or torch.empty(0).is_meta:  # plans have no weights
            return BaevskiAuliForCausalLM(ours)
        return _continued(start, ours)
    if config.start_from is not None:
        started = _started(config.start_from, config, vocab_size)
        return _frozen(started) if config.freeze else started
    model_config = llama_config(cast(LlamaSize, config.size), vocab_size, config.position)
    model_config.max_position_embeddings = config.seq_len
    if tokenizer is not None:
        model_config.bos_token_id = tokenizer.bos_token_id
        model_config.eos_token_id = tokenizer.eos_token_id
        model_config.pad_token_id = tokenizer.pad_token_id
    return WaveposLlamaForCausalLM(model_config)


def _continued(start: str | Path, ours: BaevskiAuliConfig) -> PreTrainedModel:
    """A saved model of that config, but for the position, in float32."""
    model = load_model(start, position=ours.position, dtype=torch.float32)
    if model.config.model_type != ours.model_type:
        raise ValueError(
            f"start_from must hold a model of type {ours.model_type}, got {model.config.model_type!r} in {start}"
        )
    for name in ours.field_names():
        theirs, wanted = getattr(model.config, name), getattr(ours, name)
        if name not in ("position", "use_cache") and not name.endswith("token_id") and theirs != wanted:
            raise ValueError(f"start_from must hold a model with {name}={wanted}, as the run has it, got {theirs}")
    return model


def _started(start_from: str, config: TrainConfig, vocab_size: int) -> PreTrainedModel:
    """The model that a run begins with, in float32; without weights where tensors have no storage."""
    theirs: Any = saved_config(start_from)
    ours = theirs.model_type.startswith("wavepos_")
    if theirs.vocab_size < vocab_size:
        raise ValueError(
            f"start_from must have a vocabulary of at least the tokenizer's {vocab_size:,} words, "
            f"got {theirs.vocab_size:,}"
        )
    if torch.empty(0).is_meta:  # the dry run's
        if ours:
            theirs = saved_config(start_from, position=config.position)
        else:
            theirs = converted_config(theirs, config.position)
        return AutoModelForCausalLM.from_config(theirs)
    if ours:
        return load_model(start_from, position=config.position, dtype=torch.float32)
    return convert(start_from, config.position, dtype=torch.float32)


def _frozen(model: PreTrainedModel) -> PreTrainedModel:
    """The model with gradients for its positions and their projections alone; ValueError where they learn nothing."""
    learns = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in OF_POSITIONS))
        learns += parameter.requires_grad
    if not learns:
        raise ValueError(
            f"freeze=True leaves nothing to train, for position {model.config.position!r} learns nothing: give one "
            'that does, such as {"method": "wavelet", "query_bias": "recency"}, or train all weights'
        )
    return model
