"""Corpora, tokenizers and token files: text in, blocks of tokens out."""

from wavepos.data.corpora import open_corpus
from wavepos.data.corpus import Corpus, Split
from wavepos.data.preparation import PreparedData, prepare, prepare_split
from wavepos.data.probe_tasks import PROBES, open_probe
from wavepos.data.probes import Probe, ProbeExamples, measured_examples
from wavepos.data.tokenizers import build_words, load_tokenizer, train_bpe
from wavepos.data.tokens import Blocks, TokenFile
from wavepos.data.training import ProbeData, TrainingData, TrainingSet, prepare_training

__all__ = [
    "PROBES",
    "Blocks",
    "Corpus",
    "PreparedData",
    "Probe",
    "ProbeData",
    "ProbeExamples",
    "Split",
    "TokenFile",
    "TrainingData",
    "TrainingSet",
    "build_words",
    "load_tokenizer",
    "measured_examples",
    "open_corpus",
    "open_probe",
    "prepare",
    "prepare_split",
    "prepare_training",
    "train_bpe",
]
