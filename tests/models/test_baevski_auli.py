"""The Baevski–Auli model: the paper's parameter count, adaptive layers against torch's, saving, caching, generating."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from wavepos.models import BaevskiAuliConfig, BaevskiAuliForCausalLM, baevski_auli_config
from wavepos.models.baevski_auli.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from wavepos.models.loading import load_model
from wavepos.positions import METHODS

POSITIONS = [*METHODS, {"method": "wavelet", "query_bias": "recency"}]


def tiny(position: str | dict = "wavelet", **fields: object) -> BaevskiAuliForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "cutoffs": (),
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "softmax_dropout": 0.0,
    }
    return BaevskiAuliForCausalLM(BaevskiAuliConfig(vocab_size=97, position=position, **{**sizes, **fields})).eval()


def test_the_papers_model_has_247_million_parameters() -> None:
    with torch.device("meta"):
        model = BaevskiAuliForCausalLM(baevski_auli_config("paper", 267_744, "wavelet"))
    embeddings = 20_000 * 1024 + 40_000 * 256 + 207_744 * 64
    projections = 1024 * 1024 + 1024 * 256 + 1024 * 64
    layer = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 2 * 2 * 1024
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == embeddings + projections + 2 * 1024 + 16 * layer == 246_933_504
    assert round(count / 1e6) == 247


def test_adaptive_softmax_equals_torchs_with_the_same_weights() -> None:
    torch.manual_seed(0)
    embedding = AdaptiveEmbedding(50, 16, [10, 30], 2)
    ours = AdaptiveSoftmax(16, 2, dropout=0.0)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(16, 50, [10, 30], div_value=2.0)
    with torch.no_grad():
        theirs.head.weight.copy_(torch.cat([embedding.band_weight(0), ours.classes.weight]))  # type: ignore[union-attr]
        for band, tail in enumerate(theirs.tail, start=1):
            tail[0].weight.copy_(embedding.projection_weight(band).T)
            tail[1].weight.copy_(embedding.band_weight(band))
    hidden, targets = torch.randn(200, 16), torch.randint(0, 50, (200,))
    torch.testing.assert_close(ours.losses(hidden, targets, embedding), -theirs(hidden, targets).output)
    torch.testing.assert_close(ours.log_probabilities(hidden, embedding), theirs.log_prob(hidden))


def test_adaptive_input_is_each_bands_projection() -> None:
    torch.manual_seed(0)
    embedding = AdaptiveEmbedding(50, 16, [10, 30], 4)
    ids = torch.tensor([[0, 9, 10], [29, 30, 49]])
    for index, token in enumerate(ids.flatten().tolist()):
        band = 0 if token < 10 else 1 if token < 30 else 2
        expected = embedding.projection_weight(band) @ embedding.band_weight(band)[token - embedding.edges[band]]
        torch.testing.assert_close(embedding(ids).flatten(0, 1)[index], expected)


@pytest.mark.parametrize("cutoffs", [(0, 5), (5, 5), (60,), (9, 4)])
def test_cutoffs_that_do_not_rise_are_refused(cutoffs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cutoffs must rise from above 0 to below vocab_size=50"):
        AdaptiveEmbedding(50, 16, cutoffs, 4)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size must be a multiple of num_attention_heads, got 64 and 5"):
        tiny(num_attention_heads=5)


@pytest.mark.parametrize("position", POSITIONS, ids=str)
def test_saved_and_loaded_is_the_same_model(position: str | dict, tmp_path: Path) -> None:
    model = tiny(position, cutoffs=(20, 50), adaptive_factor=2)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.config.position == model.config.position
    assert set(loaded.state_dict()) == set(model.state_dict())
    ids = torch.randint(0, 97, (2, 30))
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_directory_is_loaded_by_the_name_that_transformers_gives_it(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    loaded = BaevskiAuliForCausalLM.from_pretrained(pretrained_model_name_or_path=tmp_path)
    assert torch.equal(loaded.embedding.band_weight(0), tiny().embedding.band_weight(0))


@pytest.mark.parametrize("position", POSITIONS, ids=str)
def test_cached_generation_is_uncached_generation(position: str | dict) -> None:
    model = tiny(position)
    ids = torch.randint(1, 97, (2, 12))
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True}
    cached = model.generate(ids, **options, output_logits=True)
    uncached = model.generate(ids, **options, output_logits=True, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(uncached.logits), rtol=0.0, atol=1e-5)


def test_generation_ends_at_the_configs_end_of_text() -> None:
    ids = torch.randint(1, 97, (1, 12))
    asked = {"max_new_tokens": 8, "do_sample": False}
    free = tiny().generate(ids, inputs_embeds=None, **asked)
    end = int(free[0, 14])
    first = free[0, 12:].tolist().index(end)
    ended = tiny(eos_token_id=end, pad_token_id=0).generate(ids, **asked)
    assert torch.equal(ended, free[:, : 13 + first])


@pytest.mark.parametrize("position", POSITIONS, ids=str)
def test_left_padding_changes_nothing(position: str | dict) -> None:
    model = tiny(position)
    ids = torch.randint(1, 97, (1, 9))
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.int64), ids], 1)
    mask = (torch.arange(13)[None] >= 4).long()
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 4:], model(ids).logits, rtol=0.0, atol=2e-5)


@pytest.mark.parametrize("cutoffs", [(), (20, 50)])
def test_loss_is_the_mean_of_token_losses_and_of_log_probabilities(cutoffs: tuple[int, ...]) -> None:
    model = tiny(cutoffs=cutoffs)
    ids = torch.randint(0, 97, (3, 21))
    losses = model.token_losses(ids[:, :-1], ids[:, 1:])
    logits = model(ids[:, :-1]).logits
    expected = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(model(ids[:, :-1], shift_labels=ids[:, 1:]).loss, expected.mean())
    torch.testing.assert_close(model(ids, labels=ids).loss, expected.mean())
    ignored = ids[:, 1:].clone()
    ignored[:, :10] = -100
    torch.testing.assert_close(model(ids[:, :-1], shift_labels=ignored).loss, expected[:, 10:].mean())


def test_every_parameter_learns() -> None:
    for position in POSITIONS:
        model = tiny(position, cutoffs=(20, 50), adaptive_factor=2)
        ids = torch.randint(0, 97, (4, 30))
        model(ids, labels=ids).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_gradient_checkpointing_changes_nothing() -> None:
    ids = torch.randint(0, 97, (2, 20))
    gradients = []
    for checkpointing in (False, True):
        model = tiny().train()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable()
        model(ids, labels=ids).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)


@pytest.mark.parametrize("cutoffs", [(), (20, 50)])
def test_gradients_are_the_same_bits_each_time(cutoffs: tuple[int, ...]) -> None:
    """So that a run that was cut off goes on to the same losses, also on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = tiny(cutoffs=cutoffs, hidden_size=128).train()
        ids = torch.randint(0, 97, (16, 128))
        gradients = []
        for _ in range(5):
            model.zero_grad()
            model(ids, labels=ids).loss.backward()
            gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    finally:
        torch.set_num_threads(threads)
    for other in gradients[1:]:
        for first, again in zip(gradients[0], other, strict=True):
            assert torch.equal(first, again)


def test_a_seed_gives_all_methods_the_same_weights_elsewhere() -> None:
    states = [tiny(position).state_dict() for position in POSITIONS]
    shared = set.intersection(*(set(state) for state in states))
    assert shared == set(tiny("nope").state_dict())
    for name in shared:
        assert all(torch.equal(states[0][name], state[name]) for state in states), name


def test_a_position_that_learns_is_one_per_layer_and_one_for_all_otherwise() -> None:
    for position in POSITIONS:
        model = tiny(position)
        learns = any(True for _ in model.positions.parameters())
        assert len(set(model.positions)) == (2 if learns else 1), position
    assert [len(set(tiny(position).positions)) for position in ("wavelet", "t5", "shaw")] == [1, 2, 2]


def test_a_checkpoint_whose_layers_share_t5s_bias_gives_it_to_every_layer(tmp_path: Path) -> None:
    model = tiny("t5")
    torch.nn.init.normal_(model.positions[0].weight)
    torch.nn.init.zeros_(model.positions[1].weight)
    shared = {key: x for key, x in model.state_dict().items() if not key.startswith("positions.1.")}
    model.save_pretrained(tmp_path)
    save_file(shared, tmp_path / "model.safetensors", metadata={"format": "pt"})
    by_state_dict = tiny("t5")
    by_state_dict.load_state_dict(shared)
    for loaded in (by_state_dict, load_model(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
        for position in loaded.positions:
            assert torch.equal(position.weight, model.positions[0].weight)
    torch.nn.init.normal_(model.positions[1].weight)
    model.save_pretrained(tmp_path)
    assert torch.equal(load_model(tmp_path).positions[1].weight, model.positions[1].weight)


def test_initial_values_are_fairseqs() -> None:
    torch.manual_seed(0)
    config = BaevskiAuliConfig(vocab_size=300, num_hidden_layers=1, cutoffs=(), position="nope")
    layer = BaevskiAuliForCausalLM(config).layers[0]
    expected = {  # transformer_lm_wiki103's standard deviations at width 1024, read off fairseq's own model
        "qkv.weight": 0.0221,
        "qkv.bias": 0.0180,
        "out.weight": 0.03125,
        "out.bias": 0.0,
        "up.weight": 0.01804,
        "up.bias": 0.0180,
        "down.weight": 0.00902,
        "down.bias": 0.0090,
    }
    found = {name: float(value.detach().std()) for name, value in layer.named_parameters() if "norm" not in name}
    assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("cutoffs", [(), (10, 40)])
def test_words_are_added_at_the_mean_of_the_last_band_and_taken_from_its_end(
    cutoffs: tuple[int, ...], tmp_path: Path
) -> None:
    model = tiny(cutoffs=cutoffs)
    ids = torch.randint(0, 97, (2, 9))
    before = model(ids).logits
    model.resize_token_embeddings(101, pad_to_multiple_of=8)
    assert (model.config.vocab_size, model(ids).logits.shape[-1]) == (104, 104)
    last = model.embedding.bands[-1].weight
    torch.testing.assert_close(last[-1], last[: len(last) - 7].mean(0))
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert again.generate(ids, max_new_tokens=2, min_new_tokens=2, do_sample=False).shape == (2, 11)
    again.resize_token_embeddings(97)
    torch.testing.assert_close(again(ids).logits, before)
    again.resize_token_embeddings()
    assert again.config.vocab_size == 97
    with pytest.raises(ValueError, match=f"more than {(0, *cutoffs)[-1]}, where the last band begins, got 0"):
        again.resize_token_embeddings(0)
    with pytest.raises(ValueError, match="mean_resizing must be True"):
        again.resize_token_embeddings(98, mean_resizing=False)
