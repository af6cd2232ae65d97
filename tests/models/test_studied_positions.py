"""Methods that studies register: they train, are saved and read again, and caches serve those that rotate."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_llama import config as llama_config
from small_llama import randomised, tokens
from small_models import small
from torch import Tensor
from transformers import DynamicCache

from wavepos.experiments.controls import control_methods
from wavepos.models import WaveposLlamaForCausalLM
from wavepos.models.loading import load_model
from wavepos.positions import METHODS, Position, PositionConfig, Rotary, ScoreTerms, build_position, parse_position

FAMILIES = ["llama", "baevski-auli"]
STUDIED = {
    name: method.position for name, method in control_methods(8).items() if method.position["method"] not in METHODS
} | {"RoPE-based wavelet": {"method": "rope_wavelet"}}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", STUDIED)
def test_it_trains_and_a_saved_model_reads_the_same(name: str, family: str, tmp_path: Path) -> None:
    model, x = small(family, STUDIED[name]).train(), tokens(4, 40)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = model(input_ids=x, labels=x).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    changed = zip(model.named_parameters(), before, strict=True)
    assert all(not torch.equal(now, then) for (_, now), then in changed), "every parameter learns"
    model.eval().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["position"]["method"] == STUDIED[name]["method"]
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)(input_ids=x).logits, model(input_ids=x).logits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", STUDIED)
def test_cached_equals_uncached(name: str, family: str) -> None:
    model, x = small(family, STUDIED[name]), tokens(2, 24)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        whole = model(input_ids=x, use_cache=False).logits
        pieces = [model(input_ids=piece, past_key_values=cache).logits for piece in x.split([9, 1, 13, 1], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=0.0)


class Turned(Position):
    """RoPE that leaves rotated keys to no cache: by its length, or because it also has a bias."""

    rotates = True

    def __init__(self, follows: bool, bias: bool) -> None:
        super().__init__()
        self._rotary, self._follows, self._bias = Rotary(16), follows, bias
        self.needs_table = bias

    @property
    def follows_length(self) -> bool:
        return self._follows

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        turned: Any = self._rotary.terms(q_BHTD, k_BGSD, q_offset=q_offset)
        if not self._bias:
            return turned
        bias = -torch.arange(k_BGSD.shape[2], dtype=torch.float32).expand(q_BHTD.shape[1], -1)
        return ScoreTerms(q_BHTD=turned.q_BHTD, k_BGSD=turned.k_BGSD, bias_HR=bias)

    def reset_parameters(self) -> None:
        return None


def _llama_with(position: Position) -> WaveposLlamaForCausalLM:
    model = randomised(WaveposLlamaForCausalLM(llama_config("rotary")))
    for layer in model.model.layers:
        layer.self_attn.position = position
    return model


@pytest.mark.parametrize(("follows", "bias"), [(True, False), (False, True)], ids=["follows-length", "with-bias"])
def test_what_cannot_be_kept_rotated_is_rotated_at_each_call(follows: bool, bias: bool) -> None:
    model, x = _llama_with(Turned(follows, bias)), tokens(2, 24)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        whole = model(input_ids=x, use_cache=False).logits
        pieces = [model(input_ids=piece, past_key_values=cache).logits for piece in x.split([9, 1, 13, 1], 1)]
        plain = _llama_with(Rotary(16))(input_ids=x, use_cache=False).logits
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=0.0)
    if bias:
        assert float((plain - whole).abs().max()) > 1e-2, "the bias counts"


def test_a_rotation_that_says_nothing_of_caches_is_refused_by_name() -> None:
    with pytest.raises(NotImplementedError, match=r"Turned must define rotated\(.* or follows_length"):
        _llama_with(Turned(False, False))(input_ids=tokens(1, 4))


def test_the_config_is_one_of_the_librarys() -> None:
    config: PositionConfig = parse_position("RoPE-wavelet")
    assert config.to_json() == {"method": "rope_wavelet", "theta": 10000.0, "scaled": True}
    with pytest.raises(ValueError, match=r"position 'rope_wavelet': theta must be more than 1, got 1\.0"):
        parse_position({"method": "rope_wavelet", "theta": 1.0})
    with pytest.raises(ValueError, match="takes theta, scaled, temperature, window, got the unknown key 'base'"):
        parse_position({"method": "rope_wavelet", "base": 2.0})
    assert type(build_position(config, head_dim=16, num_heads=4)).__name__ == "RopeBasedWavelet"
