"""The Llama family's frame: transformers' Llama where the method is its rotation; padded, packed, compiled, in bf16."""

import copy
import inspect
import weakref
from pathlib import Path

import pytest
import torch
from accelerate.utils import send_to_device
from small_llama import DYNAMIC, POSITIONS, RECENCY, SIZES, config, name, randomised, small_llama, tokens
from torch import Tensor
from transformers import (
    DataCollatorWithFlattening,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Trainer,
    TrainingArguments,
)

from wavepos.models import (
    BaevskiAuliForCausalLM,
    WaveposLlamaForCausalLM,
    WaveposLlamaForSequenceClassification,
    WaveposLlamaModel,
    baevski_auli_config,
    from_llama,
    llama_config,
)
from wavepos.models.context import Context
from wavepos.positions.terms import ReadsRelativeStates

LONG = [1.0 + 0.5 * i for i in range(8)]
ROPE_PARAMETERS = {
    "default": {"rope_type": "default", "rope_theta": 500_000.0},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 8,
        "long_factor": LONG,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {key: x.grad.clone() for key, x in model.named_parameters() if x.grad is not None}


@pytest.mark.parametrize("rope_type", ROPE_PARAMETERS)
@pytest.mark.parametrize("length", [12, 150])
def test_rotary_is_transformers_own_llama(rope_type: str, length: int) -> None:
    parameters = {"rope_theta": 10_000.0, **ROPE_PARAMETERS[rope_type]}
    theirs = randomised(LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=parameters)))
    ours = from_llama(theirs, "rotary")
    assert set(ours.state_dict()) == set(theirs.state_dict())
    x = tokens(length=length)
    a, b = theirs(x, labels=x), ours(x, labels=x)
    torch.testing.assert_close(b.logits, a.logits, atol=1e-5, rtol=0.0)
    a.loss.backward()
    b.loss.backward()
    expected = gradients(theirs)
    for key, gradient in gradients(ours).items():
        torch.testing.assert_close(gradient, expected[key], atol=1e-6, rtol=1e-4, msg=key)


@pytest.mark.parametrize("position", POSITIONS, ids=name)
def test_left_padding_changes_nothing(position: str | dict) -> None:
    model, x = small_llama(position), tokens()
    padded = torch.cat([torch.zeros(2, 5, dtype=torch.long), x], dim=1)
    mask = torch.ones_like(padded)
    mask[:, :5] = 0
    with torch.no_grad():
        torch.testing.assert_close(model(padded, mask).logits[:, 5:], model(x).logits, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("position", POSITIONS, ids=name)
def test_right_padding_and_rows_of_different_lengths_change_nothing(position: str | dict) -> None:
    model, x = small_llama(position), tokens()
    mask = torch.ones_like(x)
    mask[1, 30:] = 0
    ragged = x.clone()
    ragged[1, 30:] = 0
    with torch.no_grad():
        out = model(ragged, mask).logits
        torch.testing.assert_close(out[:1], model(x[:1]).logits, atol=1e-5, rtol=0.0)
        torch.testing.assert_close(out[1:, :30], model(x[1:, :30]).logits, atol=1e-5, rtol=0.0)


def test_left_padding_that_changes_a_scalings_frequencies_is_refused() -> None:
    model, x = small_llama(DYNAMIC), tokens(length=14)
    mask = torch.ones_like(x)
    mask[0, :3] = 0
    model(x, mask)  # 14 slots are within the 16 that were trained on
    x, mask = tokens(length=24), torch.ones(2, 24, dtype=torch.long)
    mask[0, :3] = 0
    with pytest.raises(ValueError, match=r"left padding .* 'dynamic'.*: a row of 21 tokens is padded to 24"):
        model(x, mask)


@pytest.mark.parametrize("position", POSITIONS, ids=name)
def test_packed_rows_are_their_documents_forward_and_backward(position: str | dict) -> None:
    model, x = small_llama(position).train(), tokens()
    documents = [x[0, :20], x[0, 20:27], x[1]]
    batch = DataCollatorWithFlattening(return_tensors="pt")(
        [{"input_ids": document.tolist(), "labels": document.tolist()} for document in documents]
    )
    packed = model(**batch)
    packed.loss.backward()
    of_packed = gradients(model)
    model.zero_grad()
    alone = [model(document[None]) for document in documents]
    logits = torch.cat([out.logits[:, :] for out in alone], dim=1)
    torch.testing.assert_close(packed.logits, logits, atol=1e-5, rtol=0.0)
    labels = torch.cat([document[None] for document in documents], dim=1)
    labels[:, [0, 20, 27]] = -100
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100)
    loss.backward()
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(of_packed[key], gradient, atol=1e-5, rtol=1e-4, msg=key)


def test_packed_rows_do_not_leak_with_default_cache_or_an_all_ones_mask() -> None:
    model, x = small_llama(), tokens(1)
    positions = torch.cat([torch.arange(20), torch.arange(28)])[None]
    with torch.no_grad():
        alone = model(x[:, 20:]).logits
        for mask in (None, torch.ones_like(x)):
            out = model(x, mask, position_ids=positions)
            torch.testing.assert_close(out.logits[:, 20:], alone, atol=1e-5, rtol=0.0)
            assert out.past_key_values is None


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"position_ids": torch.cat([torch.arange(20), torch.arange(28)])[None], "use_cache": True}, "packed rows"),
        ({"position_ids": torch.cat([torch.arange(20), torch.arange(5, 33)])[None]}, "count 0, 1, 2"),
        ({"position_ids": torch.arange(7)[None]}, r"position_ids must be \[batch, tokens\] = \(1, 48\), got \(1, 7\)"),
        ({"attention_mask": torch.ones(1, 1, 48, 48)}, r"attention_mask must be \[batch, keys\]"),
        ({"attention_mask": torch.ones(1, 40)}, r"= \(1, 48\), .* got \(1, 40\)"),
        ({"cu_seq_lens_q": torch.tensor([0, 20, 48])}, "told apart by position_ids"),
        ({"inputs_embeds": torch.ones(1, 48, 64)}, "either input_ids or inputs_embeds"),
    ],
)
def test_wrong_input_is_named(arguments: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small_llama()(tokens(1), **arguments)


@pytest.mark.parametrize("position", [*POSITIONS, DYNAMIC], ids=name)
def test_weights_are_returned_and_give_the_same_output(position: str | dict) -> None:
    model, x = small_llama(position), tokens()
    attention, outputs = model.model.layers[0].self_attn, []
    attention.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0]))
    with torch.no_grad():
        asked = model(x, output_attentions=True, output_hidden_states=True)
        assert len(asked.attentions) == 2
        assert len(asked.hidden_states) == 3
        for weights in asked.attentions:
            assert weights.shape == (2, 4, 48, 48)
            torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 48))
            assert not weights.triu(1).any()
        normed = model.model.layers[0].input_layernorm(asked.hidden_states[0])
        v = attention.v_proj(normed).unflatten(-1, (-1, 16)).transpose(1, 2).repeat_interleave(2, dim=1)
        by_hand = attention.o_proj((asked.attentions[0] @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(outputs[0], by_hand, atol=1e-5, rtol=0.0)
        model.set_attn_implementation("eager")
        torch.testing.assert_close(model(x).logits, asked.logits, atol=1e-5, rtol=0.0)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("position", POSITIONS, ids=name)
def test_gradient_checkpointing_changes_nothing(position: str | dict) -> None:
    model, x = small_llama(position).train(), tokens()
    model(x, labels=x).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model(x, labels=x, use_cache=True).loss.backward()
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[key], msg=key)


@pytest.mark.parametrize("position", POSITIONS, ids=name)
def test_training_compiles_whole(position: str | dict) -> None:
    torch.compiler.reset()
    model, x = small_llama(position).train(), tokens()
    mask = torch.ones_like(x)
    mask[1, 30:] = 0
    model(x, mask, labels=x.where(mask.bool(), -100)).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(x, mask, labels=x.where(mask.bool(), -100)).loss.backward()
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[key], atol=1e-6, rtol=1e-4, msg=key)


@pytest.mark.parametrize("position", POSITIONS, ids=name)
def test_bf16_stays_near_and_keeps_fixed_tables_exact(position: str | dict) -> None:
    model, x = small_llama(position), tokens()
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    with torch.no_grad():
        expected, got = model(x).logits, rounded(x).logits
    assert got.dtype == torch.bfloat16
    assert float((got.float() - expected).abs().max()) < 0.03 * float(expected.abs().max())
    if not isinstance(model.model.layers[0].self_attn.position, ReadsRelativeStates):
        q = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
        before, after = (
            m.model.layers[0].self_attn.position.terms(q.to(m.dtype), q[:, :2].to(m.dtype)) for m in (model, rounded)
        )
        for whole, kept in ((before.table, after.table), (before.bias_HR, after.bias_HR)):
            assert (whole is None) == (kept is None)
            if whole is not None:
                assert kept.dtype == torch.float32
                learned = next(model.model.layers[0].self_attn.position.parameters(), None) is not None
                torch.testing.assert_close(kept, whole, rtol=0.01 if learned else 0.0, atol=0.01 if learned else 0.0)


def test_tied_weights_are_one_parameter() -> None:
    model = small_llama(tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in dict(model.named_parameters())


def test_a_classifier_scores_the_last_token_that_is_not_padding() -> None:
    model = randomised(WaveposLlamaForSequenceClassification(config(num_labels=3)))
    x = tokens()
    mask = torch.ones_like(x)
    mask[1, 30:] = 0
    ragged = x.where(mask.bool(), 0)
    left, left_mask = ragged.clone(), mask.clone()
    left[1], left_mask[1] = ragged[1].roll(18), mask[1].roll(18)
    with torch.no_grad():
        alone = torch.cat([model(x[:1]).logits, model(x[1:, :30]).logits])
        torch.testing.assert_close(model(ragged, mask).logits, alone, atol=1e-5, rtol=0.0)
        torch.testing.assert_close(model(left, left_mask).logits, alone, atol=1e-5, rtol=0.0)
    assert model(x, labels=torch.tensor([0, 2])).loss.requires_grad


def test_token_losses_are_those_of_the_logits() -> None:
    model, x = small_llama(), tokens(2, 49)
    with torch.no_grad():
        losses = model.token_losses(x[:, :-1], x[:, 1:])
        expected = -model(x[:, :-1]).logits.log_softmax(-1).gather(-1, x[:, 1:, None])[..., 0]
    torch.testing.assert_close(losses, expected)


def test_the_7b_is_llama_2_7b_with_the_papers_scales() -> None:
    with torch.device("meta"):
        model = WaveposLlamaForCausalLM(llama_config("7b", 32_000))
    layer = 4 * 4096 * 4096 + 3 * 4096 * 11_008 + 2 * 4096
    assert sum(x.numel() for x in model.parameters()) == 2 * 32_000 * 4096 + 32 * layer + 4096 == 6_738_415_616
    assert model.config.position["scales"] == (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
    assert model.config.head_dim == 128


def test_a_seed_gives_all_methods_the_same_other_weights() -> None:
    states = []
    for position in ("wavelet", RECENCY, "t5", "transformer_xl", "learned_relative"):
        torch.manual_seed(3)
        states.append(WaveposLlamaModel(config(position)).state_dict())
    for state in states[1:]:
        for key, x in states[0].items():
            assert torch.equal(state[key], x), key


def test_a_batch_made_on_a_given_cache_keeps_it() -> None:
    model, x = small_llama(), tokens()
    cache = DynamicCache(config=model.config)
    assert model(x, past_key_values=cache).past_key_values is cache
    assert cache.get_seq_length() == 48


def test_arguments_stand_in_llamas_order() -> None:
    for ours, theirs in ((WaveposLlamaForCausalLM, LlamaForCausalLM), (WaveposLlamaModel, LlamaModel)):
        names = [list(inspect.signature(model.forward).parameters) for model in (ours, theirs)]
        known = [name for name in names[1] if name not in ("kwargs", "cache_position")]
        assert names[0][: len(known)] == known


def test_layers_on_other_devices_get_their_context() -> None:
    context = Context(query_offset=3, key_padding_mask=torch.ones(1, 2, dtype=torch.bool), document_ids=None)
    moved = send_to_device(context, "meta")
    assert moved.key_padding_mask.is_meta
    assert (moved.query_offset, moved.document_ids) == (3, None)


@pytest.mark.parametrize("family", ["llama", "baevski-auli"])
def test_trainer_evaluates_with_labels(family: str, tmp_path: Path) -> None:
    model = small_llama()
    if family == "baevski-auli":
        model = BaevskiAuliForCausalLM(baevski_auli_config("tiny", 97, "wavelet"))
    rows = [{"input_ids": row, "labels": row} for row in tokens(4, 20)]
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True)
    result = Trainer(model, arguments, eval_dataset=rows).evaluate()
    with torch.no_grad():
        expected = model(tokens(4, 20), labels=tokens(4, 20)).loss
    assert result["eval_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_hidden_states_that_nobody_asked_for_are_let_go() -> None:
    model = small_llama(num_hidden_layers=3)
    outputs: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []
    model.model.layers[0].register_forward_hook(lambda _, __, out: outputs.append(weakref.ref(out)))
    model.model.layers[2].register_forward_pre_hook(lambda *_: alive.append(outputs[-1]() is not None))
    with torch.no_grad():
        model(tokens())
        model(tokens(), output_hidden_states=True)
    assert alive == [False, True]
