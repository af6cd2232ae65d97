"""Attention over the score formula: one call, several backends that know nothing of each other."""

from wavepos.attention.api import Backend, attention

__all__ = ["Backend", "attention"]
