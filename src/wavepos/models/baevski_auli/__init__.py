"""The decoder language model of Baevski & Auli (2019), with any position."""

from wavepos.models.baevski_auli.config import BaevskiAuliConfig, baevski_auli_config
from wavepos.models.baevski_auli.model import BaevskiAuliForCausalLM, DecoderLayer
from wavepos.names import BaevskiAuliSize as Size

__all__ = ["BaevskiAuliConfig", "BaevskiAuliForCausalLM", "DecoderLayer", "Size", "baevski_auli_config"]
