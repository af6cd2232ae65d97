"""Models for Hugging Face transformers, registered with its Auto classes when this package is imported."""

from wavepos.models.baevski_auli import BaevskiAuliConfig, BaevskiAuliForCausalLM, baevski_auli_config
from wavepos.models.base import register
from wavepos.models.llama import (
    WaveposLlamaConfig,
    WaveposLlamaForCausalLM,
    WaveposLlamaForSequenceClassification,
    WaveposLlamaModel,
    from_llama,
    llama_config,
)

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
