"""Maps drawn tile by tile are the maps, in bounded memory, and always attended tokens are found."""

import pytest
import torch
from small_families import small_model
from small_llama import DYNAMIC, POSITIONS, config, name, randomised, small_llama, tokens
from torch import Tensor

from wavepos import NoPE, Rotary, Wavelet
from wavepos.analysis.attention_maps import (
    AttentionInputs,
    always_attended,
    attended_tokens,
    attention_picture,
)
from wavepos.analysis.model_attention import attention_inputs, attention_output, num_layers
from wavepos.analysis.receptive_field import content_free_alibi
from wavepos.models import BaevskiAuliConfig, BaevskiAuliForCausalLM, WaveposLlamaModel, convert


def small_baevski_auli(position: str | dict) -> BaevskiAuliForCausalLM:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = BaevskiAuliForCausalLM(BaevskiAuliConfig(vocab_size=97, cutoffs=(), position=position, **sizes))
    built: BaevskiAuliForCausalLM = randomised(model)
    return built


def random_inputs(length: int, position: object = None, heads: int = 2) -> AttentionInputs:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, length, 16, dtype=torch.float64, generator=generator) for _ in range(3))
    return AttentionInputs(q_BHTD=q, k_BGSD=k, v_BGSD=v, position=position or Wavelet(16, scales=[1.0, 4.0]))


def planted(length: int, column: int, heads: int = 2) -> AttentionInputs:
    """Head 1 gives more than half of each later row to one column; all else is even."""
    q, k = torch.zeros(2, 1, heads, length, 4, dtype=torch.float64)
    q[:, 1, :, 0], k[:, 1, column, 0] = 2.0, 0.2 * length**0.5 * 2.0
    return AttentionInputs(q_BHTD=q, k_BGSD=k, v_BGSD=k, position=NoPE())


def test_content_free_alibi_has_the_counts_of_its_formula() -> None:
    found = attention_picture(content_free_alibi(8, 1012), 1e-3)
    expected = [12_078, 22_033, 38_727, 64_647, 105_359, 162_935, 233_779, 306_891]
    assert found.black_pairs_H.tolist() == expected
    assert found.image_HPP.sum((1, 2)).tolist() == expected
    assert found.row_counts_HT[:, -1].tolist() == [12, 22, 39, 66, 110, 176, 263, 354]
    at_a_hundredth = attention_picture(content_free_alibi(8, 1012), 1e-2)
    assert at_a_hundredth.black_pairs_H.tolist() == [8_068, 13_078, 20_056, 28_998, 36_217, 31_074, 6_088, 5_202]


@pytest.mark.parametrize("elements", [1, 500, 2**22])
def test_any_tiles_give_the_same_map(elements: int) -> None:
    inputs = random_inputs(53)
    whole = inputs.rows(0, 53)
    found = attention_picture(inputs, 0.02, elements=elements)
    black = whole >= 0.02
    assert 100 < int(black.sum()) < 53 * 53
    assert torch.equal(found.image_HPP, black.float())
    assert torch.equal(found.row_counts_HT, black.sum(-1))
    assert torch.equal(found.column_counts_HS, black.tril(-1).sum(1))
    torch.testing.assert_close(found.last_row_HS, whole[:, -1])


def test_a_smaller_image_holds_the_share_of_black_pairs() -> None:
    found = attention_picture(random_inputs(60), 0.02, pixels=7)
    exact = attention_picture(random_inputs(60), 0.02)
    assert found.image_HPP.shape == (2, 7, 7)
    cell = torch.arange(60) * 7 // 60
    for row, column in ((0, 0), (6, 2), (3, 3)):
        block = exact.image_HPP[:, cell == row][:, :, cell == column]
        torch.testing.assert_close(found.image_HPP[:, row, column], block.mean((1, 2)))
    assert float(found.image_HPP[:, 0, 1:].abs().max()) == 0.0


def test_memory_holds_one_tile_however_long_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = random_inputs(4096, heads=1)
    largest = 0
    real = AttentionInputs.rows

    def watched(self: AttentionInputs, first: int, last: int) -> Tensor:
        nonlocal largest
        weights = real(self, first, last)
        largest = max(largest, weights.numel())
        return weights

    monkeypatch.setattr(AttentionInputs, "rows", watched)
    found = attention_picture(inputs, 1e-3, pixels=256, elements=2**20)
    assert largest == 2**20
    assert found.image_HPP.shape == (1, 256, 256)
    assert int(found.row_counts_HT[0, 0]) == 1


@pytest.mark.parametrize("position", [*POSITIONS, DYNAMIC], ids=name)
@pytest.mark.parametrize("family", ["llama", "baevski_auli"])
def test_maps_times_values_are_the_layers_output(family: str, position: str | dict) -> None:
    model = small_llama(position) if family == "llama" else small_baevski_auli(position)
    ids = tokens(1, 40)
    for layer in range(num_layers(model)):
        inputs = attention_inputs(model, ids, layer)
        ours = inputs.output().transpose(0, 1).flatten(1)
        torch.testing.assert_close(ours, attention_output(model, ids, layer), rtol=1e-4, atol=1e-5)
    assert float(inputs.output().abs().max()) > 0.05


@pytest.mark.parametrize(
    ("family", "native"), [("mistral", False), ("granite", False), ("gpt_neox", True), ("qwen3", True)]
)
def test_maps_of_other_families_have_their_norms_scales_windows_and_rotations(family: str, native: bool) -> None:
    model = convert(small_model(family), {"method": "wavelet", "query_bias": "recency"}, native_rotation=native).eval()
    ids = tokens(1, 40)
    for layer in range(num_layers(model)):
        ours = attention_inputs(model, ids, layer).output().transpose(0, 1).flatten(1)
        torch.testing.assert_close(ours, attention_output(model, ids, layer), rtol=1e-4, atol=1e-5)


def test_layers_count_from_the_last_and_differ() -> None:
    model, ids = small_llama(), tokens(1, 20)
    last = attention_inputs(model, ids[0], -1)
    torch.testing.assert_close(last.q_BHTD, attention_inputs(model, ids, 1).q_BHTD)
    assert not torch.allclose(last.q_BHTD, attention_inputs(model, ids, 0).q_BHTD)


def test_the_model_is_left_as_it_was() -> None:
    model, ids = small_llama(), tokens(1, 20)
    before = model(ids).logits
    attention_inputs(model, ids, 0)
    assert not any(module._forward_hooks for module in model.modules())
    torch.testing.assert_close(model(ids).logits, before)


def test_a_planted_column_is_found_in_its_head_alone() -> None:
    found = attention_picture(planted(200, 37), 0.05)
    always = always_attended(found)
    assert always.nonzero().tolist() == [[1, 37]]
    words = [f"word{index}" for index in range(200)]
    (only,) = attended_tokens(found, words)
    assert (only.index, only.token, only.heads) == (37, "word37", (1,))
    assert only.share_H[1] == 1.0
    assert only.share_H[0] < 0.2


def test_a_window_is_not_taken_for_attention_to_a_token() -> None:
    found = attention_picture(content_free_alibi(8, 1012), 1e-3)
    assert int(always_attended(found).sum()) == 0
    assert int(always_attended(found, rows_after=10).sum()) > 300  # what the rule of half the length is there for


def test_what_cannot_be_meant_is_refused() -> None:
    inputs = random_inputs(8)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="share must lie above 0"):
            always_attended(attention_picture(inputs), share)
    with pytest.raises(ValueError, match="rows_after must be at least 1"):
        always_attended(attention_picture(inputs), rows_after=0)
    with pytest.raises(ValueError, match="threshold must lie between 0 and 1"):
        attention_picture(inputs, 1.0)
    with pytest.raises(ValueError, match="pixels must be at least 1"):
        attention_picture(inputs, pixels=0)
    with pytest.raises(ValueError, match="one text for each of the 8 keys, got 2"):
        attended_tokens(attention_picture(inputs), ["a", "b"])
    with pytest.raises(ValueError, match="a key for every query"):
        AttentionInputs(q_BHTD=inputs.q_BHTD[:, :, :3], k_BGSD=inputs.k_BGSD, v_BGSD=inputs.v_BGSD, position=Rotary(16))
    model = small_llama()
    with pytest.raises(ValueError, match="layer must lie between -2 and 1, got 2"):
        attention_inputs(model, tokens(1, 8), 2)
    with pytest.raises(ValueError, match="one sequence"):
        attention_inputs(model, tokens(2, 8), 0)
    with pytest.raises(ValueError, match="model must be in evaluation"):
        attention_inputs(model.train(), tokens(1, 8), 0)
    with pytest.raises(TypeError, match="got WaveposLlamaModel"):
        num_layers(WaveposLlamaModel(config()))
