"""Length temperatures: a property of any position, exact at every position, offset and precision."""

import json
from typing import Any

import pytest
import torch
from small_positions import HEAD_DIM, NUM_HEADS, position
from torch import Tensor
from transformers import DynamicCache, Llama4TextConfig
from transformers.models.llama4.modeling_llama4 import Llama4TextAttention

from wavepos import ALiBi, NoPE, Rotary, Wavelet, attention, attention_map
from wavepos.positions import Position, build_position, parse_position, position_dict
from wavepos.testing import Case, assert_within

METHODS = ["nope", "rotary", "alibi", "wavelet", "wavelet-query-bias", "learned_relative", "transformer_xl"]
LLAMA4 = {"form": "llama4", "attn_scale": 0.5, "floor_scale": 7}


def tempered(name: str, temperature: Any) -> Position:
    built = position(name).with_temperature(temperature, num_heads=NUM_HEADS)
    if temperature == "log":
        with torch.no_grad():
            built.temperature.s_H.copy_(torch.tensor([0.2, 0.5, -0.3, 1.0]))
    return built


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["banded", "reference"])
@pytest.mark.parametrize("temperature", ["log", LLAMA4], ids=["log", "llama4"])
@pytest.mark.parametrize("name", METHODS)
def test_every_backend_is_within_twice_the_dense_error(
    name: str, temperature: Any, backend: Any, dtype: torch.dtype
) -> None:
    case = Case(num_queries=70, num_keys=75, query_offset=5, dtype=dtype)
    assert_within(tempered(name, temperature), case, backend)


def test_log_is_scalable_softmax_with_as_many_keys_as_a_query_sees() -> None:
    built = tempered("nope", "log").double()
    q, k, v = torch.randn(3, 1, NUM_HEADS, 20, HEAD_DIM, dtype=torch.float64)
    scores = q @ k.mT / HEAD_DIM**0.5
    out = torch.zeros_like(q)
    for head, s in enumerate(built.temperature.s_H.tolist()):
        for m in range(20):
            z, n = scores[0, head, m, : m + 1], m + 1
            out[0, head, m] = (n ** (s * z) / (n ** (s * z)).sum()) @ v[0, head, :n]  # n^{s·z}, the paper's own form
    torch.testing.assert_close(attention(q, k, v, position=built), out)


@pytest.mark.parametrize("past", [0, 5])
def test_llama4_equals_transformers_attention(past: int) -> None:
    config = Llama4TextConfig(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_hidden_layers=1,
        no_rope_layers=[0], attn_scale=0.3, floor_scale=6, attention_dropout=0.0,
    )  # fmt: skip
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs = Llama4TextAttention(config, layer_idx=0).eval()
    x = torch.randn(2, 30, 64)

    def projected(name: str) -> Tensor:
        return getattr(theirs, name)(x).unflatten(-1, (-1, 16)).transpose(1, 2)

    q, k, v = (projected(name) for name in ("q_proj", "k_proj", "v_proj"))
    ours = NoPE().with_temperature({"form": "llama4", "attn_scale": 0.3, "floor_scale": 6})
    mask = torch.full((30, 30), -torch.inf).triu(1)
    cache = DynamicCache()
    with torch.no_grad():
        expected = []
        for part, rows in ((x[:, :past], mask[:past, :past]), (x[:, past:], mask[past:])):
            if part.shape[1]:
                expected.append(theirs(part, (None, None), rows[None, None], past_key_values=cache)[0])
        found = theirs.o_proj(attention(q, k, v, position=ours).transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, torch.cat(expected, 1), atol=1e-6, rtol=1e-5)


def test_defaults_are_llama4s_own() -> None:
    built = NoPE().with_temperature("llama4")
    m = torch.tensor([0, 8190, 8191, 16382, 16383, 10**6])
    expected = torch.log1p(torch.floor((m.float() + 1.0) / 8192)) * 0.1 + 1.0
    torch.testing.assert_close(built.temperature.factors(m, torch.float32), expected, atol=1e-7, rtol=0)


def test_a_bias_is_left_as_it_is() -> None:
    alibi = ALiBi(NUM_HEADS).with_temperature(LLAMA4)
    q, k, v = torch.randn(3, 1, NUM_HEADS, 20, HEAD_DIM)
    factor = alibi.temperature.factors(torch.arange(20), torch.float32)[:, None]
    expected = attention(q * factor, k, v, position=ALiBi(NUM_HEADS))
    torch.testing.assert_close(attention(q, k, v, position=alibi), expected)


@pytest.mark.parametrize("temperature", ["log", LLAMA4], ids=["log", "llama4"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "rotary"])
def test_a_tensor_offset_equals_the_int(name: str, temperature: Any) -> None:
    built, generator = tempered(name, temperature), torch.Generator().manual_seed(0)
    q = torch.randn(2, NUM_HEADS, 3, HEAD_DIM, generator=generator)
    k, v = torch.randn(2, 2, 2, 40, HEAD_DIM, generator=generator)
    states = torch.randn(2, NUM_HEADS, 3, 4, generator=generator) if name == "learned_relative" else None
    for offset in (0, 17, 37):
        end = offset + 3
        whole = attention(
            q, k[:, :, :end], v[:, :, :end], position=built, query_offset=offset, relative_states=states
        )  # fmt: skip
        found = attention(q, k, v, position=built, query_offset=torch.tensor(offset), relative_states=states)
        torch.testing.assert_close(found, whole, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_maps_have_the_weights_of_the_attention(name: str) -> None:
    built = tempered(name, "log")
    q, k, v = torch.randn(3, 1, NUM_HEADS, 30, HEAD_DIM)
    states = torch.randn(1, NUM_HEADS, 30, 4) if name == "learned_relative" else None
    weights = attention_map(q, k, position=built, relative_states=states)
    torch.testing.assert_close(weights @ v, attention(q, k, v, position=built, relative_states=states))


def test_any_config_takes_a_temperature_and_a_window() -> None:
    config = parse_position({"method": "wavelet", "temperature": "log", "window": 5, "query_bias": "zeros"})
    built = build_position(config, head_dim=16, num_heads=4)
    assert isinstance(built, Wavelet)
    assert built.window == 5
    assert [name for name, _ in built.named_parameters()] == ["query_bias_HD", "temperature.s_H"]
    assert built.temperature.s_H.tolist() == pytest.approx([0.168] * 4)
    assert build_position(parse_position("wavelet"), head_dim=16, num_heads=4).temperature is None


def test_the_start_is_attention_as_it_is_without_in_the_mean_over_1024_positions() -> None:
    factors = NoPE().with_temperature("log", num_heads=1).temperature.factors(torch.arange(1024), torch.float64)
    assert factors.mean().item() == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize("backend", ["banded", "reference"])
def test_a_call_without_a_window_has_that_of_the_position(backend: Any) -> None:
    built = build_position(parse_position({"method": "wavelet", "window": 5}), head_dim=16, num_heads=4)
    q, k, v = torch.randn(3, 1, 4, 30, 16)
    bare = Wavelet(16)
    expected = attention(q, k, v, position=bare, window=5, backend=backend)
    torch.testing.assert_close(attention(q, k, v, position=built, backend=backend), expected)
    torch.testing.assert_close(attention_map(q, k, position=built) @ v, expected)
    wider = attention(q, k, v, position=built, window=9, backend=backend)
    torch.testing.assert_close(wider, attention(q, k, v, position=bare, window=9, backend=backend))


@pytest.mark.parametrize("given", ["log", "SSMax", {"form": "log"}, {"form": "log", "start": 0.5}, "llama4", LLAMA4])
def test_json_goes_in_and_out(given: Any) -> None:
    config = parse_position({"method": "nope", "temperature": given, "window": 512})
    again = json.loads(json.dumps(position_dict(config)))
    assert again["temperature"]["form"] in ("log", "llama4")
    assert parse_position(again) == config


def test_what_is_not_given_is_not_stored() -> None:
    assert position_dict(parse_position("nope")) == {"method": "nope"}
    assert not {"temperature", "window"} & set(position_dict(parse_position("rotary")))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": "lag"}, "temperature must be a length temperature .*one of log, llama4.* or None, got 'lag'"),
        ({"temperature": {"form": "lag"}}, "form of a length temperature must be one of .*did you mean 'log'"),
        ({"temperature": {"form": "log", "strat": 1.0}}, "unknown key 'strat': did you mean 'start'"),
        ({"temperature": {"form": "llama4", "floor_scale": 0}}, "floor_scale must lie between 1 and 2147483648, got 0"),
        ({"window": 0}, "position 'nope': window must lie between 1 and 2147483648, got 0"),
        ({"window": 2.5}, "position 'nope': window must be a whole number or None, got 2.5"),
        ({"windw": 2}, "unknown key 'windw': did you mean 'window'"),
    ],
    ids=str,
)
def test_wrong_values_are_named(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_position({"method": "nope", **given})


def test_heads_and_names_are_checked_in_the_core_too() -> None:
    with pytest.raises(ValueError, match="num_heads must be given with temperature 'log'"):
        Rotary(16).with_temperature("log")
    with pytest.raises(ValueError, match="must be one of log, llama4, got 'warm'"):
        Rotary(16).with_temperature("warm")
    q = torch.randn(1, 2, 5, 16)
    with pytest.raises(ValueError, match="LogTemperature was made for num_heads=4, got q with 2 heads"):
        attention(q, q, q, position=Rotary(16).with_temperature("log", num_heads=4))
    with pytest.raises(ValueError, match="LogTemperature lies on device meta and q on cpu"):
        attention(q, q, q, position=Rotary(16).with_temperature("log", num_heads=2).to("meta"))
