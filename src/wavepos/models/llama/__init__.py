"""Llama with any position: the first of the families that `wavepos.models.decoder` serves."""

from wavepos.models.llama.config import WaveposLlamaConfig, llama_config
from wavepos.models.llama.model import (
    WaveposLlamaForCausalLM,
    WaveposLlamaForQuestionAnswering,
    WaveposLlamaForSequenceClassification,
    WaveposLlamaForTokenClassification,
    WaveposLlamaModel,
    WaveposLlamaPreTrainedModel,
)
from wavepos.names import LlamaSize

__all__ = [
    "LlamaSize",
    "WaveposLlamaConfig",
    "WaveposLlamaForCausalLM",
    "WaveposLlamaForQuestionAnswering",
    "WaveposLlamaForSequenceClassification",
    "WaveposLlamaForTokenClassification",
    "WaveposLlamaModel",
    "WaveposLlamaPreTrainedModel",
    "llama_config",
]
