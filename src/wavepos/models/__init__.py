"""Models for Hugging Face transformers, registered with its Auto classes when this package is imported.

Beside the names below the package has the classes of each family in `FAMILIES`, made when they are first asked for:
`WaveposQwen3Config`, `WaveposQwen3ForCausalLM`, `WaveposMistralModel`, …
"""

from typing import Any

from transformers import AutoConfig

from wavepos.models.baevski_auli import BaevskiAuliConfig, BaevskiAuliForCausalLM, baevski_auli_config
from wavepos.models.base import register
from wavepos.models.decoder.convert import convert, from_llama
from wavepos.models.decoder.families import FAMILIES, derived_class, family_config
from wavepos.models.llama import (
    WaveposLlamaConfig,
    WaveposLlamaForCausalLM,
    WaveposLlamaForQuestionAnswering,
    WaveposLlamaForSequenceClassification,
    WaveposLlamaForTokenClassification,
    WaveposLlamaModel,
    llama_config,
)
from wavepos.models.llama.model import MODELS
from wavepos.models.memory_linear import memory_linear

register(BaevskiAuliConfig, {"AutoModelForCausalLM": BaevskiAuliForCausalLM})
register(WaveposLlamaConfig, MODELS)
for _family in FAMILIES:
    AutoConfig.register(f"wavepos_{_family}", family_config(_family), exist_ok=True)

__all__ = [
    "FAMILIES",
    "BaevskiAuliConfig",
    "BaevskiAuliForCausalLM",
    "WaveposLlamaConfig",
    "WaveposLlamaForCausalLM",
    "WaveposLlamaForQuestionAnswering",
    "WaveposLlamaForSequenceClassification",
    "WaveposLlamaForTokenClassification",
    "WaveposLlamaModel",
    "baevski_auli_config",
    "convert",
    "from_llama",
    "llama_config",
    "memory_linear",
]


def __getattr__(name: str) -> Any:
    return derived_class(name)
