"""Small models of every family that is served, with random weights that matter."""

from typing import Any

import torch
from small_llama import randomised
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig

from wavepos.models import convert

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPS = {"num_key_value_heads": 2}
_EXPERTS = {"num_experts_per_tok": 2, "output_router_logits": False}
_HEAD_DIM = {"head_dim": 16}
_OWN: dict[str, dict[str, Any]] = {
    "cohere": {"use_qk_norm": True, "logit_scale": 1.0},
    "cohere2": {"sliding_window": 8, "logit_scale": 1.0},
    "ernie4_5": _HEAD_DIM,
    "gemma": _HEAD_DIM,
    "gemma2": {**_HEAD_DIM, "attn_logit_softcapping": None, "sliding_window": 8, "query_pre_attn_scalar": 24},
    "gemma3_text": {**_HEAD_DIM, "sliding_window": 8, "query_pre_attn_scalar": 24},
    "glm": _HEAD_DIM,
    "glm4": _HEAD_DIM,
    "granite": {"attention_multiplier": 0.3, "residual_multiplier": 0.7, "logits_scaling": 2.0},
    "granitemoe": {"num_local_experts": 4, "attention_multiplier": 0.3, **_EXPERTS},
    "helium": _HEAD_DIM,
    "mistral": {"sliding_window": 8},
    "mixtral": {"num_local_experts": 4, "sliding_window": None, **_EXPERTS},
    "nemotron": _HEAD_DIM,
    "olmo3": {"sliding_window": 8},
    "olmoe": {"num_experts": 4, **_EXPERTS},
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, **_EXPERTS},
    "qwen3": _HEAD_DIM,
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 32, **_HEAD_DIM, **_EXPERTS},
    "seed_oss": _HEAD_DIM,
    "smollm3": {"no_rope_layer_interval": 2},
    "stablelm": {"use_qkv_bias": True, "qk_layernorm": True},
    "starcoder2": {"sliding_window": None},
}
_WITHOUT_GROUPS = ("gpt_neox",)


def small_config(family: str, **fields: Any) -> PreTrainedConfig:
    """A family's own config, small."""
    groups = {} if family in _WITHOUT_GROUPS else _GROUPS
    return AutoConfig.for_model(family, **{**SIZES, **groups, **_OWN.get(family, {}), **fields})


def small_model(family: str, **fields: Any) -> PreTrainedModel:
    """A family's own model, small."""
    return randomised(AutoModelForCausalLM.from_config(small_config(family, **fields)))


def positioned(family: str, position: Any, **fields: Any) -> Any:
    """Our model of a family, small, with what the position learns away from its start."""
    return randomised(convert(small_model(family, **fields), position))


@torch.no_grad()
def read(model: Any, x_BT: torch.Tensor, past_key_values: Cache, pieces: list[int]) -> torch.Tensor:
    """Logits of all tokens, read piece by piece into a cache."""
    logits, start = [], 0
    for piece in pieces:
        tokens_of_piece = x_BT[:, start : start + piece]
        logits.append(model(tokens_of_piece, past_key_values=past_key_values, use_cache=True).logits)
        start += piece
    return torch.cat(logits, 1)


def tokens(rows: int = 2, length: int = 24, seed: int = 1) -> torch.Tensor:
    """Random tokens, none of them special."""
    return torch.randint(3, SIZES["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(seed))
