"""What both families share: one rule for positions that learn, and the names that checkpoints hold."""

from typing import Any

import pytest
import torch
from small_llama import POSITIONS, RECENCY, name, tokens
from small_models import FAMILIES, small
from torch import Tensor

from wavepos.positions import Position

LEARNED = {
    "t5": ["weight"],
    "kerple": ["rho_1_H", "rho_2_H"],
    "shaw": ["weight"],
    "transformer_xl": ["weight_HDC", "u_HD", "v_HD"],
    "wavelet-recency": ["query_bias_HD"],
    "learned_relative": ["weight"],
    "forget_gate": ["bias_H"],
    "wavelet-forget": ["gate.bias_H"],
}
"""Learned tensors of each method, as saved models name them."""

PROJECTED = ("learned_relative", "forget_gate", "cable", "wavelet-forget")
"""The methods that read a projection of their own of the hidden state."""

LLAMA_LAYER = [f"self_attn.{x}_proj.weight" for x in "qkvo"] + [f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")]
LLAMA_LAYER += ["input_layernorm.weight", "post_attention_layernorm.weight"]
OUR_LAYER = ["attention_norm", "qkv", "out", "ffn_norm", "up", "down"]


def saved_names(family: str, method: str) -> set[str]:
    """The names of a saved model of two layers, written out so that no change of the code changes them."""
    names: set[str] = set()
    learned = LEARNED.get(method, [])
    for layer in range(2):
        if family == "llama":
            at = f"model.layers.{layer}."
            names |= {at + part for part in LLAMA_LAYER}
            names |= {f"{at}self_attn.position.{part}" for part in learned}
            names |= {f"{at}self_attn.r_proj.weight"} if method in PROJECTED else set()
        else:
            names |= {f"layers.{layer}.{part}.{kind}" for part in OUR_LAYER for kind in ("weight", "bias")}
            names |= {f"positions.{layer}.{part}" for part in learned}
            names |= {f"relative.{layer}.weight"} if method in PROJECTED else set()
            names |= {f"relative.{layer}.bias"} if method == "learned_relative" else set()
    if family == "llama":
        return names | {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    bands = range(3) if family.endswith("adaptive") else range(1)
    names |= {f"embedding.bands.{band}.weight" for band in bands}
    if len(bands) > 1:
        names |= {f"embedding.projections.{band}.weight" for band in bands} | {"softmax.classes.weight"}
    return names


@pytest.mark.parametrize("position", POSITIONS, ids=name)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_dict_with_the_names_of_saved_models_fills_the_model(family: str, position: str | dict) -> None:
    model, x = small(family, position), tokens()
    state = {key: torch.randn_like(value) * 0.1 for key, value in model.state_dict().items()}
    saved: dict[str, Tensor] = {key: state[key] for key in saved_names(family, name(position))}
    model.load_state_dict(saved)
    assert set(saved) == set(state)
    assert torch.isfinite(model(x).logits).all()


@pytest.mark.parametrize("position", POSITIONS, ids=name)
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_share_a_position_that_learns_nothing_and_no_other(family: str, position: str | dict) -> None:
    model = small(family, position, num_hidden_layers=3)
    positions = [module for module in model.modules() if isinstance(module, Position)]
    parts = {id(part) for position in positions for part in position.modules() if part is not position}
    found = [position for position in positions if id(position) not in parts]
    learns = name(position) in LEARNED
    assert len(found) == (3 if learns else 1)
    assert any(True for _ in found[0].parameters()) == learns


@pytest.mark.parametrize("family", ["llama", "baevski-auli"])
def test_a_seed_gives_all_methods_the_same_other_weights(family: str) -> None:
    kind = type(small(family))

    def state(position: Any) -> dict[str, Tensor]:
        config = small(family, position).config
        torch.manual_seed(3)
        weights: dict[str, Tensor] = kind(config).state_dict()
        return weights

    plain = state("nope")
    tempered = {"method": "nope", "temperature": "log"}
    for position in ("t5", "transformer_xl", "learned_relative", "forget_gate", "cable", RECENCY, tempered):
        other = state(position)
        assert set(plain) < set(other)
        for key, x in plain.items():
            assert torch.equal(other[key], x), key
