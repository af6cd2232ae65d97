"""Evaluation of trained models."""

from typing import TYPE_CHECKING

from wavepos._lazy import lazy_names

if TYPE_CHECKING:
    from wavepos.evaluate.perplexity import (
        Perplexity,
        Protocol,
        TextSize,
        evaluate_perplexity,
        evaluate_protocols,
        perplexity_record,
        table_protocols,
    )

__all__ = [
    "Perplexity",
    "Protocol",
    "TextSize",
    "evaluate_perplexity",
    "evaluate_protocols",
    "perplexity_record",
    "table_protocols",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, dict.fromkeys(__all__, "wavepos.evaluate.perplexity"))
