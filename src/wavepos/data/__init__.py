"""Corpora, tokenizers and token streams."""

from wavepos.data.corpora import Corpus, open_corpus
from wavepos.data.packing import Blocks, PreparedData, TokenFile, prepare, prepare_split
from wavepos.data.tokenization import make_tokenizer

__all__ = [
    "Blocks",
    "Corpus",
    "PreparedData",
    "TokenFile",
    "make_tokenizer",
    "open_corpus",
    "prepare",
    "prepare_split",
]
