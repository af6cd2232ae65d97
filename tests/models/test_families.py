"""The gate that each served family of transformers passes: its own numbers, nothing of its positions left, caches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from family_checks import (
    CHECKS,
    RECENCY,
    cached,
    largest,
    losses_and_gradients,
    measured,
    order,
    packed,
    padded,
    reloaded,
    rotation,
)
from small_families import positioned, small_config, small_model, tokens
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, Trainer, TrainingArguments
from transformers.generation import CompileConfig

from wavepos.models import FAMILIES, convert
from wavepos.models.decoder.rotation import INTERLEAVED

ROTATIONS = [family for family in FAMILIES if family not in INTERLEAVED]
NATIVE = [family for family in FAMILIES if family != "llama"]
POSITIONS = ["wavelet", RECENCY, "alibi", "forget_gate", "learned_relative"]
FULL = ("llama", "qwen3", "qwen3_moe", "mistral", "gemma2", "gpt_neox")
"""Families that every one of `POSITIONS` is tried in; the others share them out."""
CELLS = [
    (family, position)
    for index, family in enumerate(FAMILIES)
    for place, position in enumerate(POSITIONS)
    if family in FULL or place in (index % 5, (index + 2) % 5)
]
RESUMED = ["llama", "qwen2", "qwen3", "qwen3_moe", "mistral", "mixtral", "smollm3", "olmo2", "gemma", "phi3", "granite"]
RESUMED += ["cohere", "glm4", "gpt_neox"]
CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}


def name(value: Any) -> str:
    return value if isinstance(value, str) else "wavelet-recency"


@pytest.mark.parametrize("family", NATIVE)
def test_with_its_own_rotation_a_family_computes_what_it_did(family: str) -> None:
    assert largest(rotation(family, native=True)) <= CLOSE["atol"]


@pytest.mark.parametrize("family", ROTATIONS)
def test_with_our_rotation_a_family_computes_what_it_did(family: str) -> None:
    assert largest(rotation(family, native=False)) <= CLOSE["atol"]


@pytest.mark.parametrize("family", FAMILIES)
def test_under_autocast_a_family_is_trained_and_read_as_exactly_as_its_own_model(family: str) -> None:
    theirs, x = small_model(family), tokens()
    ours = convert(theirs, "rotary" if family == "llama" else "nope", native_rotation=family != "llama").eval()
    learning = positioned(family, "forget_gate").train()
    with torch.autocast("cpu", torch.bfloat16):
        learning(x, labels=x).loss.backward()
        with torch.no_grad():
            found, expected = ours(x, use_cache=False).logits.float(), theirs(x, use_cache=False).logits.float()
            kept = ours(x, use_cache=True).logits.float()
    assert all(
        bool(parameter.grad.isfinite().all()) for parameter in learning.parameters() if parameter.grad is not None
    )
    with torch.no_grad():
        exact = theirs(x, use_cache=False).logits
    allowed = 2.0 * (expected - exact).abs().max() + 1e-4
    assert (found - exact).abs().max() <= allowed
    assert (kept - exact).abs().max() <= allowed


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_a_familys_own_positions_is_left(family: str) -> None:
    ours, theirs = order(family)
    assert ours <= CLOSE["atol"]
    assert theirs > 1e-3


@pytest.mark.parametrize(("family", "position"), CELLS, ids=name)
def test_a_cache_padding_and_packing_change_nothing(family: str, position: Any) -> None:
    model = positioned(family, position)
    for check in (cached, padded, packed):
        assert check(model) <= CLOSE["atol"], check.__name__


@pytest.mark.parametrize(("family", "position"), CELLS, ids=name)
def test_a_saved_model_is_the_same_again(family: str, position: Any) -> None:
    assert reloaded(positioned(family, position)) == 0.0


def test_the_table_of_families_has_every_check_of_one() -> None:
    found = measured("qwen3", {"Wavelet, recency start": RECENCY})
    assert found.keys() > CHECKS.keys()
    assert found.pop("order in theirs") > 1e-3
    assert all(value <= CLOSE["atol"] for value in found.values())


@pytest.mark.parametrize(
    ("family", "position"),
    [("qwen3", RECENCY), ("mistral", "wavelet"), ("gpt_neox", "rotary"), ("gemma2", "forget_gate")],
    ids=name,
)
def test_generation_with_a_static_cache_compiled_whole_gives_the_same_tokens(
    family: str, position: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    model, x = positioned(family, position), tokens(length=10)
    x[0, :3] = 0
    mask = (x != 0).long()
    model.generation_config.eos_token_id = None
    compiled = CompileConfig(backend="eager", fullgraph=True, mode="default")
    compiled._compile_all_devices = True
    calls: list[Any] = []
    get = model.get_compiled_call
    monkeypatch.setattr(model, "get_compiled_call", lambda config: calls.append(config) or get(config))
    asked: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    with torch.no_grad():
        expected = model.generate(x, use_cache=False, **asked)
        found = model.generate(x, cache_implementation="static", compile_config=compiled, **asked)
        assert torch.equal(found, expected)
        assert bool(calls) == (
            family != "mistral"
        )  # all its layers slide: their caches count in Python, anew each step
        assert torch.equal(model.generate(x, **asked), expected)
        looked = {"output_attentions": True, "return_dict_in_generate": True, **asked}
        plain = model.generate(x, **looked).attentions
        static = model.generate(x, cache_implementation="static", compile_config=compiled, **looked).attentions
        for weights, exact in zip(static[-1], plain[-1], strict=True):
            torch.testing.assert_close(weights[..., : exact.shape[-1]], exact, **CLOSE)
        beams = model.generate(x, num_beams=2, **asked)
        assert torch.equal(beams, model.generate(x, num_beams=2, use_cache=False, **asked))


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["qwen3", "gpt_neox", "mixtral"])
def test_layers_read_again_for_their_gradients_give_the_same(family: str) -> None:
    found = []
    for again in (False, True):
        model = positioned(family, "forget_gate").train()
        if again:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            with pytest.raises(ValueError, match="past_key_values must not be given in training with gradient checkp"):
                model(tokens(), past_key_values=DynamicCache(config=model.config))
        found.append(losses_and_gradients(model, tokens())[1])
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, **CLOSE)


@pytest.mark.parametrize("family", ["qwen3_moe", "gemma2", "gpt_neox"])
def test_weights_and_states_are_returned_where_asked_for(family: str) -> None:
    model, x = positioned(family, RECENCY), tokens()
    with torch.no_grad():
        plain = model(x)
        asked = model(x, output_attentions=True, output_hidden_states=True)
    assert plain.attentions is None and plain.hidden_states is None
    assert [tuple(one.shape) for one in asked.attentions] == [(2, 4, 24, 24)] * 2
    assert len(asked.hidden_states) == 3
    for weights in asked.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 24))
        assert not weights.triu(1).any()
    if family == "gemma2":  # its first layer has a window of 8
        assert not asked.attentions[0].tril(-8).any()
        assert asked.attentions[1].tril(-8).any()


def test_the_narrower_of_the_positions_window_and_the_familys_holds() -> None:
    for window, seen in ((4, 4), (12, 8)):
        model = positioned("mistral", {"method": "wavelet", "window": window})
        with torch.no_grad():
            weights = model(tokens(), output_attentions=True).attentions[0]
        assert not weights.tril(-seen).any()
        assert weights.tril(1 - seen).any()


@pytest.mark.parametrize("family", ["qwen3", "mixtral"])
def test_a_seed_gives_the_familys_own_initial_weights(family: str) -> None:
    config = small_config(family)
    torch.manual_seed(3)
    theirs = AutoModelForCausalLM.from_config(config).state_dict()
    for position in ("nope", RECENCY, "forget_gate"):
        ours = convert(AutoModelForCausalLM.from_config(config), position).config
        torch.manual_seed(3)
        own = AutoModelForCausalLM.from_config(ours).state_dict()
        assert theirs.keys() <= own.keys()
        for key, value in theirs.items():
            assert torch.equal(own[key], value), key


@pytest.mark.parametrize("position", ["forget_gate", "learned_relative"])
def test_each_layer_starts_from_draws_of_its_own(position: str) -> None:
    fresh = AutoModelForCausalLM.from_config(convert(small_model("qwen3"), position).config)
    for model in (fresh, convert(small_model("qwen3"), position)):
        first, second = (layer.self_attn.r_proj.weight for layer in model.model.layers)
        assert not torch.equal(first, second)
        assert 0.01 < first.std() < 0.03


@pytest.mark.parametrize("family", RESUMED)
def test_training_that_is_resumed_goes_on_as_it_was(family: str, tmp_path: Path) -> None:
    rows = [{"input_ids": row, "labels": row} for row in tokens(24, 16)]

    def trained(steps: int, resume: bool = False) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = positioned(family, {"method": "wavelet", "query_bias": "recency", "gate": "forget"})
        arguments = TrainingArguments(
            str(tmp_path / f"{steps}" if not resume else tmp_path / "2"),
            max_steps=4 if resume else steps,
            save_steps=2,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train(resume_from_checkpoint=str(tmp_path / "2" / "checkpoint-2") if resume else None)
        return {key: value.detach().clone() for key, value in model.state_dict().items()}

    start, whole = trained(2), trained(4)
    again = trained(2, resume=True)
    learned = [key for key in start if key.endswith(".position.query_bias_HD")]
    assert learned and not any(torch.equal(start[key], again[key]) for key in learned)
    for key, value in whole.items():
        assert torch.equal(again[key], value), key
