"""Llama with any positional method for Hugging Face transformers; Llama's weights fit it name by name."""

from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.cache_utils import Cache
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaRMSNorm

from wavepos.models.base import (
    LEARNING,
    PositionedGenerationMixin,
    PositionedPreTrainedModel,
    layer_positions,
    reset_missing,
)
from wavepos.models.context import PACKED_WITH_CACHE, check_padding, read_context
from wavepos.models.llama.config import WaveposLlamaConfig
from wavepos.models.llama.layers import WaveposLlamaDecoderLayer
from wavepos.models.projections import RelativeProjection
from wavepos.models.remote_code import write_remote_code

IGNORED_LABEL = -100
_NAMES = {
    "AutoConfig": "WaveposLlamaConfig",
    "AutoModel": "WaveposLlamaModel",
    "AutoModelForCausalLM": "WaveposLlamaForCausalLM",
    "AutoModelForSequenceClassification": "WaveposLlamaForSequenceClassification",
}
_LOSS_CHUNK = 1024
_PACKING = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}
_SAID_ELSEWHERE = _PACKING | {"cache_position", "token_type_ids", "num_items_in_batch"}


class WaveposLlamaPreTrainedModel(PositionedPreTrainedModel):
    """The family's part of what transformers must know: its config, its initial values, remote code beside it."""

    config_class = WaveposLlamaConfig
    _no_split_modules: ClassVar[list[str]] = ["WaveposLlamaDecoderLayer"]
    _can_compile_fullgraph = True

    def __init__(self, config: WaveposLlamaConfig) -> None:
        if not isinstance(config, WaveposLlamaConfig):
            raise TypeError(
                f"config must be a WaveposLlamaConfig, got {type(config).__name__}: wavepos.models.from_llama takes "
                "over a Llama's config and weights"
            )
        super().__init__(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(module, (*LEARNING, RelativeProjection)):
            super()._init_weights(module)
            return
        with torch.random.fork_rng(devices=[]):  # a seed gives all methods the same weights elsewhere
            if isinstance(module, LEARNING):
                reset_missing(module)
            else:
                super()._init_weights(module)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """transformers' own; the directory can also be loaded with trust_remote_code=True (see `remote_code`)."""
        self.config.auto_map = write_remote_code(Path(save_directory), _NAMES)
        super().save_pretrained(save_directory, *args, **kwargs)


@final
class WaveposLlamaModel(WaveposLlamaPreTrainedModel):
    """The layers of Llama, with a positional method in each."""

    def __init__(self, config: WaveposLlamaConfig) -> None:
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(
            WaveposLlamaDecoderLayer(config, index, position) for index, position in enumerate(layer_positions(config))
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(  # noqa: PLR0913 - the arguments that transformers passes
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Hidden states.

        Args:
            input_ids: [B,T].
            attention_mask: [B,S], 1 where a key takes part (padding); S counts the cache's keys too.
            position_ids: [B,T]; they tell packed documents apart (`context.py`).
            past_key_values: a cache; it then holds the keys and values of this call too.
            inputs_embeds: [B,T,C] in place of input_ids.
            use_cache: make a cache if none is given; None: config.use_cache, but neither in training nor packed.
            output_attentions: return every layer's weights [B,H,T,S], dense.
            output_hidden_states: return the input of every layer and the last norm's output.
            return_dict: named outputs; None: the config's.
            kwargs: what Trainer, tokenizers and collators add for other models and say here by other means: lengths of
                packed rows (refused without position_ids), cache_position, token_type_ids, num_items_in_batch.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if unknown := sorted(set(kwargs) - _SAID_ELSEWHERE):
            raise TypeError(f"{type(self).__name__} takes no argument {unknown[0]!r}")
        if kwargs.get("cu_seq_lens_q") is not None and position_ids is None:
            raise ValueError("packed rows are told apart by position_ids, got cu_seq_lens_q without them")
        if self.reads_twice:
            past_key_values = None
        given: Any = input_ids if inputs_embeds is None else inputs_embeds
        context = read_context(given, attention_mask, position_ids, past_key_values)
        packed = context.document_ids is not None
        if use_cache and packed and not self.reads_twice:
            raise ValueError(PACKED_WITH_CACHE)
        past_key_values = self.opened_cache(past_key_values, use_cache, packed=packed)
        layers: Any = self.layers
        for position in dict.fromkeys(layer.self_attn.position for layer in layers):
            check_padding(self.config, position, context)
        read = self.through_layers(
            self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds,
            lambda index, x, maps: layers[index](x, context, past_key_values=past_key_values, output_attentions=maps),
            output_attentions,
            output_hidden_states,
        )
        hidden_states = self.norm(read.last)
        outputs = BaseModelOutputWithPast(
            last_hidden_state=hidden_states,
            past_key_values=past_key_values,
            hidden_states=None if read.hidden_states is None else (*read.hidden_states, hidden_states),
            attentions=read.attentions,
        )
        return self.named_or_tuple(outputs, return_dict)


@final
class WaveposLlamaForCausalLM(WaveposLlamaPreTrainedModel, PositionedGenerationMixin):
    """Llama as a language model, with any positional method: `LlamaForCausalLM`, but for the name of the class."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = LlamaForCausalLM._tp_plan

    def __init__(self, config: WaveposLlamaConfig) -> None:
        super().__init__(config)
        self.model = WaveposLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(  # noqa: PLR0913 - LlamaForCausalLM's arguments in their order
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits, and the loss if labels are given.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: as `WaveposLlamaModel`.
            labels: [B,T], the input itself: shifted here; −100 is not scored.
            logits_to_keep: logits of that many last tokens, or of those indices; 0: of all.
            return_dict: named outputs; None: the config's.
            kwargs: `WaveposLlamaModel`'s other arguments; shift_labels [B,T], the target of each token, in place of
                labels (no argument of its own: Trainer would look for it in every batch); num_items_in_batch.

        Returns:
            loss: mean nats a target, or their sum over num_items_in_batch; logits [B,T,V].
        """
        shift_labels, num_items = kwargs.pop("shift_labels", None), kwargs.pop("num_items_in_batch", None)
        given = (position_ids, past_key_values, inputs_embeds, use_cache)
        outputs = self.model(input_ids, attention_mask, *given, return_dict=True, **kwargs)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = None
        if labels is not None or shift_labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items,
                shift_labels=shift_labels,
            )
        outputs = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return self.named_or_tuple(outputs, return_dict)

    def token_losses(self, input_ids: Tensor, shift_labels: Tensor) -> Tensor:
        """−log p of each target, in nats, float32 [B,T]; zero where the target is −100. Logits are made in pieces."""
        outputs = self.model(input_ids, use_cache=False, return_dict=True)
        hidden: Tensor = outputs.last_hidden_state.flatten(0, 1)
        pieces = zip(torch.split(hidden, _LOSS_CHUNK), torch.split(shift_labels.flatten(), _LOSS_CHUNK), strict=True)
        losses = [
            cross_entropy(self.lm_head(x).float(), target, ignore_index=IGNORED_LABEL, reduction="none")
            for x, target in pieces
        ]
        return torch.cat(losses).view_as(shift_labels)


@final
class WaveposLlamaForSequenceClassification(
    GenericForSequenceClassification,  # type: ignore[misc] # as above
    WaveposLlamaPreTrainedModel,
):
    """Llama with a linear score on the last token that is not padding."""
