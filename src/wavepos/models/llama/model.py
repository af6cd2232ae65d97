"""Llama with any positional method for Hugging Face transformers; Llama's weights fit it name by name."""

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
)

from wavepos.models.decoder.model import (
    IGNORED_LABEL,
    LOSS_CHUNK,
    DecoderLM,
    DecoderModel,
    DecoderPreTrainedModel,
)
from wavepos.models.llama.config import WaveposLlamaConfig


class WaveposLlamaPreTrainedModel(DecoderPreTrainedModel):
    """The family's part of what the mechanism must know (`wavepos.models.decoder`)."""

    config_class = WaveposLlamaConfig
    theirs: ClassVar[type[PreTrainedModel]] = LlamaModel
    _no_split_modules: ClassVar[list[str]] = ["WaveposLlamaDecoderLayer"]
    auto_names: ClassVar[dict[str, str]] = {
        "AutoConfig": "WaveposLlamaConfig",
        "AutoModel": "WaveposLlamaModel",
        "AutoModelForCausalLM": "WaveposLlamaForCausalLM",
        "AutoModelForSequenceClassification": "WaveposLlamaForSequenceClassification",
        "AutoModelForTokenClassification": "WaveposLlamaForTokenClassification",
        "AutoModelForQuestionAnswering": "WaveposLlamaForQuestionAnswering",
    }


class WaveposLlamaDecoderLayer(LlamaDecoderLayer):  # type: ignore[misc] # transformers is untyped here
    """Llama's own layer, under the name that users' sharding plans have."""


@final
class WaveposLlamaModel(WaveposLlamaPreTrainedModel, DecoderModel, LlamaModel):  # type: ignore[misc] # as above
    """The layers of Llama, with a positional method in each."""

    def take_positions(self) -> None:
        super().take_positions()
        for layer in self.layers:
            layer.__class__ = WaveposLlamaDecoderLayer


WaveposLlamaPreTrainedModel.inner_class = WaveposLlamaModel


@final
class WaveposLlamaForCausalLM(WaveposLlamaPreTrainedModel, DecoderLM, LlamaForCausalLM):  # type: ignore[misc] # as above
    """Llama as a language model, with any positional method: `LlamaForCausalLM`, but for the name of the class."""

    def token_losses(self, input_ids: Tensor, shift_labels: Tensor) -> Tensor:
        """−log p of each target, in nats, float32 [B,T]; zero where the target is −100. Logits are made in pieces."""
        outputs = self.model(input_ids, use_cache=False, return_dict=True)
        hidden: Tensor = outputs.last_hidden_state.flatten(0, 1)
        pieces = zip(torch.split(hidden, LOSS_CHUNK), torch.split(shift_labels.flatten(), LOSS_CHUNK), strict=True)
        losses = [
            cross_entropy(self.lm_head(x).float(), target, ignore_index=IGNORED_LABEL, reduction="none")
            for x, target in pieces
        ]
        return torch.cat(losses).view_as(shift_labels)


@final
class WaveposLlamaForSequenceClassification(
    WaveposLlamaPreTrainedModel,
    LlamaForSequenceClassification,  # type: ignore[misc] # as above
):
    """Llama with a linear score on the last token that is not padding."""


@final
class WaveposLlamaForTokenClassification(
    WaveposLlamaPreTrainedModel,
    LlamaForTokenClassification,  # type: ignore[misc] # as above
):
    """Llama with a linear score on each token."""


@final
class WaveposLlamaForQuestionAnswering(
    WaveposLlamaPreTrainedModel,
    LlamaForQuestionAnswering,  # type: ignore[misc] # as above
):
    """Llama with the first and the last token of an answer; its layers are under "model", as the language model's."""


MODELS: dict[str, type[PreTrainedModel]] = {
    "AutoModel": WaveposLlamaModel,
    "AutoModelForCausalLM": WaveposLlamaForCausalLM,
    "AutoModelForSequenceClassification": WaveposLlamaForSequenceClassification,
    "AutoModelForTokenClassification": WaveposLlamaForTokenClassification,
    "AutoModelForQuestionAnswering": WaveposLlamaForQuestionAnswering,
}
"""The family's models by the names of transformers' Auto classes."""
