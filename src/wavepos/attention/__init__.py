"""Attention over the score formula: one call, several backends that know nothing of each other."""

from wavepos.attention.api import Backend, attention, attention_map

__all__ = ["Backend", "attention", "attention_map"]
