"""What both families share: the positions of layers, attention, generation, names.

Shape suffixes: B batch, H query heads, G key/value heads, T queries, S keys, D head dim, E width of the relative term,
C width of hidden states.
"""

import dataclasses
import functools
from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import dropout as random_dropout
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.cache_utils import Cache, DynamicCache
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from wavepos.models.context import padded_to_cache
from wavepos.ops.attention import attention, attention_map
from wavepos.ops.call import Backend
from wavepos.positions import (
    Position,
    PositionConfig,
    Temperature,
    build_position,
)
from wavepos.positions.learned_grid import LearnedGrid

_Output = TypeVar("_Output")

_READ_BY_GENERATE = {"tokenizer", "assistant_tokenizer"}


def head_dim(config: Any) -> int:
    """D, where a family's config leaves it to be derived too."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def layer_positions(config: Any) -> list[Position]:
    """The position of each layer: one per layer where it learns something; layers of one config share what does not.

    Args:
        config: a `PositionedConfig` with num_attention_heads and head_dim or hidden_size.
    """
    positions: list[Position] = []
    shared: dict[PositionConfig, Position] = {}
    with torch.random.fork_rng(devices=[]):  # a seed gives all methods the same weights elsewhere
        for own in config.position_configs:
            position = shared.get(own)
            if position is None:
                position = build_position(own, head_dim=head_dim(config), num_heads=config.num_attention_heads)
            if next(position.parameters(), None) is None:
                shared[own] = position
            positions.append(position)
    return positions


LEARNING = (Position, Temperature, LearnedGrid)
"""Modules of positions that set what they learn to its start: transformers asks each that holds a parameter itself."""


def reset_missing(position: Any) -> None:
    """Set what one of `LEARNING` learns to its starting values, but for what transformers has marked as loaded.

    transformers asks for this where a checkpoint lacks one of a module's parameters (5.0: always) and protects the rest
    from `nn.init` alone.
    """
    kept = [(x, x.detach().clone()) for x in position.parameters() if getattr(x, "_is_hf_initialized", False)]
    position.reset_parameters()
    with torch.no_grad():
        for parameter, value in kept:
            parameter.copy_(value)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttentionInputs:
    """What a layer's attention is computed from: q [B,H,T,D], k and v [B,G,S,D], a position and a mask.

    Relative states [B,H,T,E] and log gates [B,H,S] stand there for positions that read them.
    """

    q_BHTD: Tensor
    k_BGSD: Tensor
    v_BGSD: Tensor
    position: Position
    relative_states: Tensor | None
    gates: Tensor | None
    key_padding_mask: Tensor | None
    document_ids: Tensor | None
    query_offset: int | Tensor
    window: int | None = None
    softmax_scale: float | None = None

    def attended(self, backend: Backend, dropout: float, output_attentions: bool) -> tuple[Tensor, Tensor | None]:
        """Attention [B,T,H·D], and its weights [B,H,T,S] where asked for: with "reference" those that it is made of."""
        q_BHTD = self.q_BHTD
        given: dict[str, Any] = {
            "position": self.position,
            "key_padding_mask": self.key_padding_mask,
            "document_ids": self.document_ids,
            "query_offset": self.query_offset,
            "relative_states": self.relative_states,
            "gates": self.gates,
            "softmax_scale": self.softmax_scale,
        }
        if self.window is not None:
            given["window"] = self.window
        weights = attention_map(q_BHTD, self.k_BGSD, **given) if output_attentions else None
        if weights is not None and backend == "reference":
            values = self.v_BGSD.repeat_interleave(q_BHTD.shape[1] // self.v_BGSD.shape[1], dim=1)
            out_BHTD = (random_dropout(weights, dropout) @ values.to(weights.dtype)).to(self.v_BGSD.dtype)
            return out_BHTD.transpose(1, 2).flatten(2), weights
        out_BHTD = attention(
            q_BHTD,
            self.k_BGSD,
            self.v_BGSD,
            dropout=dropout,
            backend=backend,
            **given,
        )
        return out_BHTD.transpose(1, 2).flatten(2), weights


def attention_backend(config: Any) -> Backend:
    """The backend of a model's attn_implementation: the dense reference for "eager"."""
    return "reference" if config._attn_implementation == "eager" else "auto"


class LayersOutput(NamedTuple):
    """The last layer's output [B,T,C]; the input of every layer and the weights [B,H,T,S] of each, where asked for."""

    last: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None


class PositionedPreTrainedModel(PreTrainedModel, ABC):  # type: ignore[misc] # transformers is untyped here
    """What transformers must know of both families: how to load, save and shard them, what they do not serve."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False

    def through_layers(
        self,
        hidden_states: Tensor,
        layer: Callable[[int, Tensor, bool], tuple[Tensor, Tensor | None]],
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> LayersOutput:
        """Hidden states [B,T,C] through the first config.num_hidden_layers layers: fewer where a draft exits early.

        Args:
            hidden_states: the input of the first layer.
            layer: (index, its input, whether its weights are asked for) to its output and its weights.
            output_attentions, output_hidden_states: what is kept; None: what the config says.
        """
        keep_maps = bool(self.config.output_attentions if output_attentions is None else output_attentions)
        keep_states = bool(self.config.output_hidden_states if output_hidden_states is None else output_hidden_states)
        states: tuple[Tensor, ...] = ()  # filled only where asked for: they hold the memory of every layer
        maps: tuple[Tensor, ...] = ()
        for index in range(min(self.config.num_hidden_layers, len(self.layers))):
            states += (hidden_states,) if keep_states else ()
            hidden_states, weights = layer(index, hidden_states, keep_maps)
            maps += (weights,) if weights is not None else ()
        return LayersOutput(hidden_states, states if keep_states else None, maps if keep_maps else None)

    @property
    def reads_twice(self) -> bool:
        """Whether layers are run again in the backward pass, which would fill a cache again."""
        return bool(self.training and self.gradient_checkpointing)

    def check_cache(self, past_key_values: Cache | None) -> None:
        """Raise ValueError where layers are read twice and a cache is given: what it holds would be left out."""
        if self.reads_twice and past_key_values is not None:
            raise ValueError(
                "past_key_values must not be given in training with gradient checkpointing: layers are run twice and "
                "can neither read nor fill a cache"
            )

    def opened_cache(self, past_key_values: Cache | None, use_cache: bool | None) -> Any:
        """The cache of a call: the given one, or a new one where asked for or, unsaid, where the config has use_cache.

        Args:
            past_key_values: the given one.
            use_cache: make one if none is given; None: config.use_cache, but not in training.
        """
        self.check_cache(past_key_values)
        if self.reads_twice:
            return None
        if past_key_values is not None:
            return past_key_values
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        return DynamicCache(config=self.config) if use_cache else None

    def named_or_tuple(self, outputs: _Output, return_dict: bool | None) -> _Output | tuple[Any, ...]:
        """The outputs by name, or as a tuple where return_dict, or unsaid the config, says so."""
        named = self.config.return_dict if return_dict is None else return_dict
        return outputs if named else outputs.to_tuple()  # type: ignore[attr-defined] # transformers' ModelOutput

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: Any, is_init_check: bool = False, allow_all_kernels: bool = False
    ) -> str:
        if attn_implementation not in (None, "sdpa", "eager"):
            raise ValueError(
                f"attn_implementation must be 'sdpa' (wavepos's attention, exact and linear in memory) or 'eager' (its "
                f"dense reference), got {attn_implementation!r}: other kernels would leave the positional term out"
            )
        return attn_implementation or "sdpa"

    def set_attn_implementation(self, attn_implementation: Any, allow_all_kernels: bool = False) -> None:
        """Take "sdpa" or "eager" from now on (transformers' own does nothing for models with their own attention)."""
        self.config._attn_implementation = self._check_and_adjust_attn_implementation(attn_implementation)


class PositionedGenerationMixin(GenerationMixin):  # type: ignore[misc] # transformers is untyped here
    """transformers' `generate` for models that refuse arguments they do not know."""

    @functools.wraps(GenerationMixin.prepare_inputs_for_generation)  # transformers reads its signature
    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' own, without what `generate` hands to every step and reads itself."""
        own = {name: value for name, value in kwargs.items() if name not in _READ_BY_GENERATE}
        return super().prepare_inputs_for_generation(*args, **own)

    @staticmethod
    def create_masks_for_generate(*, attention_mask: Tensor | None, past_key_values: Cache, **_: Any) -> Tensor | None:
        """What `generate` hands a step with a static cache: the mask of its slots, not one over pairs of tokens."""
        return padded_to_cache(attention_mask, past_key_values)

    def _valid_auto_compile_criteria(self, *args: Any, **kwargs: Any) -> bool:
        """No step is compiled where all caches slide: they count where they are in Python, anew at each step."""
        kinds = getattr(self.config, "layer_types", None)
        if kinds is None:  # where a family has a window and no types, every layer slides
            slides = getattr(self.config, "sliding_window", None) is not None
            kinds = ("sliding_attention",) if slides else ("full_attention",)
        whole = any(kind == "full_attention" for kind in kinds)
        return whole and bool(super()._valid_auto_compile_criteria(*args, **kwargs))

    def generate_batch(self, *_: Any, **__: Any) -> Any:
        """Refused, as `init_continuous_batching`."""
        raise NotImplementedError(
            "continuous batching is not served: its paged attention would leave the positional term out. Use generate"
        )

    init_continuous_batching = generate_batch
    continuous_batching_context_manager = generate_batch


HEADS: dict[str, tuple[Any, dict[str, str]]] = {
    "AutoModel": (AutoModel, MODEL_MAPPING_NAMES),
    "AutoModelForCausalLM": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "AutoModelForSequenceClassification": (
        AutoModelForSequenceClassification,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    ),
    "AutoModelForTokenClassification": (AutoModelForTokenClassification, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES),
    "AutoModelForQuestionAnswering": (AutoModelForQuestionAnswering, MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES),
}
"""transformers' Auto classes that our models are known to, and their tables of class names."""


def register(config: type[PreTrainedConfig], models: Mapping[str, type[PreTrainedModel]]) -> None:
    """Make a family's models known to transformers: to its Auto classes, and by name where it asks for names.

    Trainer's label smoothing shifts labels, and pipelines accept a model, only for class names in transformers' tables
    of names, which `AutoModelForCausalLM.register` leaves as they are.

    Args:
        config: the family's config.
        models: by the name of an Auto class.
    """
    AutoConfig.register(config.model_type, config, exist_ok=True)
    for name, model in models.items():
        auto, table = HEADS[name]
        auto.register(config, model, exist_ok=True)
        table[config.model_type] = model.__name__
