"""The decoder language model of Baevski & Auli (2019), with any position: the paper's model of section 6.1."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, pad
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from wavepos.attention import attention
from wavepos.models.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from wavepos.models.positioned import PositionedConfig, PositionedGenerationMixin
from wavepos.positions import LearnedRelativeConfig, Position, build_position, parse_position, position_dict

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
    ) -> Tensor:
        """One layer; `relative` projects the relative states of a position that reads them."""
        attended = self._attend(self.attention_norm(x_BTC), position, relative, key_padding_mask, past_key_values)
        x_BTC = x_BTC + dropout(attended, self.config.dropout, self.training)
        active = dropout(self.up(self.ffn_norm(x_BTC)).relu(), self.config.activation_dropout, self.training)
        return x_BTC + dropout(self.down(active), self.config.dropout, self.training)

    def _attend(
        self,
        x_BTC: Tensor,
        position: Position,
        relative: nn.Module | None,
        key_padding_mask: Tensor | None,
        past_key_values: Cache | None,
    ) -> Tensor:
        heads = self.config.num_attention_heads
        qkv = self.qkv(x_BTC).view(*x_BTC.shape[:2], 3, heads, -1)
        q_BHTD, k_BHSD, v_BHSD = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query_offset = 0
        if past_key_values is not None:
            query_offset = int(past_key_values.get_seq_length(self.layer_index))
            k_BHSD, v_BHSD = past_key_values.update(k_BHSD, v_BHSD, self.layer_index)
        relative_states = None
        if relative is not None:
            relative_states = relative(x_BTC).unflatten(-1, (heads, -1)).transpose(1, 2)
        out_BHTD = attention(
            q_BHTD,
            k_BHSD,
            v_BHSD,
            position=position,
            dropout=self.config.attention_dropout if self.training else 0.0,
            key_padding_mask=key_padding_mask,
            query_offset=query_offset,
            relative_states=relative_states,
        )
        attended: Tensor = self.out(out_BHTD.transpose(1, 2).flatten(2))
        return attended


@final
class BaevskiAuliForCausalLM(PreTrainedModel, PositionedGenerationMixin):  # type: ignore[misc] # transformers is untyped here
    """Decoder LM: embeddings × √d, pre-norm layers without a final norm, (adaptive) softmax tied to the embedding.

    Deviates from the paper: no; the paper's code is fairseq's, whose sizes, ties and initial values are kept.
    """

    config_class = BaevskiAuliConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ("DecoderLayer",)
    _supports_sdpa = True

    def __init__(self, config: BaevskiAuliConfig) -> None:
        super().__init__(config)
        self.embedding = AdaptiveEmbedding(
            config.vocab_size, config.hidden_size, config.cutoffs, config.adaptive_factor
        )
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_hidden_layers))
        with torch.random.fork_rng(devices=[]):  # a seed gives all methods the same weights elsewhere
            self.positions = nn.ModuleList(_positions(config))
            self.relative = nn.ModuleList(_relative_projections(config))
        self.softmax = AdaptiveSoftmax(config.hidden_size, len(config.cutoffs), config.softmax_dropout)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Loss and logits.

        Args:
            input_ids: [B,T].
            attention_mask: [B,S], 1 where a key takes part (padding).
            labels: [B,T], the input itself: shifted here; −100 is not scored.
            past_key_values: a cache; it then holds the keys and values of this call too.
            use_cache: make a cache if none is given; None: config.use_cache, but not in training.
            logits_to_keep: logits of that many last positions only; 0: of all.
            return_dict: outputs are always named; False is refused.
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
        if not return_dict:
            raise ValueError("return_dict must be True: outputs are always named")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        hidden_BTC = self._hidden(input_ids, attention_mask, past_key_values)
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
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def token_losses(self, input_ids: Tensor, shift_labels: Tensor) -> Tensor:
        """−log p of each target, in nats, float32 [B,T]; zero where the target is −100."""
        return self._losses(self._hidden(input_ids, None, None), shift_labels)

    def layer(
        self,
        index: int,
        x_BTC: Tensor,
        key_padding_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> Tensor:
        """The hidden states [B,T,C] after a layer, with its position."""
        position = self.positions[min(index, len(self.positions) - 1)]
        relative = self.relative[index] if len(self.relative) else None
        hidden: Tensor = self.layers[index](x_BTC, position, relative, key_padding_mask, past_key_values)
        return hidden

    def _hidden(self, input_ids: Tensor, attention_mask: Tensor | None, past_key_values: Cache | None) -> Tensor:
        key_padding_mask = None if attention_mask is None else attention_mask.bool()
        x_BTC: Tensor = self.embedding(input_ids) * math.sqrt(self.config.hidden_size)
        x_BTC = dropout(x_BTC, self.config.dropout, self.training)
        for index in range(min(self.config.num_hidden_layers, len(self.layers))):  # fewer where a draft exits early
            x_BTC = self.layer(index, x_BTC, key_padding_mask, past_key_values)
        return x_BTC

    def _losses(self, hidden_BTC: Tensor, shift_labels: Tensor) -> Tensor:
        scored = shift_labels != IGNORED_LABEL
        targets = shift_labels.where(scored, 0).flatten()
        losses_N = self.softmax.losses(hidden_BTC.flatten(0, 1), targets, self.embedding)
        return losses_N.view_as(shift_labels) * scored

    @property
    def model(self) -> "BaevskiAuliForCausalLM":
        """The body below the head, by the name of `base_model_prefix`: the model itself, which has both in one."""
        return self

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


def _relative_projections(config: BaevskiAuliConfig) -> list[nn.Module]:
    """One projection a layer for a position that reads relative states."""
    parsed = parse_position(config.position)
    if not isinstance(parsed, LearnedRelativeConfig):
        return []
    width = config.num_attention_heads * parsed.relative_dim
    return [nn.Linear(config.hidden_size, width) for _ in range(config.num_hidden_layers)]


def _positions(config: BaevskiAuliConfig) -> list[Position]:
    """One position for all layers where it holds nothing a layer would learn for itself, else one a layer."""
    parsed = parse_position(config.position)
    head_dim = config.hidden_size // config.num_attention_heads
    first = build_position(parsed, head_dim=head_dim, num_heads=config.num_attention_heads)
    if first.shared_by_layers:
        return [first]
    others = range(config.num_hidden_layers - 1)
    return [first, *(build_position(parsed, head_dim=head_dim, num_heads=config.num_attention_heads) for _ in others)]
