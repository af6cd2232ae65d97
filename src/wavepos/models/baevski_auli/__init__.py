"""The decoder language model of Baevski & Auli (2019), with any position."""

from wavepos.models.baevski_auli.model import (
    BaevskiAuliConfig,
    BaevskiAuliForCausalLM,
    DecoderLayer,
    Size,
    baevski_auli_config,
)

__all__ = ["BaevskiAuliConfig", "BaevskiAuliForCausalLM", "DecoderLayer", "Size", "baevski_auli_config"]
