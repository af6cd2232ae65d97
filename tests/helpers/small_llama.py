"""A small Llama of our family with weights that matter, for the tests of models."""

import torch
from torch import Tensor, nn

import wavepos.analysis.rope_based_wavelet  # noqa: F401 - registers a method that rotates and is not Rotary
from wavepos.models import WaveposLlamaConfig, WaveposLlamaForCausalLM
from wavepos.positions import METHODS

RECENCY = {"method": "wavelet", "query_bias": "recency"}
YARN = {"method": "rotary", "scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}}
DYNAMIC = {"method": "rotary", "scaling": {"rope_type": "dynamic", "factor": 4.0, "max_position_embeddings": 16}}
FORGET = {"method": "wavelet", "gate": "forget"}
POSITIONS = [*METHODS, RECENCY, FORGET, YARN, "rope_wavelet"]
SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
}


def config(position: str | dict = "wavelet", **fields: object) -> WaveposLlamaConfig:
    return WaveposLlamaConfig(**{**SIZES, **fields}, position=position)


def randomised(model: nn.Module) -> nn.Module:
    """Weights large enough that attention is far from uniform."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return model.eval()


def small_llama(position: str | dict = "wavelet", **fields: object) -> WaveposLlamaForCausalLM:
    model: WaveposLlamaForCausalLM = randomised(WaveposLlamaForCausalLM(config(position, **fields)))
    return model


def tokens(batch: int = 2, length: int = 48, seed: int = 1) -> Tensor:
    """Ids without the padding token."""
    return torch.randint(1, SIZES["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(seed))


def name(position: str | dict) -> str:
    if isinstance(position, str):
        return position
    rest = position.get("scaling", {}).get("rope_type") or position.get("query_bias") or position.get("gate")
    return f"{position['method']}-{rest}"
