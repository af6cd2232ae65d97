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

register(BaevskiAuliConfig, {"AutoModelForCausalLM": BaevskiAuliForCausalLM})
register(
    WaveposLlamaConfig,
    {
        "AutoModel": WaveposLlamaModel,
        "AutoModelForCausalLM": WaveposLlamaForCausalLM,
        "AutoModelForSequenceClassification": WaveposLlamaForSequenceClassification,
    },
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
