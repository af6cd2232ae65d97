"""A small model of each family, for the tests of what both share."""

from typing import Any

import torch
from small_llama import small_llama

from wavepos.models import BaevskiAuliConfig, BaevskiAuliForCausalLM

FAMILIES = ["llama", "baevski-auli", "baevski-auli-adaptive"]


def small(family: str, position: str | dict = "wavelet", **fields: Any) -> Any:
    """Vocabulary 97, width 64, two layers of four heads; in evaluation mode."""
    if family == "llama":
        return small_llama(position, **fields)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 128, "cutoffs": (20, 50) if family.endswith("adaptive") else ()}
    config = BaevskiAuliConfig(vocab_size=97, adaptive_factor=2, position=position, **{**sizes, **fields})
    return BaevskiAuliForCausalLM(config).eval()
