"""What both families share: the config's field `position`, the positions of layers, attention, generation, names.

Shape suffixes: B batch, H query heads, G key/value heads, T queries, S keys, D head dim, E width of the relative term,
C width of hidden states.
"""

import dataclasses
import functools
import inspect
from abc import ABC
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, NamedTuple, TypeVar, final

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.cache_utils import Cache, DynamicCache
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from wavepos.ops.attention import attention, attention_map
from wavepos.positions import (
    Position,
    PositionConfig,
    Temperature,
    build_position,
    layer_configs,
    parse_layers,
    parse_position,
)
from wavepos.positions.layers import merged

_Output = TypeVar("_Output")

_READ_BY_GENERATE = {"tokenizer", "assistant_tokenizer"}

_OF_TRANSFORMERS = (
    set(vars(PreTrainedConfig()))  # not dataclasses.fields: transformers 5.0 has no dataclass here
    | {name for name, value in vars(PreTrainedConfig).items() if isinstance(value, property) and value.fset}
    # what loading and saving add
    | {"attn_implementation", "experts_implementation", "model_type", "auto_map", "quantization_config"}
)
"""Fields that transformers gives to the config of every model."""

_WINDOWS = "windows stand in position={'method': …, 'window': …}, of all layers or of each"
_UNSERVED = {
    "layer_types": _WINDOWS,
    "sliding_window": _WINDOWS,
    "per_layer_config": "layers differ in position=[…] alone",
}


class PositionedConfig(PreTrainedConfig, ABC):  # type: ignore[misc] # transformers is untyped here
    """A config with a field `position` that takes no field without effect.

    `from_pretrained(path, position={"method": "wavelet", "stretch": 4})` changes the given keys and keeps the saved
    ones where the method is the saved one; another method stands for itself alone, and so does a list or a pattern.
    In a saved list or pattern one method changes the layers that have it (`wavepos.positions.layers.merged`).

    Raises:
        ValueError: a field that neither the config nor transformers' own base has, or one that would have no effect;
            a list of positions that has not one for each layer.
    """

    position: Any
    """JSON: an object with a method, a list of such objects, or a pattern of two."""
    num_hidden_layers: int
    unserved: ClassVar[Mapping[str, str]] = {}
    """Fields of other models that would have no effect here, and why; None and False are taken for them."""

    def __init__(self, *, position: Any, **kwargs: Any) -> None:
        for name, why in {**_UNSERVED, **self.unserved}.items():
            if kwargs.pop(name, None) not in (None, False):
                raise ValueError(f"{name} has no effect in {type(self).__name__}: {why}")
        for name in kwargs:
            if name not in _OF_TRANSFORMERS and not name.startswith("_"):  # those are transformers' bookkeeping
                raise self._unknown(name)
        layer_configs(parse_layers(position), self.num_hidden_layers)
        self.position = position
        super().__init__(**kwargs)

    @property
    def position_configs(self) -> tuple[PositionConfig, ...]:
        """The config of each layer's position; where layers are left out, those of the first ones."""
        layers = parse_layers(self.position)
        if isinstance(layers, tuple):
            layers = layers[: self.num_hidden_layers]
        return layer_configs(layers, self.num_hidden_layers)

    @property
    def position_config(self) -> PositionConfig:
        """The config of the position that all layers have; ValueError where they differ."""
        return parse_position(self.position)

    @classmethod
    def field_names(cls) -> list[str]:
        """The fields of this family, `position` among them."""
        return [name for name in inspect.signature(cls.__init__).parameters if name not in ("self", "kwargs")]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """transformers' own, with the given fields in place of the saved ones before the config is made and checked."""
        given = {name: kwargs.pop(name) for name in cls.field_names() if name in kwargs}
        if given.get("position") is not None:
            given["position"] = merged(config_dict.get("position"), given["position"])
        rest_wanted = kwargs.pop("return_unused_kwargs", False)
        config, rest = super().from_dict({**config_dict, **given}, return_unused_kwargs=True, **kwargs)
        if rest_wanted:
            return config, rest
        for name in rest:
            raise cls._unknown(name)
        return config

    @classmethod
    def _unknown(cls, name: str) -> ValueError:
        own = cls.field_names()
        near = get_close_matches(name, own, n=1, cutoff=0.7) or get_close_matches(name, [*own, *_OF_TRANSFORMERS], n=1)
        return ValueError(f"{cls.__name__} has no field {name!r}{f', nearest is {near[0]!r}' if near else ''}")


@final
class RelativeProjection(nn.Linear):
    """The projection of hidden states to what a position that reads relative states multiplies with its table."""


def layer_positions(config: Any) -> list[Position]:
    """The position of each layer: one per layer where it learns something; layers of one config share what does not.

    Args:
        config: a `PositionedConfig` with head_dim and num_attention_heads.
    """
    positions: list[Position] = []
    shared: dict[PositionConfig, Position] = {}
    with torch.random.fork_rng(devices=[]):  # a seed gives all methods the same weights elsewhere
        for own in config.position_configs:
            position = shared.get(own)
            if position is None:
                position = build_position(own, head_dim=config.head_dim, num_heads=config.num_attention_heads)
            if next(position.parameters(), None) is None:
                shared[own] = position
            positions.append(position)
    return positions


def reset_missing(position: Position | Temperature) -> None:
    """Set what a position or a temperature learns to its starting values, but for what transformers marked as loaded.

    transformers asks for this where a checkpoint lacks one of a module's parameters (5.0: always) and protects the rest
    from `nn.init` alone.
    """
    kept = [(x, x.detach().clone()) for x in position.parameters() if getattr(x, "_is_hf_initialized", False)]
    position.reset_parameters()
    with torch.no_grad():
        for parameter, value in kept:
            parameter.copy_(value)


def relative_projection(config: Any, layer: int, bias: bool) -> RelativeProjection | None:
    """The projection of a layer to the relative states [B,T,H·E] of a position that reads them; None for others.

    Args:
        config: a `PositionedConfig` with hidden_size and num_attention_heads.
        layer: its index.
        bias: whether the projection has one.
    """
    width = config.position_configs[layer].relative_states_dim
    if width is None:
        return None
    with torch.random.fork_rng(devices=[]):
        return RelativeProjection(config.hidden_size, config.num_attention_heads * width, bias=bias)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttentionInputs:
    """What a layer's attention is computed from: q [B,H,T,D], k and v [B,G,S,D], a position and a mask.

    From hidden_states [B,T,C] `relative` projects the relative states [B,T,H·E] of a position that reads them.
    """

    q_BHTD: Tensor
    k_BGSD: Tensor
    v_BGSD: Tensor
    position: Position
    hidden_states: Tensor
    relative: nn.Module | None
    key_padding_mask: Tensor | None
    document_ids: Tensor | None
    query_offset: int | Tensor
    window: int | None = None

    def attended(self, config: Any, training: bool, output_attentions: bool) -> tuple[Tensor, Tensor | None]:
        """Attention [B,T,H·D] by the config's implementation and dropout, and its weights [B,H,T,S] where asked for."""
        q_BHTD = self.q_BHTD
        relative_states = None
        if self.relative is not None:
            relative_states = self.relative(self.hidden_states).unflatten(-1, (q_BHTD.shape[1], -1)).transpose(1, 2)
        given: dict[str, Any] = {
            "position": self.position,
            "key_padding_mask": self.key_padding_mask,
            "document_ids": self.document_ids,
            "query_offset": self.query_offset,
            "relative_states": relative_states,
        }
        if self.window is not None:
            given["window"] = self.window
        weights = attention_map(q_BHTD, self.k_BGSD, **given) if output_attentions else None
        out_BHTD = attention(
            q_BHTD,
            self.k_BGSD,
            self.v_BGSD,
            dropout=config.attention_dropout if training else 0.0,
            backend="reference" if config._attn_implementation == "eager" else "auto",
            **given,
        )
        return out_BHTD.transpose(1, 2).flatten(2), weights


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

    def opened_cache(self, past_key_values: Cache | None, use_cache: bool | None, *, packed: bool = False) -> Any:
        """The cache of a call: the given one, or a new one where asked for or, unsaid, where the config has use_cache.

        Args:
            past_key_values: the given one.
            use_cache: make one if none is given; None: config.use_cache, but neither in training nor for packed rows.
            packed: whether rows hold several documents.
        """
        if self.reads_twice:
            return None
        if past_key_values is not None:
            return past_key_values
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and not packed
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


def register(
    config: type[PositionedConfig],
    *,
    causal_lm: type[PreTrainedModel],
    base: type[PreTrainedModel] | None = None,
    classifier: type[PreTrainedModel] | None = None,
) -> None:
    """Make a family known to transformers: to its Auto classes, and by name where it asks for names.

    Trainer's label smoothing shifts labels, and pipelines accept a model, only for class names in transformers' tables
    of names, which `AutoModelForCausalLM.register` leaves as they are.

    Args:
        config: the family's config.
        causal_lm: its language model.
        base: its model without a head.
        classifier: its model for sequence classification.
    """
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModelForCausalLM.register(config, causal_lm, exist_ok=True)
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type] = causal_lm.__name__
    if base is not None:
        AutoModel.register(config, base, exist_ok=True)
    if classifier is not None:
        AutoModelForSequenceClassification.register(config, classifier, exist_ok=True)
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[config.model_type] = classifier.__name__
