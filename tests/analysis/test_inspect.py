"""What heads prefer and where they look, on models whose answer is known."""

import math
from itertools import pairwise

import pytest
import torch
from small_models import FAMILIES, small
from torch import nn

from wavepos.analysis.inspect import inspect_model, own_preference, sampled_distances
from wavepos.analysis.model_attention import attention_inputs
from wavepos.analysis.receptive_field import (
    distance_edges,
    gradient_by_distance,
    mass_by_distance,
    mean_distance,
)
from wavepos.positions.alibi import alibi_slopes
from wavepos.positions.t5_bias import t5_buckets

LENGTH, ROWS = 60, 8
FIRST = LENGTH - ROWS


def texts(count: int = 2, length: int = LENGTH) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randint(1, 97, (count, length), generator=generator))


def test_bins_of_distances_double_and_cover_all() -> None:
    assert distance_edges(60) == (0, 1, 2, 4, 8, 16, 32, 60)
    assert distance_edges(64) == (0, 1, 2, 4, 8, 16, 32, 64)
    assert distance_edges(1) == (0, 1)
    assert sampled_distances(52)[:4] == (0, 1, 2, 3)
    assert sampled_distances(52)[-1] == 52
    assert sampled_distances(2) == (0, 1, 2)


def test_mass_by_distance_is_that_of_a_map_that_looks_at_one_place() -> None:
    weights = torch.zeros(2, 3, 20)
    for row, m in enumerate((17, 18, 19)):
        weights[0, row, m - 5] = 1.0
        weights[1, row, m] = 0.25
        weights[1, row, 0] = 0.75
    edges = distance_edges(20)
    assert mass_by_distance(weights, edges, 17).tolist() == [[0, 0, 0, 1, 0, 0], [0.25, 0, 0, 0, 0, 0.75]]
    assert mean_distance(weights, 17).tolist() == pytest.approx([5.0, 0.75 * 18])


def uniform(family: str) -> nn.Module:
    """A model whose heads attend to all keys alike."""
    model = small(family, "nope")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv" in name or "q_proj" in name:
                parameter.zero_()
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_uniform_model_prefers_nothing_and_looks_half_way_back(family: str) -> None:
    found = inspect_model(uniform(family), texts(), rows=ROWS)
    rows = range(FIRST, LENGTH)
    edges = distance_edges(LENGTH)
    for layer in found.layers:
        assert not layer.own_HN.any()
        assert layer.of_text_HN.abs().max() < 1e-12
        assert layer.mean_distance_H.tolist() == pytest.approx([sum(m / 2 for m in rows) / ROWS] * 4, rel=1e-5)
        share = [sum(max(0, min(b, m + 1) - a) / (m + 1) for m in rows) / ROWS for a, b in pairwise(edges)]
        assert layer.mass_HE[0].tolist() == pytest.approx(share, rel=1e-5)
        assert layer.windows.keys_H[0] == pytest.approx(sum(m + 1 for m in rows) / ROWS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_model_has_nothing_at_all_beyond_its_window(family: str) -> None:
    window, layers = 5, 2
    found = inspect_model(small(family, {"method": "rotary", "window": window}), texts(), rows=ROWS)
    inside = torch.tensor(found.distances) < window
    for layer in found.layers:
        assert layer.of_text_HN[:, inside].abs().max() < 1e-12
        assert torch.isneginf(layer.of_text_HN[:, ~inside]).all()
        assert torch.isneginf(layer.own_HN[:, ~inside]).all()
        assert not layer.mass_HE[:, found.edges.index(8) :].any()
        assert max(layer.windows.reach_H) < window
    reached = layers * (window - 1)
    assert (found.gradient_N[: reached + 1] > 0).all()
    assert not found.gradient_N[reached + 1 :].any()
    assert found.binned_gradient()[found.edges.index(16)] == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_alibis_heads_prefer_by_their_slopes(family: str) -> None:
    found = inspect_model(small(family, "alibi"), texts(), rows=ROWS)
    at = torch.tensor(found.distances, dtype=torch.float64)
    expected = -torch.tensor(alibi_slopes(4), dtype=torch.float64)[:, None] * at
    for layer in found.layers:
        assert torch.allclose(layer.own_HN, expected, atol=1e-6)
        assert torch.allclose(layer.of_text_HN, expected, atol=1e-6)


def test_a_query_bias_prefers_by_its_product_with_the_table() -> None:
    model = small("baevski-auli", {"method": "wavelet", "query_bias": "recency"})
    found = inspect_model(model, texts(), rows=ROWS)
    position = model.positions[1]
    table = position.table(LENGTH).double()[list(found.distances)]
    curve = position.query_bias_HD.detach().double() @ table.mT / math.sqrt(position.head_dim)
    assert torch.allclose(found.layers[1].own_HN, curve - curve[:, :1], atol=1e-6)
    inputs = attention_inputs(model, texts()[0], 1)
    r = inputs.q_BHTD[0, :, FIRST:].detach().double() + position.query_bias_HD.detach().double()[:, None]
    of_text = (r @ table.mT / math.sqrt(position.head_dim)).mean(1)
    one = inspect_model(model, texts(1), rows=ROWS).layers[1].of_text_HN
    assert torch.allclose(one, of_text - of_text[:, :1], atol=1e-5)


def test_without_a_query_bias_a_wavelet_prefers_with_a_text_alone() -> None:
    layer = inspect_model(small("llama", "wavelet"), texts(), rows=ROWS).layers[0]
    assert not layer.own_HN.any()
    assert layer.of_text_HN.abs().max() > 0.01


def test_t5s_heads_prefer_by_their_buckets() -> None:
    model = small("baevski-auli", "t5")
    found = inspect_model(model, texts(), rows=ROWS)
    weight = model.positions[0].weight.detach().double()
    bias = weight[:, t5_buckets(LENGTH, 32, 128)][:, list(found.distances)]
    assert torch.allclose(found.layers[0].own_HN, bias - bias[:, :1], atol=1e-6)


def test_gates_that_say_nothing_prefer_by_their_bias_and_their_mean_is_that_of_the_text() -> None:
    model = small("baevski-auli", "forget_gate")
    with torch.no_grad():
        model.positions[0].bias_H.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    found = inspect_model(model, texts(1), rows=ROWS)
    log_gate = torch.nn.functional.logsigmoid(torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64))
    at = torch.tensor(found.distances, dtype=torch.float64)
    assert torch.allclose(found.layers[0].own_HN, log_gate[:, None] * at, atol=1e-5)
    gates = attention_inputs(model, texts(1)[0], 0).gates_BHS
    assert gates is not None
    assert found.layers[0].gate_H is not None
    assert torch.allclose(found.layers[0].gate_H, gates[0].double().mean(-1))


def test_layers_with_positions_of_their_own_are_told_apart() -> None:
    layers = {"local": {"method": "rotary", "window": 8}, "global": "alibi", "every": 2}
    first, second = inspect_model(small("llama", layers), texts(), rows=ROWS).layers
    assert torch.isneginf(first.own_HN[:, -1]).all()
    assert float(second.own_HN[0, 1]) == pytest.approx(-0.25)
    inputs = attention_inputs(small("llama", layers), texts()[0], 1)
    assert own_preference(inputs, [0, 4])[0].tolist() == pytest.approx([0.0, -1.0])


class Copier(nn.Module):
    """Logits that follow from the token five places back alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 4), nn.Linear(4, 11)
        self.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, ids: torch.Tensor, use_cache: bool, logits_to_keep: int) -> object:
        states = self.embedding(ids).roll(5, dims=1)
        return type("Output", (), {"logits": self.head(states[:, -logits_to_keep:])})


def test_the_gradient_of_a_copier_stands_at_the_token_it_copies() -> None:
    torch.manual_seed(0)
    model, ids = Copier(), torch.arange(10) % 11
    found = gradient_by_distance(model, ids)
    assert found.shape == (9,)
    assert found.nonzero().tolist() == [[5]]
    with torch.no_grad():
        off = model.head(model.embedding(ids[3])).softmax(-1)
        off[9] -= 1.0
        assert float(found[5]) == pytest.approx(float((off @ model.head.weight).norm()), rel=1e-5)
    assert not list(model.embedding._forward_hooks)


def test_wrong_texts_and_models_are_refused() -> None:
    model = small("llama", "alibi")
    with pytest.raises(ValueError, match=r"one length of at least 4 tokens, and at least one, got \[\]"):
        inspect_model(model, [])
    with pytest.raises(ValueError, match=r"got \[8, 9\]"):
        inspect_model(model, [torch.ones(8, dtype=torch.int64), torch.ones(9, dtype=torch.int64)])
    with pytest.raises(ValueError, match="at least 2 tokens"):
        gradient_by_distance(model, torch.ones(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="model must be in evaluation"):
        gradient_by_distance(small("llama", "alibi").train(), texts()[0])
