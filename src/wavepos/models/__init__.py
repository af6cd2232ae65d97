"""Models for Hugging Face transformers, registered with its Auto classes when this package is imported."""

from wavepos.models.baevski_auli import BaevskiAuliConfig, BaevskiAuliForCausalLM, baevski_auli_config
from wavepos.models.convert import from_llama
from wavepos.models.llama import (
    WaveposLlamaForCausalLM,
    WaveposLlamaForSequenceClassification,
    WaveposLlamaModel,
)
from wavepos.models.llama_config import WaveposLlamaConfig, llama_config
from wavepos.models.positioned import register

register(BaevskiAuliConfig, causal_lm=BaevskiAuliForCausalLM)
register(
    WaveposLlamaConfig,
    causal_lm=WaveposLlamaForCausalLM,
    base=WaveposLlamaModel,
    classifier=WaveposLlamaForSequenceClassification,
)

__all__ = [
    "BaevskiAuliConfig",
    "BaevskiAuliForCausalLM",
    "WaveposLlamaConfig",
    "WaveposLlamaForCausalLM",
    "WaveposLlamaForSequenceClassification",
    "WaveposLlamaModel",
    "baevski_auli_config",
    "from_llama",
    "llama_config",
]
