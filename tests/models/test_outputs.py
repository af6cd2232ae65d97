"""What both families return when asked, and by which attention: weights, hidden states, tuples, the dense reference."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_llama import POSITIONS, RECENCY, name, tokens
from small_models import FAMILIES, small
from torch import Tensor
from transformers import AutoModelForCausalLM

from wavepos import attention
from wavepos.models import base


def layers(model: Any) -> Any:
    return model.base_model.layers


@pytest.mark.parametrize("position", POSITIONS, ids=name)
@pytest.mark.parametrize("family", FAMILIES[:2])
def test_weights_and_hidden_states_of_every_layer_are_returned(family: str, position: str | dict) -> None:
    model, x = small(family, position), tokens()
    with torch.no_grad():
        out = model(x, output_attentions=True, output_hidden_states=True)
        assert torch.equal(out.logits, model(x).logits)
    assert len(out.attentions) == 2
    for weights in out.attentions:
        assert weights.shape == (2, 4, 48, 48)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 48))
        assert not weights.triu(1).any()
    assert [tuple(state.shape) for state in out.hidden_states] == [(2, 48, 64)] * 3
    plain = model(x)
    assert plain.attentions is None
    assert plain.hidden_states is None


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_the_inputs_of_the_layers_and_the_output(family: str) -> None:
    model, x = small(family), tokens()
    inputs: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for layer in layers(model)]
    with torch.no_grad():
        out = model(x, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    for state, given in zip(out.hidden_states, inputs, strict=False):
        assert torch.equal(state, given)
    last = out.hidden_states[-1]
    with torch.no_grad():
        head = model.lm_head(last) if family == "llama" else model.softmax.log_probabilities(last, model.embedding)
    assert torch.equal(head, out.logits)


def test_weights_of_baevski_auli_give_its_attention() -> None:
    model, x = small("baevski-auli", RECENCY), tokens()
    with torch.no_grad():
        out = model(x, output_attentions=True, output_hidden_states=True)
        layer, before, after = model.layers[0], out.hidden_states[0], out.hidden_states[1]
        v = layer.qkv(layer.attention_norm(before)).chunk(3, -1)[2].unflatten(-1, (4, 16)).transpose(1, 2)
        middle = before + layer.out((out.attentions[0] @ v).transpose(1, 2).flatten(2))
        by_hand = middle + layer.down(layer.up(layer.ffn_norm(middle)).relu())
    torch.testing.assert_close(after, by_hand, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("position", POSITIONS, ids=name)
@pytest.mark.parametrize("family", FAMILIES[:2])
def test_eager_is_the_dense_reference(
    family: str, position: str | dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = small(family, position), tokens()
    with torch.no_grad():
        expected = model(x).logits
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert loaded.config._attn_implementation == ("wavepos_eager" if family == "llama" else "eager")
    backends: list[str] = []

    def recorded(*tensors: Tensor, backend: Any, **given: Any) -> Tensor:
        backends.append(backend)
        return attention(*tensors, backend=backend, **given)

    monkeypatch.setattr(base, "attention", recorded)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x).logits, expected, atol=1e-5, rtol=0.0)
        model(x)
        model.set_attn_implementation("eager")
        model(x)
    assert backends == ["reference"] * 2 + ["auto"] * 2 + ["reference"] * 2


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention", "paged|eager"])
@pytest.mark.parametrize("family", FAMILIES[:2])
def test_other_attention_kernels_are_refused_by_name(family: str, implementation: str, tmp_path: Path) -> None:
    model = small(family)
    model.save_pretrained(tmp_path)
    match = f"attn_implementation must be 'sdpa' .* or 'eager' .*, got '{implementation}'".replace("|", r"\|")
    with pytest.raises(ValueError, match=match):
        AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=implementation)
    with pytest.raises(ValueError, match=match):
        model.set_attn_implementation(implementation)
    with pytest.raises(ValueError, match=match):
        small(family, attn_implementation=implementation)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_may_ask_for_weights_states_and_tuples(family: str) -> None:
    x = tokens()
    model = small(family, output_hidden_states=True, output_attentions=True, return_dict=False, use_cache=False)
    with torch.no_grad():
        logits, states, maps = model(x)
        named = model(x, return_dict=True, output_hidden_states=False)
    assert (len(states), len(maps)) == (3, 2)
    assert torch.equal(named.logits, logits)
    assert named.hidden_states is None
    later = small(family)
    later.config.output_attentions = True  # once the attention function is known
    with torch.no_grad():
        assert len(later(x).attentions) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_that_are_asked_for_do_not_change_training(family: str) -> None:
    gradients = []
    for asked in (False, True):
        model, x = small(family), tokens()
        model.train()
        torch.manual_seed(0)
        model(x, labels=x, output_attentions=asked, output_hidden_states=asked).loss.backward()
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    for key, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][key]), key


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_weights_of_eager_attention_are_those_that_its_output_is_made_of(family: str) -> None:
    model, x = small(family, RECENCY, attn_implementation="eager"), tokens()
    out = model(x, output_attentions=True)
    torch.testing.assert_close(out.logits, model(x).logits, atol=1e-5, rtol=0.0)
    for weights in out.attentions:
        weights.retain_grad()
    out.logits.sum().backward()
    assert all(bool(weights.grad.any()) for weights in out.attentions)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_is_not_filled_by_layers_that_are_read_twice(family: str) -> None:
    model, x = small(family, dropout=0.0) if family != "llama" else small(family), tokens()
    model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    out = model(x, labels=x, use_cache=True)
    assert out.past_key_values is None
    out.loss.backward()
    with torch.no_grad():
        prefix = model.eval()(x, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="past_key_values must not be given in training with gradient"):
        model.train()(x, labels=x, past_key_values=prefix)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_argument_is_not_swallowed(family: str) -> None:
    with pytest.raises(TypeError, match="takes no argument 'atention_mask'"):
        small(family)(tokens(1), atention_mask=torch.ones(1, 48))
