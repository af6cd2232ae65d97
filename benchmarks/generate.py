"""Tokens per second of transformers' `generate` with a Llama of our family, beside transformers' own Llama (RoPE)."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from benchmarks.attention import DTYPES
from benchmarks.decode import check_cached
from benchmarks.measure import check_time, comparison, device_kind, interleaved
from benchmarks.parity import judge
from benchmarks.record import Cell, Record, measure_models, method_names, one_round
from wavepos.console import Update
from wavepos.models import WaveposLlamaForCausalLM, llama_config
from wavepos.models.llama import LlamaSize
from wavepos.names import METHODS
from wavepos.testing import Error

PARITY_TOKENS = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig:
    """What is measured."""

    device: str
    """cpu, or cuda."""
    lengths: tuple[int, ...] = (1024, 8192)
    """Tokens in the cache when the first new one is made."""
    dtypes: tuple[str, ...] = ("fp32", "bf16")
    """Of the weights: fp32, bf16, fp16."""
    peers: tuple[str, ...] = ("rotary", "nope", "wavelet", "alibi")
    """Positional methods of our family."""
    sizes: tuple[LlamaSize, ...] = ("small",)
    """Named sizes of the model."""
    new_tokens: int = 16
    """Tokens that a call of `generate` makes."""
    vocab_size: int = 8192
    """V."""
    repeats: int = 15
    """Pairs of interleaved runs of each measurement, at most."""
    seconds: float = 20.0
    """Time after which a measurement begins no more pairs, once it has three."""

    def __post_init__(self) -> None:
        check_time("seconds", self.seconds)
        check_cached(self.lengths, self.dtypes)
        object.__setattr__(self, "peers", method_names(self.peers, "generate", METHODS))
        for size in self.sizes:
            llama_config(size, self.vocab_size)


def generate_config(device: str) -> GenerateConfig:
    """What fits the device."""
    if device_kind(device) == "cuda":
        return GenerateConfig(device=device, lengths=(1024, 8192, 32768), dtypes=("bf16",), sizes=("1b",))
    return GenerateConfig(device=device)


def bench_generate(config: GenerateConfig, path: Path, resume: bool, update: Update) -> dict[str, Any]:
    """Check every method, then measure every cell.

    Raises:
        ParityError: logits with a cache that differ from those of the dense reference; then no file is written.
    """
    keys = ("peer", "size", "seq_len", "dtype")
    record = Record(path, "generate", dataclasses.asdict(config), keys, ("lengths", "dtypes", "peers", "sizes"), resume)
    what = f"{config.new_tokens} tokens"
    check = partial(check_cached_logits, config)
    return measure_models(config, record, check, partial(_measured, one_round(config)), what, update)


def check_cached_logits(config: GenerateConfig, method: str, dtype: str) -> list[dict[str, Any]]:
    """Errors of a tiny model's logits, read token by token with a cache, beside the dense reference in float64.

    Raises:
        ParityError: an error beyond its bound.
    """
    ids = _ids(config, PARITY_TOKENS)
    model = _ours(config, "tiny", method).to(DTYPES[dtype])
    with torch.no_grad():
        cache = DynamicCache(config=model.config)
        found = torch.cat([model(token, past_key_values=cache).logits for token in torch.split(ids, 1, 1)], dim=1)
        model.set_attn_implementation("eager")
        dense = model(ids).logits
        truth = model.double()(ids).logits
    error, beside = (float((x.double() - truth).abs().max()) for x in (found, dense))
    magnitude, eps = float(truth.abs().max()), torch.finfo(DTYPES[dtype]).eps
    return judge(method, [Error(tensor="logits", error=error, dense=beside, magnitude=magnitude, eps=eps)])


def _measured(config: GenerateConfig, cell: Cell, earlier: Cell) -> Cell:
    ours = _ours(config, cell["size"], cell["peer"]).to(DTYPES[cell["dtype"]])
    theirs = _llama(config, cell["size"]).to(DTYPES[cell["dtype"]])
    ids = _ids(config, cell["seq_len"])
    calls = [_generate(model, ids, config.new_tokens) for model in (theirs, ours)]
    times = comparison(earlier, *interleaved(calls[0], calls[1], config.device, config.repeats, config.seconds))
    seconds = {name: times[name]["median"] / 1000.0 for name in ("milliseconds", "baseline_milliseconds")}
    return {
        **times,
        "tokens_per_second": round(config.new_tokens / seconds["milliseconds"], 2),
        "baseline_tokens_per_second": round(config.new_tokens / seconds["baseline_milliseconds"], 2),
    }


def _generate(model: Any, ids: Tensor, new_tokens: int) -> Callable[[], Tensor]:
    """`generate` from a cache that holds all but the last of the ids; each call begins from the same cache."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids[:, :-1], past_key_values=cache, logits_to_keep=1)
    mask = torch.ones_like(ids)

    def call() -> Tensor:
        for layer in cache.layers:
            layer.keys, layer.values = (x[:, :, : ids.shape[1] - 1] for x in (layer.keys, layer.values))
        out: Tensor = model.generate(
            ids,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return out

    return call


def _llama(config: GenerateConfig, size: LlamaSize) -> LlamaForCausalLM:
    torch.manual_seed(0)
    fields = llama_config(size, config.vocab_size, "rotary").to_dict()
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    theirs = LlamaConfig(
        **{name: fields[name] for name in (*sizes, "vocab_size", "max_position_embeddings", "rms_norm_eps")}
    )
    return LlamaForCausalLM(theirs).to(config.device).eval()


def _ours(config: GenerateConfig, size: LlamaSize, method: str) -> Any:
    """The same weights with another positional method."""
    model = WaveposLlamaForCausalLM(llama_config(size, config.vocab_size, {"method": method}))
    model.load_state_dict(_llama(config, size).state_dict(), strict=False)
    return model.to(config.device).eval()


def _ids(config: GenerateConfig, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, config.vocab_size, (1, length), generator=generator).to(config.device)
