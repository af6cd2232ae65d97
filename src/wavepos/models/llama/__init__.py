"""Llama with any position, and the conversion of a RoPE Llama's weights."""

from wavepos.models.llama.config import WaveposLlamaConfig, llama_config
from wavepos.models.llama.convert import converted_config, from_llama
from wavepos.models.llama.model import (
    WaveposLlamaForCausalLM,
    WaveposLlamaForSequenceClassification,
    WaveposLlamaModel,
    WaveposLlamaPreTrainedModel,
)
from wavepos.names import LlamaSize

__all__ = [
    "LlamaSize",
    "WaveposLlamaConfig",
    "WaveposLlamaForCausalLM",
    "WaveposLlamaForSequenceClassification",
    "WaveposLlamaModel",
    "WaveposLlamaPreTrainedModel",
    "converted_config",
    "from_llama",
    "llama_config",
]
