"""The decoder language model of Baevski & Auli (2019), with any position: the paper's model of section 6.1."""

import logging
import math
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, pad
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from wavepos.models.baevski_auli.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from wavepos.models.baevski_auli.config import BaevskiAuliConfig
from wavepos.models.base import (
    LEARNING,
    AttentionInputs,
    PositionedGenerationMixin,
    PositionedPreTrainedModel,
    attention_backend,
    layer_positions,
    reset_missing,
)
from wavepos.models.projections import Projected, relative_projection, updated
from wavepos.positions import Position, parse_layers
from wavepos.positions.t5_bias import T5BiasConfig

logger = logging.getLogger(__name__)

IGNORED_LABEL = -100


@final
class QueryKeyValue(nn.Linear):
    """The projection to queries, keys and values: fairseq draws its weight by Xavier, its bias from U(±1/√fan_in)."""


@final
class FeedForwardLinear(nn.Linear):
    """A map of the feed-forward network: fairseq draws its weight and bias from U(±1/√fan_in)."""


class DecoderLayer(GradientCheckpointingLayer):  # type: ignore[misc] # transformers is untyped here
    """x + attention(norm(x)), then x + ffn(norm(x)); the position is handed in, for it may be shared by layers."""

    def __init__(self, config: BaevskiAuliConfig, layer_index: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.layer_index = layer_index
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = QueryKeyValue(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.up = FeedForwardLinear(width, config.intermediate_size)
        self.down = FeedForwardLinear(config.intermediate_size, width)

    def forward(
        self,
        x_BTC: Tensor,
        position: Position,
        relative: nn.Module | None = None,
        key_padding_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """One layer, and its weights [B,H,T,S] where asked for; `relative` projects what a position reads of x."""
        normed_BTC = self.attention_norm(x_BTC)
        heads = self.config.num_attention_heads
        qkv = self.qkv(normed_BTC).view(*x_BTC.shape[:2], 3, heads, -1)
        q_BHTD, k_BHSD, v_BHSD = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        relative_states, gates = Projected.of(relative, position, normed_BTC, heads)
        query_offset = 0
        if past_key_values is not None:
            query_offset = int(past_key_values.get_seq_length(self.layer_index))
            k_BHSD, v_BHSD, gates = updated(past_key_values, k_BHSD, v_BHSD, gates, self.layer_index)
        inputs = AttentionInputs(
            q_BHTD=q_BHTD,
            k_BGSD=k_BHSD,
            v_BGSD=v_BHSD,
            position=position,
            relative_states=relative_states,
            gates=gates,
            key_padding_mask=key_padding_mask,
            document_ids=None,
            query_offset=query_offset,
            window=position.window,
        )
        dropped = self.config.attention_dropout if self.training else 0.0
        attended, weights = inputs.attended(attention_backend(self.config), dropped, output_attentions)
        x_BTC = x_BTC + dropout(self.out(attended), self.config.dropout, self.training)
        active = dropout(self.up(self.ffn_norm(x_BTC)).relu(), self.config.activation_dropout, self.training)
        return x_BTC + dropout(self.down(active), self.config.dropout, self.training), weights


@final
class BaevskiAuliForCausalLM(PositionedPreTrainedModel, PositionedGenerationMixin):
    """Decoder LM: embeddings × √d, pre-norm layers without a final norm, (adaptive) softmax tied to the embedding.

    As in the paper, whose code is fairseq's: sizes, ties and initial values are those of its transformer_lm_wiki103.
    """

    config_class = BaevskiAuliConfig
    accepts_loss_kwargs = False
    _no_split_modules = ("DecoderLayer",)

    def __init__(self, config: BaevskiAuliConfig) -> None:
        super().__init__(config)
        self.embedding = AdaptiveEmbedding(
            config.vocab_size, config.hidden_size, config.cutoffs, config.adaptive_factor
        )
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.positions = nn.ModuleList(layer_positions(config))  # one object, where it is the same for layers
        projections = {str(index): relative_projection(config, index, bias=True) for index in range(len(self.layers))}
        self.relative = nn.ModuleDict({index: x for index, x in projections.items() if x is not None})
        self.softmax = AdaptiveSoftmax(config.hidden_size, len(config.cutoffs), config.softmax_dropout)
        self.gradient_checkpointing = False
        self.register_load_state_dict_pre_hook(_spread_shared_position)
        self.post_init()

    def forward(  # noqa: PLR0913 - the arguments that transformers passes
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Loss and logits.

        Args:
            input_ids: [B,T].
            attention_mask: [B,S], 1 where a key takes part (padding).
            labels: [B,T], the input itself: shifted here; −100 is not scored.
            past_key_values: a cache; it then holds the keys and values of this call too.
            use_cache: make a cache if none is given; None: config.use_cache, but not in training.
            logits_to_keep: logits of that many last positions only; 0: of all.
            output_attentions: return every layer's weights [B,H,T,S], dense.
            output_hidden_states: return the input of every layer and the last one's output, [B,T,C] each.
            return_dict: named outputs; None: the config's.
            kwargs: shift_labels [B,T], the target of each position, in place of labels (no argument of its own: Trainer
                would look for it in every batch); skip_logits, whether to leave the logits out: None (where nothing is
                said) leaves them out in training with labels, for the loss needs no logits over all V words;
                cache_position, not read, for the cache knows its slots.

        Returns:
            loss: mean nats per target, if labels are given; logits: log p, float32 [B,T,V], unless left out.
        """
        given = {name for name, value in kwargs.items() if value is not None}  # transformers 5.0: inputs_embeds=None
        if unknown := sorted(given - {"shift_labels", "skip_logits", "cache_position"}):
            raise TypeError(f"{type(self).__name__} takes no argument {unknown[0]!r}")
        shift_labels: Tensor | None = kwargs.get("shift_labels")
        past_key_values = self.opened_cache(past_key_values, use_cache)
        mask = None if attention_mask is None else attention_mask.bool()
        read = self.through_layers(
            self._embedded(input_ids),
            lambda index, x_BTC, maps: self.layer(index, x_BTC, mask, past_key_values, maps),
            output_attentions,
            output_hidden_states,
        )
        hidden_BTC = read.last
        if labels is not None and shift_labels is None:
            shift_labels = pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
        skip_logits: bool | None = kwargs.get("skip_logits")
        if skip_logits is None:
            skip_logits = self.training and shift_labels is not None
        loss = logits = None
        if shift_labels is not None:
            scored = (shift_labels != IGNORED_LABEL).sum()
            loss = self._losses(hidden_BTC, shift_labels).sum() / scored
        if not skip_logits:
            logits = self.softmax.log_probabilities(hidden_BTC[:, -logits_to_keep:], self.embedding)
        outputs = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=None if read.hidden_states is None else (*read.hidden_states, hidden_BTC),
            attentions=read.attentions,
        )
        return self.named_or_tuple(outputs, return_dict)

    def token_losses(self, input_ids: Tensor, shift_labels: Tensor) -> Tensor:
        """−log p of each target, in nats, float32 [B,T]; zero where the target is −100."""
        read = self.through_layers(
            self._embedded(input_ids), lambda index, x_BTC, _: self.layer(index, x_BTC), False, False
        )
        return self._losses(read.last, shift_labels)

    def layer(
        self,
        index: int,
        x_BTC: Tensor,
        key_padding_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The hidden states [B,T,C] after a layer, with its position, and its weights [B,H,T,S] where asked for."""
        position = self.positions[index]
        key = str(index)
        relative = self.relative[key] if key in self.relative else None  # noqa: SIM401 - a ModuleDict has no get
        after: tuple[Tensor, Tensor | None] = self.layers[index](
            x_BTC,
            position,
            relative,
            key_padding_mask,
            past_key_values=past_key_values,
            output_attentions=output_attentions,
        )
        return after

    def _embedded(self, input_ids: Tensor) -> Tensor:
        x_BTC: Tensor = self.embedding(input_ids) * math.sqrt(self.config.hidden_size)
        return dropout(x_BTC, self.config.dropout, self.training)

    def _losses(self, hidden_BTC: Tensor, shift_labels: Tensor) -> Tensor:
        scored = shift_labels != IGNORED_LABEL
        targets = shift_labels.where(scored, 0).flatten()
        losses_N = self.softmax.losses(hidden_BTC.flatten(0, 1), targets, self.embedding)
        return losses_N.view_as(shift_labels) * scored

    @property
    def model(self) -> "BaevskiAuliForCausalLM":
        """The body below the head, by the name of `base_model_prefix`: the model itself, which has both in one."""
        return self

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        *inputs: Any,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """transformers' own; layers that shared T5's bias when they were saved each begin with it."""
        source = pretrained_model_name_or_path
        model, info = super().from_pretrained(source, *inputs, output_loading_info=True, **kwargs)
        later = _of_later_layers(model)
        if later and later <= info["missing_keys"] and "positions.0.weight" not in info["missing_keys"]:
            for position in model.positions[1:]:
                position.load_state_dict(model.positions[0].state_dict())
            info["missing_keys"] -= later
            logger.warning(
                "%s holds one T5 bias for all layers: every layer begins with it, nothing is missing", source
            )
        return (model, info) if output_loading_info else model

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """The embedding, and with it the softmax, for another number of words: the last band's, the rarest.

        Args:
            new_num_tokens: V from now on; None: as it is.
            pad_to_multiple_of: V is rounded up to a multiple of it.
            mean_resizing: new words begin at the mean of the last band's; nothing else is served.

        Raises:
            ValueError: no word would be left in the last band, or mean_resizing is False.
        """
        if not mean_resizing:
            raise ValueError("mean_resizing must be True: new words begin at the mean of the last band, got False")
        wanted, step = self.config.vocab_size if new_num_tokens is None else new_num_tokens, pad_to_multiple_of or 1
        self.embedding.resize(-(-wanted // step) * step)
        self.config.vocab_size = self.embedding.edges[-1]
        return self.embedding

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        match module:
            case FeedForwardLinear():
                bound = module.in_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.uniform_(module.bias, -bound, bound)
            case QueryKeyValue():
                bound = module.in_features**-0.5
                nn.init.xavier_uniform_(module.weight)
                nn.init.uniform_(module.bias, -bound, bound)
            case nn.Linear():
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            case nn.Embedding():
                nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
            case nn.LayerNorm():
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            case _ if isinstance(module, LEARNING):
                reset_missing(module)


def _of_later_layers(model: Any) -> set[str]:
    """The names of T5's biases beyond the first layer's, which state dicts lack whose layers shared it; else none."""
    layers = parse_layers(model.config.position)
    if not isinstance(layers, T5BiasConfig):
        return set()
    return {f"positions.{index}.weight" for index in range(1, len(model.positions))}


def _spread_shared_position(model: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Give every layer the T5 bias of a state dict in which layers shared it."""
    later, first = _of_later_layers(model), f"{prefix}positions.0.weight"
    if first in state and not any(prefix + name in state for name in later):
        state |= {prefix + name: state[first] for name in later}
