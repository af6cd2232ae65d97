"""Corpora, tokenizers and token files: text in, blocks of tokens out."""

from wavepos.data.corpora import open_corpus
from wavepos.data.corpus import Corpus, Split
from wavepos.data.preparation import PreparedData, prepare, prepare_split
from wavepos.data.tokenizers import build_words, load_tokenizer, train_bpe
from wavepos.data.tokens import Blocks, TokenFile

__all__ = [
    "Blocks",
    "Corpus",
    "PreparedData",
    "Split",
    "TokenFile",
    "build_words",
    "load_tokenizer",
    "open_corpus",
    "prepare",
    "prepare_split",
    "train_bpe",
]
