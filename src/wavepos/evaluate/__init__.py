"""Evaluation of trained models."""

from wavepos.evaluate.perplexity import (
    Perplexity,
    Protocol,
    evaluate_perplexity,
    evaluate_protocols,
    perplexity_record,
    table_protocols,
)

__all__ = [
    "Perplexity",
    "Protocol",
    "evaluate_perplexity",
    "evaluate_protocols",
    "perplexity_record",
    "table_protocols",
]
