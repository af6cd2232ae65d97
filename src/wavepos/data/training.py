"""What a model is trained on: a text in blocks, or the examples of a probe."""

from dataclasses import dataclass
from typing import Protocol, final

from transformers import PreTrainedTokenizerFast

from wavepos.console import Update
from wavepos.data.corpus import digest
from wavepos.data.preparation import prepare
from wavepos.data.probe_tasks import is_probe, open_probe
from wavepos.data.probes import Probe, ProbeExamples
from wavepos.data.tokenizers import word_tokenizer
from wavepos.data.tokens import Blocks

TrainingSet = Blocks | ProbeExamples
"""Items {"input_ids", "shift_labels"}, int64 [seq_len]."""
PROBE_FORMAT = 1
"""Raise it when the same seed gives other examples."""


class TrainingData(Protocol):
    """What `train` asks of its data."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Saved beside the model."""

    @property
    def fingerprint(self) -> dict[str, str]:
        """Digests that tell whether two data are the same."""

    def training_set(self, seq_len: int, seed: int, count: int) -> TrainingSet:
        """The items to train on; `count` of that length are asked for in all."""

    def validation_set(self, seq_len: int, tokens: int) -> TrainingSet:
        """Items that are not trained on, of about that many tokens where they are made."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeData:
    """A probe to be trained on: every item is new.

    Attributes:
        probe: the task.
    """

    probe: Probe

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Of the probe's words."""
        return word_tokenizer(self.probe.words)

    @property
    def fingerprint(self) -> dict[str, str]:
        """Of the probe's name, its words and the way of making examples."""
        return {"probe": digest(PROBE_FORMAT, self.probe.name, self.probe.words)}

    def training_set(self, seq_len: int, seed: int, count: int) -> ProbeExamples:
        """That many examples of the seed: equal ones for all methods."""
        return ProbeExamples(self.probe, "train", seed=seed, seq_len=seq_len, count=count)

    def validation_set(self, seq_len: int, tokens: int) -> ProbeExamples:
        """Examples that no seed is trained on."""
        return ProbeExamples(self.probe, "valid", seed=0, seq_len=seq_len, count=max(1, tokens // seq_len))


def prepare_training(
    corpus: str, tokenizer: str, *, max_tokens: int | None = None, update: Update | None = None
) -> TrainingData:
    """What a corpus and a tokenizer name, ready to be trained on.

    Args:
        corpus: as `prepare` takes it, or "task:NAME" of a probe.
        tokenizer: as `prepare` takes it; of a probe "task:NAME" again, for it has words of its own.
        max_tokens, update: as `prepare` takes them.

    Raises:
        ValueError, FileNotFoundError: as `prepare`; no such probe, or another tokenizer than its own.
    """
    if not is_probe(corpus):
        return prepare(corpus, tokenizer, max_tokens=max_tokens, update=update)
    probe = open_probe(corpus)
    if tokenizer != corpus:
        raise ValueError(
            f"tokenizer of corpus {corpus!r} must be {corpus!r}, for it has its own words, got {tokenizer!r}"
        )
    return ProbeData(probe=probe)
