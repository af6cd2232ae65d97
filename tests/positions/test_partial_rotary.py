"""Rotary on a part of the head, in both of the field's styles, and θ by the name of the trained length."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPTNeoXConfig, LlamaConfig, PhiConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.phi import modeling_phi

from wavepos import NoPE, Rotary, attention
from wavepos.positions import parse_position, position_dict
from wavepos.positions.rotary import RotaryConfig
from wavepos.positions.rotary_scaling import LinearScaling, YarnScaling
from wavepos.testing import Case, assert_within

DIM = 32
STYLES: Any = ["first_dims", "high_frequencies"]


def inputs() -> tuple[Tensor, Tensor]:
    q, k = torch.randn(2, 2, 4, 50, DIM, generator=torch.Generator().manual_seed(0))
    return q, k


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("family", ["gpt_neox", "phi"])
def test_the_first_dimensions_are_rotated_as_in_transformers(family: str, factor: float) -> None:
    sizes = {"hidden_size": 4 * DIM, "num_attention_heads": 4, "num_hidden_layers": 1}
    rope = {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": factor}
    (q, k), ids = inputs(), torch.arange(50)[None]
    if family == "gpt_neox":
        embedding = modeling_gpt_neox.GPTNeoXRotaryEmbedding(GPTNeoXConfig(**sizes, rope_parameters=rope))
        theirs = modeling_gpt_neox.apply_rotary_pos_emb(q, k, *embedding(q, ids))
    else:
        embedding = modeling_phi.PhiRotaryEmbedding(PhiConfig(**sizes, rope_parameters=rope))
        part = int(DIM * factor)
        turned = modeling_phi.apply_rotary_pos_emb(q[..., :part], k[..., :part], *embedding(q, ids))
        theirs = tuple(torch.cat([x, y[..., part:]], -1) for x, y in zip(turned, (q, k), strict=True))
    terms = Rotary(DIM, theta=1000.0, partial_rotary_factor=factor).terms(q, k)
    torch.testing.assert_close(terms.q_BHTD, theirs[0], atol=2e-5, rtol=0.0)
    torch.testing.assert_close(terms.k_BGSD, theirs[1], atol=2e-5, rtol=0.0)
    assert torch.equal(terms.q_BHTD[..., int(DIM * factor) :], q[..., int(DIM * factor) :])


@pytest.mark.parametrize("factor", [0.25, 0.3, 0.75])
@pytest.mark.parametrize("stretch", [1.0, 4.0])
def test_the_high_frequencies_are_those_of_transformers_proportional(factor: float, stretch: float) -> None:
    rope = {"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": factor, "factor": stretch}
    config = LlamaConfig(hidden_size=4 * DIM, num_attention_heads=4, rope_parameters=rope)
    theirs, scale = ROPE_INIT_FUNCTIONS["proportional"](config, torch.device("cpu"))
    scaling = None if stretch == 1.0 else LinearScaling(factor=stretch)
    rotary = Rotary(DIM, scaling=scaling, partial_rotary_factor=factor, partial_rotary_style="high_frequencies")
    ours, our_scale = rotary.frequencies(50)
    torch.testing.assert_close(ours.float(), theirs, atol=1e-7, rtol=1e-6)
    assert scale == our_scale == 1.0
    assert int((ours != 0.0).sum()) == int(factor * DIM // 2)


def test_pairs_whose_frequency_is_dropped_stay_as_they_are() -> None:
    q, k = inputs()
    terms = Rotary(DIM, partial_rotary_factor=0.5, partial_rotary_style="high_frequencies").terms(q, k)
    kept = torch.arange(DIM // 2) >= DIM // 4
    assert torch.equal(terms.q_BHTD[..., kept.repeat(2)], q[..., kept.repeat(2)])
    whole = Rotary(DIM).terms(q, k)
    assert torch.equal(terms.q_BHTD[..., ~kept.repeat(2)], whole.q_BHTD[..., ~kept.repeat(2)])


def test_a_scaling_of_the_first_dimensions_is_that_of_a_smaller_head() -> None:
    scaling = YarnScaling(factor=4.0, original_max_position_embeddings=64)
    part = Rotary(DIM, scaling=scaling, partial_rotary_factor=0.5)
    small = Rotary(DIM // 2, scaling=scaling)
    (q, k), half = inputs(), slice(0, DIM // 2)
    terms, smaller = part.terms(q, k), small.terms(q[..., half], k[..., half])
    assert torch.equal(terms.q_BHTD[..., half], smaller.q_BHTD)
    assert torch.equal(terms.q_BHTD[..., DIM // 2 :], q[..., DIM // 2 :])


@pytest.mark.parametrize("offset", [0, 17])
@pytest.mark.parametrize("style", STYLES)
def test_rotated_keys_are_kept(style: Any, offset: int) -> None:
    rotary = Rotary(DIM, partial_rotary_factor=0.5, partial_rotary_style=style)
    q, k, v = torch.randn(1, 4, 2, DIM), torch.randn(1, 4, 40, DIM), torch.randn(1, 4, 40, DIM)
    end = offset + 2
    expected = attention(q, k[:, :, :end], v[:, :, :end], position=rotary, query_offset=offset)
    kept, at = rotary.rotated(k, 0, 40), torch.tensor(offset)
    found = attention(rotary.rotated(q, at, 40), kept, v, position=NoPE(), query_offset=at)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert torch.equal(rotary.rotated(q, at, 40), rotary.rotated(q, offset, 40))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["banded", "reference"])
@pytest.mark.parametrize("style", STYLES)
def test_every_backend_is_within_twice_the_dense_error(style: Any, backend: Any, dtype: torch.dtype) -> None:
    rotary = Rotary(DIM, partial_rotary_factor=0.25, partial_rotary_style=style)
    assert_within(rotary, Case(head_dim=DIM, num_queries=60, num_keys=60, dtype=dtype), backend)


def test_theta_is_the_trained_length_by_name() -> None:
    named = Rotary(DIM, theta="trained_length", trained_length=256)
    q, k = inputs()
    assert torch.equal(named.terms(q, k).q_BHTD, Rotary(DIM, theta=256.0).terms(q, k).q_BHTD)
    config = parse_position({"method": "rotary", "theta": "trained_length", "trained_length": 256})
    assert isinstance(config, RotaryConfig)
    assert config.base == 256.0
    assert parse_position(position_dict(config)) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"theta": "trained_length"}, "trained_length goes with theta='trained_length' and is needed there"),
        (
            {"trained_length": 256},
            "trained_length goes with theta='trained_length' and is needed there, got theta=10000",
        ),
        ({"theta": "trained"}, "theta must be a finite number or 'trained_length', got 'trained': did you mean"),
        ({"theta": "trained_length", "trained_length": 1}, "trained_length must lie between 2 and"),
        ({"partial_rotary_factor": 0.0}, "partial_rotary_factor must be above 0 and at most 1, got 0.0; method 'nope'"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor must be above 0 and at most 1, got 1.5"),
        (
            {"partial_rotary_factor": 0.1},
            "an even number of dimensions to rotate, at least 2, got 0.1 of head_dim=32, so 3",
        ),
        (
            {"partial_rotary_style": "first"},
            "must be one of 'first_dims', 'high_frequencies', got 'first': did you mean",
        ),
        (
            {
                "partial_rotary_factor": 0.5,
                "partial_rotary_style": "high_frequencies",
                "scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64},
            },
            "scaling must be linear or None with partial_rotary_style='high_frequencies', .* got 'yarn'",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_position({"method": "rotary", **fields}).build(head_dim=DIM, num_heads=4)
