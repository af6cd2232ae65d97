"""Configs round-trip through JSON, and the rivals equal transformers' own code."""

import json
import math
from decimal import Decimal, localcontext

import pytest
import torch
from transformers import LlamaConfig, T5Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.t5.modeling_t5 import T5Attention

from wavepos import ALiBi, LearnedRelative, Rotary, T5Bias
from wavepos.positions import METHODS, build_position, parse_position, position_dict
from wavepos.positions.alibi import alibi_slopes
from wavepos.positions.t5_bias import t5_buckets

LONG_FACTORS = {"short_factor": [1.0 + 0.1 * i for i in range(16)], "long_factor": [2.0 + 0.5 * i for i in range(16)]}
SCALINGS = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0, "max_position_embeddings": 128},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "mscale": 0.7,
        "mscale_all_dim": 1.1,
        "truncate": False,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "attention_factor": 1.25},
    {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 128, **LONG_FACTORS},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
]
CONFIGS = [
    *METHODS,
    {"method": "rotary", "theta": 500000.0},
    *({"method": "rotary", "scaling": scaling} for scaling in SCALINGS),
    {"method": "t5", "num_buckets": 16, "max_distance": 64},
    {"method": "shaw", "max_distance": 16},
    {"method": "transformer_xl", "sinusoid_dim": 32},
    {"method": "wavelet", "wavelet": "gaussian", "scales": [1.0, 2.0], "direction": "future", "query_bias": "recency"},
    {"method": "wavelet", "scales": [2.0**j for j in range(32)]},
    {"method": "wavelet", "gate": "forget"},
    {"method": "forget_gate", "decay_times": [2.0, 512.0]},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_configs_round_trip_through_json(config: str | dict) -> None:
    parsed = parse_position(config)
    assert parse_position(json.loads(json.dumps(position_dict(parsed)))) == parsed
    position = build_position(parsed, head_dim=32, num_heads=4)
    q = torch.randn(1, 4, 7, 32)
    read = {"relative_states_BHTE": q[..., :16]} if isinstance(position, LearnedRelative) else {}
    if parsed.reads_gates:
        read["gates_BHS"] = -q[..., 0].abs()
    terms = position.terms(q, q, q_offset=3, **read)
    assert terms.q_BHTD.shape == q.shape
    assert position.needs_table == (terms.in_use() & {"table", "bias_HR", "gates_BHS"} != set())
    if isinstance(config, dict):
        assert {
            key: position_dict(parsed)[key] for key in config if key not in ("scaling", "scales", "decay_times")
        } == {key: value for key, value in config.items() if key not in ("scaling", "scales", "decay_times")}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            "rotry",
            "method of a position must be one of nope, rotary, alibi, .*, wavelet, learned_relative.*got .rotry.: did "
            "you mean 'rotary'",
        ),
        ({"theta": 1e4}, "got None"),
        (
            {"method": "rotary", "thetta": 1e4},
            "position 'rotary' takes theta, scaling, .*, window, got the unknown key 'thetta': did you mean 'theta'",
        ),
        ({"method": "nope", "scale": 1}, "position 'nope' takes temperature, window, got the unknown key 'scale'"),
        ({"method": "rotary", "theta": 0.5}, "theta must be more than 1, got 0.5"),
        ({"method": "rotary", "scaling": {"rope_type": "ntk"}}, "rope_type of a rotary scaling must be one of linear"),
        ({"method": "rotary", "scaling": {"rope_type": "linear"}}, "rotary scaling 'linear' needs the key 'factor'"),
        (
            {"method": "rotary", "scaling": {"rope_type": "linear", "factor": 0.5}},
            "rotary scaling 'linear': factor must lie between 1.0 and",
        ),
        ({"method": "t5", "num_buckets": 300}, "max_distance more than num_buckets // 2"),
        ({"method": "transformer_xl", "sinusoid_dim": 7}, "sinusoid_dim must be even, got 7"),
        ({"method": "shaw", "max_distance": 0}, "max_distance must lie between 1 and 16777216, got 0"),
    ],
    ids=str,
)
def test_wrong_configs_are_named(config: str | dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_position(config)


@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
@pytest.mark.parametrize("seq_len", [100, 300])
def test_scalings_equal_transformers(scaling: dict, seq_len: int) -> None:
    parsed = parse_position({"method": "rotary", "theta": 50000.0, "scaling": scaling})
    ours, our_factor = Rotary(32, theta=50000.0, scaling=parsed.scaling).frequencies(seq_len)  # type: ignore[union-attr]
    config = LlamaConfig(
        hidden_size=128,
        num_attention_heads=4,
        max_position_embeddings=scaling.get("max_position_embeddings", 512),
        rope_parameters={"rope_theta": 50000.0, **{k: v for k, v in scaling.items() if k != "max_position_embeddings"}},
    )
    theirs, their_factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"), seq_len=seq_len)
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-6, atol=0.0)
    assert our_factor == pytest.approx(their_factor, rel=1e-9)


def test_rotation_equals_transformers_llama() -> None:
    q, k = torch.randn(2, 4, 50, 32), torch.randn(2, 2, 70, 32)
    rotary = LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=128, num_attention_heads=4, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    )
    terms = Rotary(32).terms(q, k, q_offset=20)
    cos, sin = rotary(k, torch.arange(70)[None])
    expected_q, _ = apply_rotary_pos_emb(q, q, cos[:, 20:], sin[:, 20:])
    expected_k, _ = apply_rotary_pos_emb(k, k, cos, sin)
    torch.testing.assert_close(terms.q_BHTD, expected_q, rtol=0.0, atol=2e-5)
    torch.testing.assert_close(terms.k_BGSD, expected_k, rtol=0.0, atol=2e-5)


@pytest.mark.parametrize("place", [4_096, 65_536, 1_000_000])
def test_angles_keep_their_precision_at_a_million_tokens(place: int) -> None:
    """cos and sin of position · 10000^(−2i/D), worked out with 50 digits."""
    q = torch.zeros(1, 1, 1, 128)
    q[..., :64] = 1.0  # rotated it holds cos in the first half and sin in the second
    rotated = Rotary(128).rotated(q, torch.tensor(place), place + 1)[0, 0, 0].tolist()
    with localcontext() as context:
        context.prec = 50
        turn = 2 * Decimal("3.14159265358979323846264338327950288419716939937510582097494")
        angles = [float(place * Decimal(10000) ** (Decimal(-2 * i) / 128) % turn) for i in range(64)]
    assert rotated == pytest.approx([*map(math.cos, angles), *map(math.sin, angles)], abs=1e-7)


def test_dynamic_frequencies_follow_the_number_of_keys() -> None:
    parsed = parse_position({"method": "rotary", "scaling": SCALINGS[1]})
    position = build_position(parsed, head_dim=32, num_heads=4)
    q = torch.randn(1, 1, 300, 32)
    for length in (100, 300, 120, 300):
        fresh = build_position(parsed, head_dim=32, num_heads=4)
        part = q[:, :, :length]
        assert torch.equal(position.terms(part, part).q_BHTD, fresh.terms(part, part).q_BHTD)


@pytest.mark.parametrize("num_heads", [1, 2, 8, 12, 16, 20, 71])
def test_alibi_slopes_equal_transformers(num_heads: int) -> None:
    theirs = build_alibi_tensor(torch.ones(1, 2), num_heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(torch.tensor(alibi_slopes(num_heads)), theirs, rtol=1e-6, atol=0.0)


def test_alibis_slopes_in_the_paper() -> None:
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    gates = ALiBi(8).terms(torch.zeros(1, 8, 5, 4), torch.zeros(1, 8, 5, 4)).gates_BHS
    assert gates is not None
    assert gates.flatten().tolist() == [-(2.0**-i) for i in range(1, 9)]


def test_t5_bias_equals_transformers() -> None:
    config = T5Config(d_model=64, num_heads=4, is_decoder=True)
    theirs = T5Attention(config, has_relative_attention_bias=True)
    ours = T5Bias(4)
    with torch.no_grad():
        ours.weight.copy_(theirs.relative_attention_bias.weight.T)
    bias = theirs.compute_bias(400, 400)[0]
    terms = ours.terms(torch.zeros(1, 4, 400, 16), torch.zeros(1, 4, 400, 16))
    assert terms.bias_HR is not None
    for delta in (0, 1, 15, 16, 17, 40, 127, 128, 129, 399):
        torch.testing.assert_close(terms.bias_HR[:, min(delta, 128)], bias[:, 399, 399 - delta])
    assert t5_buckets(400, 32, 128).max() == 31
