"""A layer of the Llama family: transformers' own feed-forward network and norms, and `wavepos.attention`."""

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from wavepos.models.base import AttentionInputs, attention_backend
from wavepos.models.context import Context, first_kept, num_slots, of_kept
from wavepos.models.llama.config import WaveposLlamaConfig
from wavepos.models.projections import Projected, relative_projection, updated
from wavepos.positions import NoPE, Position


class WaveposLlamaAttention(nn.Module):
    """Llama's attention with `wavepos.attention` on every path.

    Args:
        config: the model's.
        layer_idx: of the layer in the cache.
        position: the method; layers may share it.
    """

    def __init__(self, config: WaveposLlamaConfig, layer_idx: int, position: Position) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        width, head_dim = config.hidden_size, config.head_dim
        heads, groups, bias = config.num_attention_heads, config.num_key_value_heads, config.attention_bias
        self.q_proj = nn.Linear(width, heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(width, groups * head_dim, bias=bias)
        self.v_proj = nn.Linear(width, groups * head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=bias)
        self.position = position
        self.r_proj = relative_projection(config, layer_idx, bias)

    def forward(
        self,
        hidden_states: Tensor,
        *,
        attention_mask: Tensor | None,
        document_ids: Tensor | None,
        query_offset: int | Tensor,
        past_key_values: Cache | None = None,
        output_attentions: bool = False,
        is_causal: bool | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention over a batch's hidden states [B,T,C], and its weights [B,H,T,S] where asked for.

        Raises:
            ValueError: context or tensor parallelism that would change the positional term.
        """
        if is_causal is not None:  # what the hooks of context parallelism set when they take the mask away
            raise ValueError(
                "context parallelism is not served: a shard of the sequence does not know its displacements. "
                "Shard the batch or the weights (DDP, FSDP, tensor parallelism)"
            )
        q, k, v = (
            proj(hidden_states).unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        self._check_heads(q.shape[1])
        position = self.position
        if position.rotates and not (position.needs_table or position.follows_length):  # rotated once, kept rotated
            limit = _num_slots(past_key_values, query_offset, q.shape[2])
            q, k = position.rotated(q, query_offset, limit), position.rotated(k, query_offset, limit)
            q = q if position.temperature is None else position.temperature(q, query_offset)
            position = NoPE()
        relative_states, gates = Projected.of(self.r_proj, position, hidden_states, q.shape[1])
        if past_key_values is not None:
            slots = torch.arange(q.shape[2], device=q.device) + query_offset
            k, v, gates = updated(past_key_values, k, v, gates, self.layer_idx, {"cache_position": slots})
            if past_key_values.is_sliding[self.layer_idx]:
                self._check_sliding(position)
                first = first_kept(query_offset, q.shape[2], k.shape[2])
                attention_mask = of_kept(attention_mask, first, k.shape[2])
                query_offset = query_offset - first
            if isinstance(query_offset, int):  # a static cache holds empty slots too
                filled = query_offset + q.shape[2]
                k, v, gates = k[:, :, :filled], v[:, :, :filled], None if gates is None else gates[:, :, :filled]
        inputs = AttentionInputs(
            q_BHTD=q,
            k_BGSD=k,
            v_BGSD=v,
            position=position,
            relative_states=relative_states,
            gates=gates,
            key_padding_mask=attention_mask,
            document_ids=document_ids,
            query_offset=query_offset,
            window=self.position.window,
        )
        dropped = self.config.attention_dropout if self.training else 0.0
        attended, weights = inputs.attended(attention_backend(self.config), dropped, output_attentions)
        return self.o_proj(attended), weights

    def _check_heads(self, heads: int) -> None:
        """Under tensor parallelism a rank holds some heads; only methods that treat all alike do not care which."""
        if heads != self.config.num_attention_heads and self.position.per_head:
            raise ValueError(
                f"tensor parallelism is served for methods that are the same for every head (nope, rotary, shaw, "
                f"wavelet without query_bias) and learn no temperature, got {self._method()!r} with {heads} of "
                f"{self.config.num_attention_heads} heads here"
            )

    def _check_sliding(self, position: Position) -> None:
        """Refuse a cache that drops keys where they are still seen, or where it must be known how many came before."""
        if self.position.window is None or position.temperature is not None or position.follows_length:
            raise ValueError(
                f"a cache that drops keys does not fit layer {self.layer_idx} with {self._method()!r}: make the cache "
                "from this model's config, whose layer_types say which layers slide"
            )

    def _method(self) -> str:
        return self.config.position_configs[self.layer_idx].method


class WaveposLlamaDecoderLayer(GradientCheckpointingLayer):  # type: ignore[misc] # transformers is untyped here
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: WaveposLlamaConfig, layer_idx: int, position: Position) -> None:
        super().__init__()
        self.self_attn = WaveposLlamaAttention(config, layer_idx, position)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        context: Context,
        past_key_values: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        attended, weights = self.self_attn(
            self.input_layernorm(hidden_states),
            attention_mask=context.key_padding_mask,
            document_ids=context.document_ids,
            query_offset=context.query_offset,
            past_key_values=past_key_values,
            output_attentions=output_attentions,
        )
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)), weights


def _num_slots(past_key_values: Cache | None, query_offset: int | Tensor, length: int) -> int:
    """Positions that this call can meet, known without the device."""
    if isinstance(query_offset, int) or past_key_values is None:
        return length
    return num_slots(past_key_values)
