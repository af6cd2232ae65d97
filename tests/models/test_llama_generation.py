"""The Llama family with caches: what is cached equals what is read whole, in every cache and every way to generate."""

from typing import Any

import pytest
import torch
from small_llama import DYNAMIC, POSITIONS, RECENCY, name, small_llama, tokens
from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import Cache, QuantizedLayer
from transformers.generation.configuration_utils import CompileConfig

from wavepos.models import WaveposLlamaForCausalLM

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


class ExactQuantizedLayer(QuantizedLayer):
    """transformers' quantised layer (residual in full precision, the rest quantised) with a quantiser that is exact."""

    def _quantize(self, tensor: Tensor, axis: int) -> Tensor:
        return tensor.clone()

    def _dequantize(self, q_tensor: Tensor) -> Tensor:
        return q_tensor


def quantized_cache(model: WaveposLlamaForCausalLM) -> Cache:
    return Cache(layers=[ExactQuantizedLayer(residual_length=8) for _ in range(model.config.num_hidden_layers)])


def read(model: WaveposLlamaForCausalLM, x: Tensor, cache: Cache, pieces: list[int], **arguments: Any) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(piece, past_key_values=cache, **arguments).logits for piece in x.split(pieces, 1)], 1)


@pytest.mark.parametrize("pieces", [[1] * 48, [20, 7, 1, 20], [40] + [1] * 8], ids=["tokens", "chunks", "prefill"])
@pytest.mark.parametrize("kind", ["dynamic", "static", "quantized"])
@pytest.mark.parametrize("position", POSITIONS, ids=name)
def test_cached_equals_uncached(position: str | dict, kind: str, pieces: list[int]) -> None:
    model, x = small_llama(position), tokens()
    cache: Cache
    match kind:
        case "dynamic":
            cache = DynamicCache(config=model.config)
        case "static":
            cache = StaticCache(config=model.config, max_cache_len=64)
        case _:
            cache = quantized_cache(model)
    with torch.no_grad():
        whole = model(x, use_cache=False).logits
    torch.testing.assert_close(read(model, x, cache, pieces), whole, **TOLERANCE)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_rotation_that_follows_the_length_is_anew_at_each_step(kind: str) -> None:
    """In one layer; deeper ones keep what the layers before them made with the frequencies of shorter sequences."""
    model, x = small_llama(DYNAMIC, num_hidden_layers=1), tokens(length=40)
    cache = DynamicCache(config=model.config) if kind == "dynamic" else StaticCache(model.config, max_cache_len=64)
    steps = read(model, x, cache, [12] + [1] * 28)
    with torch.no_grad():
        for length in (12, 16, 17, 25, 40):
            prefix = model(x[:, :length], use_cache=False).logits[:, -1]
            torch.testing.assert_close(steps[:, length - 1], prefix, **TOLERANCE)


@pytest.mark.parametrize("position", POSITIONS, ids=name)
def test_a_compiled_step_with_a_static_cache_serves_every_token(position: str | dict) -> None:
    torch.compiler.reset()
    model, x = small_llama(position), tokens()
    with torch.no_grad():
        whole = model(x, use_cache=False).logits
    cache = StaticCache(config=model.config, max_cache_len=64)
    first = read(model, x[:, :20], cache, [20])
    step = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        rest = read(step, x[:, 20:], cache, [1] * 28)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, **TOLERANCE)


@pytest.mark.parametrize("position", ["wavelet", "rotary", "alibi"])
def test_generate_compiles_its_step_with_a_static_cache_and_left_padding(position: str) -> None:
    torch.compiler.reset()
    model, (x, mask) = small_llama(position), left_padded()
    compile_config = CompileConfig(backend="eager", fullgraph=True, mode="default", dynamic=False)
    compile_config._compile_all_devices = True
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = generated(model, x, mask, cache_implementation="static", compile_config=compile_config)
    assert torch.equal(compiled, generated(model, x, mask))


def left_padded() -> tuple[Tensor, Tensor]:
    x, mask = tokens(2, 25), torch.ones(2, 25, dtype=torch.long)
    x[0, :7], mask[0, :7] = 0, 0
    return x, mask


def generated(model: WaveposLlamaForCausalLM, x: Tensor, mask: Tensor, **arguments: Any) -> Tensor:
    return model.generate(x, attention_mask=mask, max_new_tokens=12, min_new_tokens=12, do_sample=False, **arguments)


@pytest.mark.parametrize("position", POSITIONS, ids=name)
@pytest.mark.parametrize(
    "arguments",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 6},
    ],
    ids=["no-cache", "static", "chunked-prefill"],
)
def test_generate_gives_the_same_tokens_however_it_caches(position: str | dict, arguments: dict) -> None:
    model, (x, mask) = small_llama(position), left_padded()
    assert torch.equal(generated(model, x, mask, **arguments), generated(model, x, mask))


@pytest.mark.parametrize("position", POSITIONS, ids=name)
def test_left_padding_does_not_change_what_is_generated(position: str | dict) -> None:
    model, (x, mask) = small_llama(position), left_padded()
    both = generated(model, x, mask)
    assert torch.equal(both[:1, 7:], generated(model, x[:1, 7:], mask[:1, 7:]))
    assert torch.equal(both[1:], generated(model, x[1:], mask[1:]))


@pytest.mark.parametrize("position", POSITIONS, ids=name)
def test_beams_and_speculation_are_exact(position: str | dict) -> None:
    model, x = small_llama(position), tokens(1, 20)
    mask = torch.ones_like(x)
    beams = generated(model, x, mask, num_beams=3)
    assert torch.equal(beams, generated(model, x, mask, num_beams=3, use_cache=False))
    greedy = generated(model, x, mask)
    assert torch.equal(generated(model, x, mask, prompt_lookup_num_tokens=3), greedy)
    assistant = small_llama(position, num_hidden_layers=1)
    assert torch.equal(generated(model, x, mask, assistant_model=assistant), greedy)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="offloading needs a GPU")
def test_an_offloaded_cache_gives_the_same_tokens() -> None:
    model, (x, mask) = small_llama().cuda(), (part.cuda() for part in left_padded())
    assert torch.equal(generated(model, x, mask, cache_implementation="offloaded"), generated(model, x, mask))


def test_a_quantised_cache_of_optimum_quanto_is_served() -> None:
    pytest.importorskip("optimum.quanto", reason="optimum-quanto is not installed")
    model, x = small_llama(), tokens(1, 20)
    mask = torch.ones_like(x)
    out = generated(
        model, x, mask, cache_implementation="quantized", cache_config={"backend": "quanto", "q_group_size": 16}
    )
    assert out.shape == (1, 32)


@pytest.mark.parametrize(
    "method", ["generate_batch", "init_continuous_batching", "continuous_batching_context_manager"]
)
def test_continuous_batching_is_refused(method: str) -> None:
    with pytest.raises(NotImplementedError, match="continuous batching is not served"):
        getattr(small_llama(), method)([[1, 2, 3]])


def test_a_rotation_that_follows_the_length_is_refused_in_a_compiled_step() -> None:
    torch.compiler.reset()
    model, x = small_llama(DYNAMIC), tokens()
    cache = StaticCache(config=model.config, max_cache_len=64)
    read(model, x[:, :20], cache, [20])
    step = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    with pytest.raises(Exception, match="keys that are rotated already"):
        read(step, x[:, 20:], cache, [1] * 28)


def test_recency_wavelets_decode_from_a_full_cache_as_they_read() -> None:
    model, x = small_llama(RECENCY), tokens(1, 64)
    cache = StaticCache(config=model.config, max_cache_len=64)
    with torch.no_grad():
        whole = model(x, use_cache=False).logits
    torch.testing.assert_close(read(model, x, cache, [32, 32]), whole, **TOLERANCE)
