"""The decoder language model of Baevski & Auli (2019), with any position: the paper's model of section 6.1."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, pad
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from wavepos.models.baevski_auli.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from wavepos.models.base import (
    AttentionInputs,
    PositionedConfig,
    PositionedGenerationMixin,
    PositionedPreTrainedModel,
    layer_positions,
    relative_projection,
)
from wavepos.positions import Position, parse_position, position_dict

Size = Literal["tiny", "small", "paper"]
IGNORED_LABEL = -100


@final
class BaevskiAuliConfig(PositionedConfig):
    """Sizes, dropouts and position of the model; the defaults are the paper's (A.7).

    Args:
        vocab_size: V, tokens ordered from frequent to rare where cutoffs are given.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: the usual sizes.
        dropout: on embeddings and residual branches.
        attention_dropout: on attention weights.
        activation_dropout: inside the feed-forward network.
        softmax_dropout: inside the adaptive softmax.
        cutoffs: bands of the adaptive input and softmax; empty: one tied embedding.
        adaptive_factor: by what each band is narrower.
        position: a method's name or its JSON object, such as {"method": "wavelet", "query_bias": "recency"}.
        use_cache: keep keys and values where the caller does not say; in evaluation only.
        pad_token_id, bos_token_id, eos_token_id: as everywhere.

    Raises:
        ValueError: sizes that do not fit, an unknown position, an unknown field or one that would have no effect.
    """

    model_type = "wavepos_baevski_auli"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]  # Trainer adds it to a list
    unserved: ClassVar[dict[str, str]] = {"tie_word_embeddings": "the softmax reads the one parameter of the embedding"}

    def __init__(  # noqa: PLR0913 - a transformers config: one argument a property
        self,
        vocab_size: int = 267744,
        hidden_size: int = 1024,
        num_hidden_layers: int = 16,
        num_attention_heads: int = 8,
        intermediate_size: int = 4096,
        dropout: float = 0.3,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.1,
        softmax_dropout: float = 0.2,
        cutoffs: Sequence[int] = (20000, 60000),
        adaptive_factor: int = 4,
        position: str | Mapping[str, Any] = "wavelet",
        use_cache: bool = True,
        pad_token_id: int | None = None,
        bos_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, got {hidden_size} and {num_attention_heads}"
            )
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.softmax_dropout = softmax_dropout
        self.cutoffs = list(cutoffs)
        self.adaptive_factor = adaptive_factor
        self.use_cache = use_cache
        self.pad_token_id = pad_token_id
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.tie_word_embeddings = False  # one parameter by construction: nothing to tie
        super().__init__(position=position_dict(parse_position(position)), **kwargs)

    @property
    def head_dim(self) -> int:
        """D, width of a head."""
        return self.hidden_size // self.num_attention_heads


def baevski_auli_config(size: Size, vocab_size: int, position: str | Mapping[str, Any]) -> BaevskiAuliConfig:
    """The config of a named size: "tiny" (the demo), "small" (minutes on one GPU), "paper" (247M parameters)."""
    sizes: dict[str, Any]
    match size:
        case "tiny":
            sizes = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 768}
        case "small":
            sizes = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 2048}
        case "paper":
            return BaevskiAuliConfig(vocab_size=vocab_size, position=position)
        case _:
            raise ValueError(f"size must be one of {', '.join(get_args(Size))}, got {size!r}")
    dropouts: dict[str, Any] = dict.fromkeys(
        ("dropout", "attention_dropout", "activation_dropout", "softmax_dropout"), 0.0
    )
    return BaevskiAuliConfig(vocab_size=vocab_size, position=position, cutoffs=(), **sizes, **dropouts)


class DecoderLayer(GradientCheckpointingLayer):  # type: ignore[misc] # transformers is untyped here
    """x + attention(norm(x)), then x + ffn(norm(x)); the position is handed in, for it may be shared by layers."""

    def __init__(self, config: BaevskiAuliConfig, layer_index: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.layer_index = layer_index
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)

    def forward(
        self,
        x_BTC: Tensor,
        position: Position,
        relative: nn.Module | None = None,
        key_padding_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """One layer, and its weights [B,H,T,S] where asked for; `relative` projects what a position reads beside q."""
        normed_BTC = self.attention_norm(x_BTC)
        heads = self.config.num_attention_heads
        qkv = self.qkv(normed_BTC).view(*x_BTC.shape[:2], 3, heads, -1)
        q_BHTD, k_BHSD, v_BHSD = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query_offset = 0
        if past_key_values is not None:
            query_offset = int(past_key_values.get_seq_length(self.layer_index))
            k_BHSD, v_BHSD = past_key_values.update(k_BHSD, v_BHSD, self.layer_index)
        inputs = AttentionInputs(
            q_BHTD=q_BHTD,
            k_BGSD=k_BHSD,
            v_BGSD=v_BHSD,
            position=position,
            hidden_states=normed_BTC,
            relative=relative,
            key_padding_mask=key_padding_mask,
            document_ids=None,
            query_offset=query_offset,
        )
        attended, weights = inputs.attended(self.config, self.training, output_attentions)
        x_BTC = x_BTC + dropout(self.out(attended), self.config.dropout, self.training)
        active = dropout(self.up(self.ffn_norm(x_BTC)).relu(), self.config.activation_dropout, self.training)
        return x_BTC + dropout(self.down(active), self.config.dropout, self.training), weights


@final
class BaevskiAuliForCausalLM(PositionedPreTrainedModel, PositionedGenerationMixin):
    """Decoder LM: embeddings × √d, pre-norm layers without a final norm, (adaptive) softmax tied to the embedding.

    Deviates from the paper: no; the paper's code is fairseq's, whose sizes, ties and initial values are kept.
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
        self.positions = nn.ModuleList(dict.fromkeys(layer_positions(config)))  # one, where it is the same for all
        projections = (relative_projection(config, bias=True) for _ in self.layers)
        self.relative = nn.ModuleList(projection for projection in projections if projection is not None)
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
        if unknown := sorted(set(kwargs) - {"shift_labels", "skip_logits", "cache_position"}):
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
        position = self.positions[min(index, len(self.positions) - 1)]
        relative = self.relative[index] if len(self.relative) else None
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
    def from_pretrained(cls, source: str | Path, *inputs: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """transformers' own; a directory in which layers shared a learned position gives it to every layer."""
        model, info = super().from_pretrained(source, *inputs, output_loading_info=True, **kwargs)
        later = {key for key in info["missing_keys"] if key.startswith("positions.")}
        if later and not any(key.startswith("positions.0.") for key in later):
            for position in model.positions[1:]:
                position.load_state_dict(model.positions[0].state_dict())
            info["missing_keys"] -= later
        return (model, info) if output_loading_info else model

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        match module:
            case nn.Linear():
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            case nn.Embedding():
                nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
            case nn.LayerNorm():
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            case Position():
                module.reset_parameters()


def _spread_shared_position(model: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Give every layer the position of a state dict in which layers shared a learned one (T5's bias, formerly)."""
    for index in range(1, len(model.positions)):  # type: ignore[arg-type] # a ModuleList
        own = f"{prefix}positions.{index}."
        if not any(key.startswith(own) for key in state):
            first = f"{prefix}positions.0."
            state |= {own + key.removeprefix(first): x for key, x in state.items() if key.startswith(first)}
