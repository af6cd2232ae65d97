"""Attention over the score formula: one call, several backends that know nothing of each other."""

from wavepos.attention.api import attention, attention_map
from wavepos.attention.choice import Backend

__all__ = ["Backend", "attention", "attention_map"]
