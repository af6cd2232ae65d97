"""Evaluation of trained models."""

from wavepos.evaluate.perplexity import Perplexity, Protocol, evaluate_perplexity

__all__ = ["Perplexity", "Protocol", "evaluate_perplexity"]
