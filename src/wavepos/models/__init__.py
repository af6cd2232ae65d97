"""Models for Hugging Face transformers, registered with its Auto classes when this package is imported."""

from transformers import AutoConfig, AutoModelForCausalLM

from wavepos.models.baevski_auli import BaevskiAuliConfig, BaevskiAuliForCausalLM, baevski_auli_config

AutoConfig.register(BaevskiAuliConfig.model_type, BaevskiAuliConfig, exist_ok=True)
AutoModelForCausalLM.register(BaevskiAuliConfig, BaevskiAuliForCausalLM, exist_ok=True)

__all__ = ["BaevskiAuliConfig", "BaevskiAuliForCausalLM", "baevski_auli_config"]
