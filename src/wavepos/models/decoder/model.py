"""The models of served families: the family's own classes with a position in each layer's attention.

A family's classes are derived and its attention code is not touched: `layer.py` says how ours comes into it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from wavepos.models.base import (
    LEARNING,
    PositionedGenerationMixin,
    PositionedPreTrainedModel,
    layer_positions,
    reset_missing,
)
from wavepos.models.context import PACKED_WITH_CACHE, check_padding, read_context
from wavepos.models.decoder.config import PositionedDecoderConfig
from wavepos.models.decoder.layer import CONTEXT, begin_call, hand_context
from wavepos.models.projections import RelativeProjection, relative_projection
from wavepos.models.remote_code import write_remote_code

IGNORED_LABEL = -100
LOSS_CHUNK = 1024
_ATTENTIONS = ("self_attn", "attention")
_IMPLEMENTATIONS = {None: "wavepos", "sdpa": "wavepos", "eager": "wavepos_eager"}
_PACKING = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}
_SAID_ELSEWHERE = _PACKING | {"cache_position", "token_type_ids", "num_items_in_batch", "shift_labels"}
_OF_OUTPUTS = {"output_attentions", "output_hidden_states", "output_router_logits", "return_dict", "is_causal"}


class Unrotated(nn.Module):
    """In place of a family's rotary embedding: cos = 1 and sin = 0 of the shapes that it gives, so no rotation."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        cos, sin = self.rotary(*args, **kwargs)
        return torch.ones_like(cos), torch.zeros_like(sin)


class DecoderPreTrainedModel(PositionedPreTrainedModel):
    """What transformers must know of the derived classes: initial values, the attention function, files beside them."""

    theirs: ClassVar[type[PreTrainedModel]]
    """The family's own model without a head."""
    inner_class: ClassVar[type[PreTrainedModel]]
    """The one that is derived from it."""
    auto_names: ClassVar[dict[str, str]]
    """Names of the family's derived classes, by those of transformers' Auto classes."""
    _drawn: tuple[Tensor, Tensor] | None = None
    """The state of the random numbers when a position last drew, outside and its own."""

    def __init__(self, config: PositionedDecoderConfig) -> None:
        if not isinstance(config, self.config_class):
            raise TypeError(
                f"config must be a {self.config_class.__name__}, got {type(config).__name__}: wavepos.models.convert "
                "(from_llama for a Llama) takes over another model's config and weights"
            )
        super().__init__(config)

    def post_init(self) -> None:
        """transformers' own, which a family's `__init__` ends with, once positions are in its layers."""
        for inner in self.children():
            if type(inner) is self.theirs:  # a family's head makes the family's own model without one
                inner.__class__ = self.inner_class
                inner._no_split_modules = self.inner_class._no_split_modules  # set by the first post_init
                PreTrainedModel.__init__(object.__new__(self.inner_class), self.config)  # notes what it can record
                inner.post_init()
            if type(inner) is self.inner_class:
                inner.in_a_head = True
        super().post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(module, (*LEARNING, RelativeProjection)):
            super()._init_weights(module)
            return
        with self._apart():
            if isinstance(module, LEARNING):
                reset_missing(module)
            else:
                super()._init_weights(module)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Draw where no one else's draws move, and on from the last time: a seed gives all methods the same weights
        elsewhere, and each layer's position weights of its own."""
        outside = torch.get_rng_state()
        with torch.random.fork_rng(devices=[]):
            if self._drawn is not None and torch.equal(self._drawn[0], outside):
                torch.set_rng_state(self._drawn[1])
            yield
            self._drawn = outside, torch.get_rng_state()

    def _check_and_adjust_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> str:
        if attn_implementation in _IMPLEMENTATIONS.values():
            return str(attn_implementation)
        super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)
        return _IMPLEMENTATIONS[attn_implementation]

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """transformers' own; the directory can also be loaded with trust_remote_code=True (see `remote_code`)."""
        self.config.auto_map = write_remote_code(Path(save_directory), self.auto_names)
        super().save_pretrained(save_directory, *args, **kwargs)


class DecoderModel(DecoderPreTrainedModel):
    """A family's layers, with a position in each."""

    rotary_emb: nn.Module
    in_a_head: bool = False
    """Whether a head reads the outputs, by their names whatever the config's return_dict."""

    def post_init(self) -> None:
        self.take_positions()
        super().post_init()

    def take_positions(self) -> None:
        """Put the config's positions into the family's layers, and the family's rotation out unless it is to stay."""
        for index, (layer, position) in enumerate(zip(self.layers, layer_positions(self.config), strict=True)):
            attention = attention_of(layer)
            attention.position = position
            attention.r_proj = relative_projection(self.config, index, self.config.relative_bias)
            layer.register_forward_pre_hook(hand_context, with_kwargs=True)
            attention.register_forward_pre_hook(begin_call, with_kwargs=True)
        if not self.config.native_rotation:
            self.rotary_emb = Unrotated(self.rotary_emb)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Hidden states, as the family gives them.

        Args:
            input_ids: [B,T].
            attention_mask: [B,S], 1 where a key takes part (padding); S counts the cache's keys too.
            position_ids: [B,T]; they tell packed documents apart (`context.py`), and say what a native rotation reads.
            past_key_values: a cache; it then holds the keys and values of this call too.
            inputs_embeds: [B,T,C] in place of input_ids.
            use_cache: make a cache if none is given; None: config.use_cache, but neither in training nor packed.
            kwargs: output_attentions, output_hidden_states, output_router_logits, return_dict, and what Trainer,
                tokenizers and collators add for other models; others may be None.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        for name in sorted(set(kwargs) - _SAID_ELSEWHERE - _OF_OUTPUTS):
            if kwargs.pop(name) is not None:
                raise TypeError(f"{type(self).__name__} takes no argument {name!r}")
        if kwargs.get("cu_seq_lens_q") is not None and position_ids is None:
            raise ValueError("packed rows are told apart by position_ids, got cu_seq_lens_q without them")
        self.check_cache(past_key_values)
        given: Any = input_ids if inputs_embeds is None else inputs_embeds
        context = read_context(given, attention_mask, position_ids, past_key_values)
        packed = context.document_ids is not None
        if use_cache and packed:
            raise ValueError(PACKED_WITH_CACHE)
        if use_cache is None or self.reads_twice:
            use_cache = self.config.use_cache and not self.training and not packed
        if context.key_padding_mask is not None:
            for position in dict.fromkeys(attention_of(layer).position for layer in self.layers):
                check_padding(self.config, position, context)
        if (maps := kwargs.get("output_attentions")) is None:
            maps = self.config.output_attentions
        if self.in_a_head:
            kwargs.setdefault("return_dict", True)
        return super().forward(
            input_ids=input_ids,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{CONTEXT: replace(context, output_attentions=bool(maps))},
            **kwargs,
        )


class DecoderLM(DecoderPreTrainedModel, PositionedGenerationMixin):
    """A family's language model, with a position in each layer."""

    def forward(  # noqa: PLR0913 - the families' arguments
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """Logits, and the loss if labels are given, as the family gives them.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: as `DecoderModel`.
            labels: [B,T], the input itself: shifted here; −100 is not scored.
            logits_to_keep: logits of that many last tokens, or of those indices; 0: of all.
            kwargs: `DecoderModel`'s other arguments; shift_labels [B,T], the target of each token, in place of labels
                (no argument of its own: Trainer would look for it in every batch); num_items_in_batch.

        Returns:
            loss: mean nats a target, or their sum over num_items_in_batch; logits [B,T,V].
        """
        if labels is None:
            labels = kwargs.get("shift_labels")
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def token_losses(self, input_ids: Tensor, shift_labels: Tensor) -> Tensor:
        """−log p of each target, in nats, float32 [B,T]; zero where the target is −100."""
        logits = self(input_ids, use_cache=False, return_dict=True).logits.flatten(0, 1)
        pieces = zip(torch.split(logits, LOSS_CHUNK), torch.split(shift_labels.flatten(), LOSS_CHUNK), strict=True)
        losses = [
            cross_entropy(x.float(), target, ignore_index=IGNORED_LABEL, reduction="none") for x, target in pieces
        ]
        return torch.cat(losses).view_as(shift_labels)


def attention_of(layer: nn.Module) -> Any:
    """The attention module of a family's layer."""
    for name, child in layer.named_children():
        if name in _ATTENTIONS:
            return child
    raise TypeError(f"{type(layer).__name__} has no attention under one of the names {', '.join(_ATTENTIONS)}")
