"""Models for Hugging Face transformers, registered with its Auto classes when this package is imported."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from wavepos.models.baevski_auli import BaevskiAuliConfig, BaevskiAuliForCausalLM, baevski_auli_config
from wavepos.models.convert import from_llama
from wavepos.models.llama import (
    WaveposLlamaForCausalLM,
    WaveposLlamaForSequenceClassification,
    WaveposLlamaModel,
)
from wavepos.models.llama_config import WaveposLlamaConfig, llama_config

AutoConfig.register(BaevskiAuliConfig.model_type, BaevskiAuliConfig, exist_ok=True)
AutoModelForCausalLM.register(BaevskiAuliConfig, BaevskiAuliForCausalLM, exist_ok=True)
AutoConfig.register(WaveposLlamaConfig.model_type, WaveposLlamaConfig, exist_ok=True)
AutoModel.register(WaveposLlamaConfig, WaveposLlamaModel, exist_ok=True)
AutoModelForCausalLM.register(WaveposLlamaConfig, WaveposLlamaForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(WaveposLlamaConfig, WaveposLlamaForSequenceClassification, exist_ok=True)

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
