"""transformers' own T5 and Inkling, memory linear by one call: the same numbers, caches, padding; what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_llama import randomised
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from wavepos.models import memory_linear
from wavepos.models.memory_linear import NAME

SIZES = {"vocab_size": 97, "pad_token_id": 0, "eos_token_id": 1}


def small_t5() -> Any:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    buckets = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
    return randomised(T5ForConditionalGeneration(T5Config(**SIZES, **sizes, **buckets, decoder_start_token_id=0)))


def small_inkling() -> Any:
    pytest.importorskip("transformers.models.inkling", reason="this transformers has no Inkling")
    from transformers.models.inkling.configuration_inkling import InklingTextConfig

    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    heads |= {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 16}
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "local_layer_ids": [0]}
    sizes |= {"mlp_layer_types": ["dense", "dense"], "sliding_window_size": 8, "rel_extent": 12, "d_rel": 4}
    config = InklingTextConfig(**SIZES, **heads, **sizes, log_scaling_n_floor=6, bos_token_id=2)
    return randomised(AutoModelForCausalLM.from_config(config))


def tokens(length: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 97, (2, length), generator=torch.Generator().manual_seed(seed))


def inputs_of(model: Any) -> dict[str, Tensor]:
    x, mask = tokens(24), torch.ones(2, 24, dtype=torch.int64)
    mask[0, 20:] = 0
    if isinstance(model, T5ForConditionalGeneration):
        return {"input_ids": x, "attention_mask": mask, "labels": tokens(18, 2)}
    return {"input_ids": x, "attention_mask": mask, "labels": x.where(mask.bool(), -100)}


def losses_and_gradients(model: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    model.zero_grad()
    given = inputs_of(model)
    out = model(**given, use_cache=False)
    out.loss.backward()
    grads = {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}
    return out.loss.detach(), out.logits.detach(), grads


@pytest.mark.parametrize("make", [small_t5, small_inkling])
def test_logits_gradients_and_generated_tokens_are_those_of_transformers(make: Callable[[], Any]) -> None:
    model = make()
    prompt = {"input_ids": tokens(9), "max_new_tokens": 8, "do_sample": False}
    expected, generated = losses_and_gradients(model), model.generate(**prompt)
    keys = list(model.state_dict())
    assert memory_linear(model) is model
    assert list(model.state_dict()) == keys
    loss, logits, grads = losses_and_gradients(model)
    torch.testing.assert_close(loss, expected[0], atol=1e-5, rtol=0.0)
    torch.testing.assert_close(logits[1], expected[1][1], atol=2e-5, rtol=0.0)
    assert grads.keys() == expected[2].keys()
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, expected[2][name], atol=2e-5, rtol=1e-4, msg=name)
    assert torch.equal(model.generate(**prompt), generated)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_layers_that_are_read_twice_give_the_same() -> None:
    model = memory_linear(small_t5()).train()
    expected = losses_and_gradients(model)[2]
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for name, gradient in losses_and_gradients(model)[2].items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5, msg=name)


def test_no_tensor_of_all_pairs_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model = memory_linear(small_t5())
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(
                [largest, *(x.numel() for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, Tensor))]
            )
            return out

    x = torch.full((1, 3000), 5)
    with torch.no_grad(), Largest():
        model(input_ids=x, decoder_input_ids=x, use_cache=False)
    assert largest < 4 * 3000 * 3000 / 8


def test_what_is_not_served_is_refused() -> None:
    with pytest.raises(ValueError, match="model must have layers of T5 or Inkling, got Linear"):
        memory_linear(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    model, x = memory_linear(small_t5()), tokens(9)
    assert model.config._attn_implementation == model.decoder.config._attn_implementation == NAME
    with pytest.raises(ValueError, match="output_attentions=True is not served"):
        model(input_ids=x, decoder_input_ids=x, output_attentions=True)
    with pytest.raises(ValueError, match="static caches are not served"):
        model.generate(x, cache_implementation="static", max_new_tokens=2)
