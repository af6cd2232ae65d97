"""Decoders of transformers with any position: one mechanism for all families that are served."""
