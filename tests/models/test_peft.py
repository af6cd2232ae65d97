"""PEFT as users call it, on both kinds of models; which parameters transformers' Trainer decays; traced models."""

import peft
import pytest
import torch
from small_families import positioned
from small_models import FAMILIES, small
from torch import Tensor
from transformers import Trainer

from wavepos import NoPE, attention

RECENCY = {"method": "wavelet", "query_bias": "recency", "gate": "forget"}


def tokens(length: int = 16) -> Tensor:
    return torch.randint(3, 97, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize("family", [*FAMILIES[:2], "qwen3"])
def test_adapters_of_peft_are_trained_and_merged(family: str) -> None:
    model, x = positioned(family, RECENCY) if family == "qwen3" else small(family, RECENCY), tokens()
    with torch.no_grad():
        plain = model.eval()(x).logits
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    out = adapted(input_ids=x, attention_mask=torch.ones_like(x), labels=x)
    out.loss.backward()
    torch.testing.assert_close(adapted(input_ids=x).logits, plain, atol=1e-5, rtol=0.0)
    learned = [parameter for name, parameter in adapted.named_parameters() if "lora_B" in name]
    assert learned and all(bool(parameter.grad.any()) for parameter in learned)
    with torch.no_grad():
        for parameter in learned:
            parameter.add_(0.05)
        moved = adapted(input_ids=x).logits
        assert not torch.allclose(moved, plain, atol=1e-3)
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(x).logits, moved, atol=1e-4, rtol=0.0)
    assert adapted.generate(input_ids=x[:, :4], max_new_tokens=2, do_sample=False).shape == (2, 6)


def test_transformers_trainer_does_not_decay_what_a_query_bias_and_gates_learn() -> None:
    model = positioned("qwen3", RECENCY)
    decayed = Trainer.get_decay_parameter_names(Trainer.__new__(Trainer), model)
    assert not [name for name in decayed if ".position." in name]


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.trace. is deprecated:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
def test_a_call_with_grouped_heads_can_be_traced() -> None:
    q, k = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)

    def call(q: Tensor, k: Tensor) -> Tensor:
        return attention(q, k, k, position=NoPE())

    traced = torch.jit.trace(call, (q, k), check_trace=False)
    torch.testing.assert_close(traced(2.0 * q, k), call(2.0 * q, k))
