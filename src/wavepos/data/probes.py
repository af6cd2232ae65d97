"""Synthetic tasks whose answer is known: what they ask, how far back the answer lies, and the examples of a stream.

A probe makes two kinds of examples. Those to learn from have a trained length and distances of all kinds in it. Those
to measure with hold questions whose answers lie exactly one distance back, in a context as long as that takes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavepos.data.tokenizers import EOS

IGNORED = -100
"""Of shift_labels: nothing is asked there."""
NOISE = 16
"""Words of filler; they mean nothing."""
LEAST_LENGTH = 64
"""Tokens of an example to learn from, at least: all probes fit into it."""

Stream = Literal["train", "valid", "measure"]
STREAMS: dict[Stream, int] = {"train": 0, "valid": 1, "measure": 2}
"""Of random numbers: an example of one is drawn from other numbers than those of the others."""
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A sequence with questions.

    Attributes:
        input_ids: int64 [T].
        shift_labels: int64 [T], the answer to be given after each token, or −100.
        distances: int64 [T], tokens from the question back to what it asks for, or 0 where nothing is asked.
    """

    input_ids: Ids
    shift_labels: Ids
    distances: Ids

    @property
    def asked(self) -> npt.NDArray[np.bool_]:
        """Where a question stands, bool [T]."""
        return np.not_equal(self.shift_labels, IGNORED)


@final
class Draft:
    """A sequence on its way to an example: filler, in which words and questions are set.

    Args:
        rng: random numbers of the filler.
        length: T + 1: the last word is only an answer.
    """

    def __init__(self, rng: np.random.Generator, length: int) -> None:
        self._ids = rng.integers(1, 1 + NOISE, length)
        self._labels = np.full(length - 1, IGNORED, np.int64)
        self._distances = np.zeros(length - 1, np.int64)

    def put(self, place: int, *words: int) -> None:
        """Set words from a place on."""
        self._ids[place : place + len(words)] = words

    def ask(self, place: int, distance: int) -> None:
        """The word behind a place, set before, is the answer to a question about what stands so many tokens back."""
        self._labels[place], self._distances[place] = self._ids[place + 1], distance

    def example(self) -> Example:
        """The sequence with its questions."""
        return Example(input_ids=self._ids[:-1], shift_labels=self._labels, distances=self._distances)


class Probe(ABC):
    """A task. Ids 0, 1, … stand for `words`: <eos>, the words of filler, then the probe's own.

    Attributes:
        name: of the task, as in "task:NAME".
        title: for figures.
        asks: what it measures, as a question.
        own_words: number of words of each kind, in the order of their ids.
        answers: the kind of words that an answer is one of.
        listed: possible answers that stand in the context of an example to measure with: who guesses among these is
            right one time in so many; None: all that are possible may stand there.
        questions: in an example to measure with.
        shortest: the least distance to measure at, in tokens.
        step: distances to measure at are multiples of it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    asks: ClassVar[str]
    own_words: ClassVar[dict[str, int]]
    answers: ClassVar[str]
    listed: ClassVar[int | None] = None
    questions: ClassVar[int]
    shortest: ClassVar[int] = 16
    step: ClassVar[int] = 1

    @abstractmethod
    def learnt(self, rng: np.random.Generator, length: int) -> Example:
        """An example to learn from, of that length, at least `LEAST_LENGTH`, with distances of all kinds."""

    @abstractmethod
    def measured(self, rng: np.random.Generator, distance: int, before: int) -> Example:
        """An example to measure with: what its questions ask for lies exactly distance tokens back.

        Args:
            rng: random numbers.
            distance: in tokens, as `check` allows it.
            before: tokens of context before the first thing that is asked for.
        """

    @property
    def words(self) -> list[str]:
        """The vocabulary in the order of ids."""
        own = (f"{kind}{number}" for kind, count in self.own_words.items() for number in range(count))
        return [EOS, *(f"noise{number}" for number in range(NOISE)), *own]

    @property
    def chance(self) -> float:
        """What a model scores that guesses among the possible answers."""
        return 1.0 / self.own_words[self.answers]

    @property
    def guess(self) -> float:
        """What a model scores that guesses among the answers in the context, without knowing whose they are."""
        return self.chance if self.listed is None else 1.0 / self.listed

    def ids(self, kind: str) -> range:
        """Ids of the words of a kind."""
        start = 1 + NOISE
        for own, count in self.own_words.items():
            if own == kind:
                return range(start, start + count)
            start += count
        raise ValueError(f"kind must be one of {', '.join(self.own_words)}, got {kind!r}")

    def draw(self, rng: np.random.Generator, kind: str, count: int, *, distinct: bool) -> Ids:
        """Words of a kind, int64 [count]."""
        ids = self.ids(kind)
        return rng.permutation(ids)[:count] if distinct else rng.integers(ids.start, ids.stop, count)

    def check(self, distance: int, before: int) -> None:
        """Raise ValueError unless an example with that distance and context can be made."""
        if distance < self.shortest or distance % self.step:
            raise ValueError(
                f"distance of probe {self.name!r} must be at least {self.shortest} and a multiple of {self.step} "
                f"tokens, got {distance}"
            )
        if before < 0 or before % self.step:
            raise ValueError(
                f"before of probe {self.name!r} must be at least 0 and a multiple of {self.step} tokens, got {before}"
            )


def random_numbers(probe: Probe, stream: Stream, *key: int) -> np.random.Generator:
    """The random numbers of one example: others for every probe, stream and key (such as seed and index)."""
    return np.random.default_rng([int.from_bytes(probe.name.encode(), "big"), STREAMS[stream], *key])


@final
class ProbeExamples(Dataset[dict[str, Tensor]]):
    """Examples to learn from; item i follows from (probe, stream, seed, i) alone, whatever was made before.

    Item i is {"input_ids", "shift_labels"}, int64 [seq_len].

    Args:
        probe: the task.
        stream: "train" or "valid".
        seed: of the examples.
        seq_len: T, at least `LEAST_LENGTH`.
        count: examples.

    Raises:
        ValueError: seq_len is too short.
    """

    def __init__(self, probe: Probe, stream: Stream, *, seed: int, seq_len: int, count: int) -> None:
        if seq_len < LEAST_LENGTH:
            raise ValueError(f"seq_len of probe {probe.name!r} must be at least {LEAST_LENGTH}, got {seq_len}")
        self.probe, self.stream = probe, stream
        self.seed, self.seq_len, self.count = seed, seq_len, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(f"example {index} of {self.count}")
        example = self.probe.learnt(random_numbers(self.probe, self.stream, self.seed, index), self.seq_len)
        return {
            "input_ids": torch.from_numpy(example.input_ids),
            "shift_labels": torch.from_numpy(example.shift_labels),
        }


def measured_examples(probe: Probe, distance: int, before: int, count: int, seed: int = 0) -> Iterator[Example]:
    """The examples that every model is measured with at one distance; they follow from the arguments alone.

    Raises:
        ValueError: the probe has no such examples.
    """
    probe.check(distance, before)
    for index in range(count):
        yield probe.measured(random_numbers(probe, "measure", seed, distance, before, index), distance, before)
