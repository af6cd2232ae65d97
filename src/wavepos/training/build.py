"""The model that a run begins with."""

from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, set_seed

from wavepos.models import (
    BaevskiAuliConfig,
    BaevskiAuliForCausalLM,
    baevski_auli_config,
    convert,
    llama_config,
)
from wavepos.models.decoder.convert import converted_config
from wavepos.models.decoder.families import family_config
from wavepos.models.loading import load_model, saved_config
from wavepos.names import BaevskiAuliSize, LlamaSize
from wavepos.training.config import RUN, TrainConfig
from wavepos.training.lora import OF_POSITIONS, with_adapters

_SIZES = (
    "vocab_size",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
)
"""Fields of a Llama's config whose values other decoders of the same named size take."""


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
    start = weights or config.start_from
    if start is not None and str(start).startswith(RUN):  # plans of studies have no weights
        start = None
    if config.is_decoder:
        model = _decoder(config, vocab_size, tokenizer) if start is None else _started(str(start), config, vocab_size)
        if config.lora is not None:
            return with_adapters(model, config.lora)
        return _frozen(model) if config.freeze else model
    ours = baevski_auli_config(cast(BaevskiAuliSize, config.size), vocab_size, config.position)
    if start is None or torch.empty(0).is_meta:  # and so have those of runs
        return BaevskiAuliForCausalLM(ours)
    return _continued(start, ours)


def _decoder(config: TrainConfig, vocab_size: int, tokenizer: PreTrainedTokenizerFast | None) -> PreTrainedModel:
    """A decoder of a named size with random weights."""
    ours: Any = llama_config(cast(LlamaSize, config.size), vocab_size, config.position)
    sizes = {name: getattr(ours, name) for name in _SIZES}
    native = bool(config.native_rotation)
    ours = family_config(config.model)(**sizes, position=config.position, native_rotation=native)
    ours.max_position_embeddings = config.seq_len
    if tokenizer is not None:
        ours.bos_token_id = tokenizer.bos_token_id
        ours.eos_token_id = tokenizer.eos_token_id
        ours.pad_token_id = tokenizer.pad_token_id
    model: PreTrainedModel = AutoModelForCausalLM.from_config(ours)
    return model


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
    kept = {} if config.native_rotation is None else {"native_rotation": config.native_rotation}
    if torch.empty(0).is_meta:  # the dry run's
        if ours:
            theirs = saved_config(start_from, position=config.position, **kept)
        else:
            theirs = converted_config(theirs, config.position, **kept)
        return AutoModelForCausalLM.from_config(theirs)
    if ours:
        return load_model(start_from, position=config.position, dtype=torch.float32, **kept)
    return convert(start_from, config.position, dtype=torch.float32, **kept)


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
