"""Ways of `generate` that both families serve alike."""

import pytest
import torch
from small_llama import RECENCY, name, tokens
from small_models import FAMILIES, small
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast


def one_character_per_id() -> PreTrainedTokenizerFast:
    characters = Tokenizer(WordLevel({chr(33 + index): index for index in range(97)}, unk_token="!"))
    characters.pre_tokenizer = Split(Regex("."), "isolated")
    characters.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=characters)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_ends_after_a_stop_string(family: str) -> None:
    model, x, tokenizer = small(family), tokens(1, 10), one_character_per_id()
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    free = model.generate(x, **options)[0, 10:].tolist()
    last = free[2]
    stopped = model.generate(x, stop_strings=[chr(33 + last)], tokenizer=tokenizer, **options)[0, 10:].tolist()
    assert stopped == free[: free.index(last) + 1]


@pytest.mark.parametrize("position", ["wavelet", RECENCY, "rotary", "transformer_xl"], ids=name)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_draft_that_exits_early_changes_nothing(family: str, position: str | dict) -> None:
    model, x = small(family, position), tokens(1, 10)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        logits = model(x).logits
        expected = model.generate(x, **options)
        assert torch.equal(model.generate(x, assistant_early_exit=1, **options), expected)
        assert model.config.num_hidden_layers == 2
        assert torch.equal(model(x).logits, logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_with_fewer_layers_reads_those_alone(family: str) -> None:
    model, x = small(family), tokens(1, 10)
    with torch.no_grad():
        whole = model(x).logits
        model.config.num_hidden_layers = 1
        early = model(x).logits
        for _ in range(2):
            assert torch.equal(model(x, use_cache=True).logits, early)
        assert not torch.allclose(early, whole, atol=1e-3)
