"""Recipes and their checks."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from wavepos.data import prepare
from wavepos.training.build import build_model
from wavepos.training.config import TrainConfig, learning_rate
from wavepos.training.recipes import recipe
from wavepos.training.trainer import optimizer_and_schedule, train


def test_the_papers_seven_billion() -> None:
    """Section 7.1 and A.8; the parameters of Llama-2-7B, for wavelets have none."""
    config = recipe("7b", model="llama", corpus="stdlib", position="wavelet")
    with torch.device("meta"):
        model = build_model(config, vocab_size=32_000)
    width, ffn, layers, vocabulary = 4096, 11_008, 32, 32_000
    layer = 4 * width * width + 3 * width * ffn + 2 * width
    assert sum(p.numel() for p in model.parameters()) == 2 * vocabulary * width + layers * layer + width
    assert sum(p.numel() for p in model.parameters()) == 6_738_415_616
    assert model.config.position["scales"] == tuple(2.0**i for i in range(2, 10))
    assert model.config.max_position_embeddings == config.seq_len == 4096
    assert (model.config.num_attention_heads, model.config.head_dim) == (32, 128)
    assert (config.steps, config.learning_rate, config.optimizer) == (30_000, 3e-4, "adamw")
    optimizer, _ = optimizer_and_schedule(config, model)
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert learning_rate(config, 2_000) == 3e-4
    assert learning_rate(config, 30_000) == pytest.approx(3e-5)


def test_the_papers_update_of_eight_sequences_is_the_same_on_any_number_of_devices_that_divides_eight() -> None:
    config = recipe("7b", model="llama", corpus="stdlib", position="wavelet")
    assert config.steps * config.batch_tokens == 983_040_000  # the paper's "1B-token sample"
    assert config.max_tokens == 983_040_001  # the first token is no target
    assert [config.micro_batch(devices) for devices in (1, 2, 4, 8)] == [(1, 8), (1, 4), (1, 2), (1, 1)]
    with pytest.raises(ValueError, match=r"batch_tokens must be a multiple of .*batch_tokens=32768, 16 devices"):
        config.micro_batch(16)


def test_the_papers_rival_at_seven_billion_has_its_theta() -> None:
    def position(size: str, given: object) -> dict:
        return recipe(size, model="llama", corpus="stdlib", position=given).position  # type: ignore[arg-type]

    assert position("7b", "rotary")["theta"] == 5e5
    assert position("7b", {"method": "rotary", "theta": 1e4})["theta"] == 1e4
    assert position("1b", "rotary")["theta"] == 1e4
    assert position("7b", {"method": "wavelet", "scales": [4.0]})["scales"] == (4.0,)


def test_weight_decay_spares_a_llamas_embeddings_norms_and_positions() -> None:
    position = {"method": "wavelet", "query_bias": "recency"}
    config = recipe("tiny", model="llama", corpus="stdlib", position=position)
    model = build_model(config, 300)
    optimizer, _ = optimizer_and_schedule(config, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    maps = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    assert decayed == {"lm_head.weight", *(f"model.layers.{i}.{part}.weight" for i in range(4) for part in maps)}
    assert any("position" in name for name in names.values())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        ("llama", "paper", "size must be one of tiny, small, 1b, 7b for model llama, got 'paper'"),
        ("baevski-auli", "7b", "size must be one of tiny, small, paper, probe for model baevski-auli, got '7b'"),
        ("gpt", "tiny", "model must be one of baevski-auli, llama, qwen3, got 'gpt'"),
    ],
)
def test_sizes_belong_to_models(model: str, size: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(size, model=model, corpus="stdlib", position="nope")  # type: ignore[arg-type]


@pytest.fixture
def small(tmp_path: Path) -> TrainConfig:
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(["wave", "near", "far"], size=8)) for _ in range(200)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    base = recipe("tiny", model="llama", corpus=f"text:{tmp_path / 'corpus.txt'}", position="wavelet")
    options = {"tokenizer": "bpe:280", "seq_len": 16, "batch_tokens": 64, "steps": 4, "warmup_steps": 1}
    return dataclasses.replace(base, **options, log_every=1, precision="fp32")


def test_a_llamas_config_names_the_special_tokens_and_the_length(small: TrainConfig, tmp_path: Path) -> None:
    data = prepare(small.corpus, small.tokenizer, cache_dir=tmp_path / "cache")
    config = build_model(small, len(data.tokenizer), data.tokenizer).config
    assert config.eos_token_id == config.bos_token_id == data.tokenizer.eos_token_id
    assert config.pad_token_id is None
    assert config.max_position_embeddings == 16


def test_checkpointing_changes_no_loss(small: TrainConfig, tmp_path: Path) -> None:
    data = prepare(small.corpus, small.tokenizer, cache_dir=tmp_path / "cache")
    plain = train(small, tmp_path / "plain", data)
    checkpointed = train(dataclasses.replace(small, gradient_checkpointing=True), tmp_path / "checkpointed", data)
    assert checkpointed["losses"] == plain["losses"]


def test_an_update_larger_than_the_corpus_is_named(small: TrainConfig, tmp_path: Path) -> None:
    data = prepare(small.corpus, small.tokenizer, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"batch_tokens must be at most the [\d,]+ tokens of the train split"):
        train(dataclasses.replace(small, batch_tokens=16 * 4096), tmp_path / "run", data)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")
def test_sharding_without_gpus_is_refused(small: TrainConfig, tmp_path: Path) -> None:
    data = prepare(small.corpus, small.tokenizer, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match="sharding='fsdp' needs GPUs and one process for each"):
        train(dataclasses.replace(small, sharding="fsdp"), tmp_path / "run", data)


def test_sharding_is_for_llamas() -> None:
    config = recipe("tiny", corpus="stdlib", position="nope")
    with pytest.raises(
        ValueError, match="sharding='fsdp' is served for model llama or qwen3, got model='baevski-auli'"
    ):
        dataclasses.replace(config, sharding="fsdp")
