"""Evaluation of trained models."""

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
