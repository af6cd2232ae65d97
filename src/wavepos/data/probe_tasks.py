"""The probes: recall of pairs, needles in a haystack of needles, a copied passage, a flip-flop, variables."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import ClassVar, final

import numpy as np

from wavepos.data.probes import IGNORED, Draft, Example, Ids, Probe

PREFIX = "task:"
"""Of the name of a probe where a corpus may stand."""


@final
class Recall(Probe):
    """Multi-query associative recall (Zoology): pairs `k v`, then filler in which keys come again, their values asked.

    In what is learnt from, 2 to 8 pairs are asked for 16 times in any order, and the distance is that to the last time
    that the pair stood there. In what is measured with, each of 8 pairs is asked for once.
    """

    name = "mqar"
    title = "Associative recall (MQAR)"
    asks = "which value followed this key?"
    own_words: ClassVar[dict[str, int]] = {"key": 16, "value": 16}
    answers = "value"
    listed = 8
    questions = 8
    asked_to_learn: ClassVar[int] = 16

    def learnt(self, rng: np.random.Generator, length: int) -> Example:
        pairs, cells = int(rng.integers(2, self.questions + 1)), (length + 1) // 2
        first = int(rng.integers(pairs, cells - self.asked_to_learn + 1))  # of the cells with questions
        draft = Draft(rng, length + 1)
        last = 2 * rng.permutation(first)[:pairs]
        keys, values = (self.draw(rng, kind, pairs, distinct=True) for kind in ("key", "value"))
        for key, value, place in zip(keys, values, last, strict=True):
            draft.put(place, key, value)
        for cell in np.sort(rng.permutation(cells - first)[: self.asked_to_learn]):
            pair, question = rng.integers(pairs), 2 * (first + cell)
            draft.put(question, keys[pair], values[pair])
            draft.ask(question, question - last[pair])
            last[pair] = question
        return draft.example()

    def measured(self, rng: np.random.Generator, distance: int, before: int) -> Example:
        draft = Draft(rng, before + distance + 2 * self.questions)
        keys, values = (self.draw(rng, kind, self.questions, distinct=True) for kind in ("key", "value"))
        for index, (key, value) in enumerate(zip(keys, values, strict=True)):
            place = before + 2 * index
            draft.put(place, key, value)
            draft.put(place + distance, key, value)
            draft.ask(place + distance, distance)
        return draft.example()


@final
class Needles(Probe):
    """Multi-key needles (RULER): `needle k v` all over the context, asked for by `ask k`.

    The longer the context, the more needles lie in it that nobody asks for: one in 15 tokens to measure with, fewer to
    learn from. There 2 to 4 are asked for 12 times, as in `Recall`.
    """

    name = "needles"
    title = "Needles among needles"
    asks = "which value has the needle of this key?"
    own_words: ClassVar[dict[str, int]] = {"key": 16, "value": 16, "needle": 1, "ask": 1}
    answers = "value"
    questions = 4
    asked_to_learn: ClassVar[int] = 12
    cell: ClassVar[int] = 3
    """Tokens that a needle or a question takes."""
    density: ClassVar[float] = 0.2
    """Share of the free cells that hold a needle."""

    def learnt(self, rng: np.random.Generator, length: int) -> Example:
        count, cells = int(rng.integers(2, self.questions + 1)), (length + 1) // self.cell
        first = int(rng.integers(count, cells - self.asked_to_learn + 1))  # of the cells with questions
        wanted = self.cell * rng.permutation(first)[:count]
        asked = self.cell * (first + np.sort(rng.permutation(cells - first)[: self.asked_to_learn]))
        which = rng.integers(count, size=len(asked))
        return self._example(rng, length + 1, wanted, asked, which, rng.uniform(0.0, self.density))

    def measured(self, rng: np.random.Generator, distance: int, before: int) -> Example:
        which = np.arange(self.questions)
        wanted, length = before + self.cell * which, before + distance + self.cell * self.questions
        return self._example(rng, length, wanted, wanted + distance, which, self.density)

    def _example(
        self, rng: np.random.Generator, length: int, wanted: Ids, asked: Ids, which: Ids, density: float
    ) -> Example:
        """Needles at wanted; question i, at asked[i], is for needle which[i]."""
        draft = Draft(rng, length)
        cells = np.arange(wanted.min() % self.cell, length - self.cell + 1, self.cell)
        taken = np.abs(cells[:, None] - np.concatenate([wanted, asked])) < self.cell
        free = cells[~taken.any(1)]
        others = free[rng.random(len(free)) < density]
        keys = self.draw(rng, "key", len(self.ids("key")), distinct=True)
        keys = np.concatenate([keys[: len(wanted)], rng.choice(keys[len(wanted) :], len(others))])
        values = self.draw(rng, "value", len(keys), distinct=False)
        needle, ask = self.ids("needle").start, self.ids("ask").start
        for key, value, place in zip(keys, values, np.concatenate([wanted, others]), strict=True):
            draft.put(place, needle, key, value)
        last = wanted.copy()
        for question, index in zip(asked, which, strict=True):
            draft.put(question, ask, keys[index], values[index])
            draft.ask(question + 1, question - last[index])
            last[index] = question
        return draft.example()


@final
class Copy(Probe):
    """A passage of different symbols behind `start`, filler, and the same again: what comes next is asked."""

    name = "copy"
    title = "Copy of a passage"
    asks = "how does the passage go on?"
    own_words: ClassVar[dict[str, int]] = {"symbol": 16, "start": 1}
    answers = "symbol"
    listed = 8
    questions = 8

    def learnt(self, rng: np.random.Generator, length: int) -> Example:
        size = 1 + self.questions
        distance = int(rng.integers(size, length + 2 - size))
        before = int(rng.integers(0, length + 2 - size - distance))
        return self._example(rng, distance, before, length + 1)

    def measured(self, rng: np.random.Generator, distance: int, before: int) -> Example:
        return self._example(rng, distance, before, before + distance + 1 + self.questions)

    def _example(self, rng: np.random.Generator, distance: int, before: int, length: int) -> Example:
        draft = Draft(rng, length)
        passage = (self.ids("start").start, *self.draw(rng, "symbol", self.questions, distinct=True))
        draft.put(before, *passage)
        draft.put(before + distance, *passage)
        for place in range(before + distance, before + distance + self.questions):
            draft.ask(place, distance)
        return draft.example()


@final
class FlipFlop(Probe):
    """Flip-flop language: `write b`, `ignore b` and `read b`, where a read repeats the bit that was last written.

    Reads are asked for. To learn from, the share of `ignore`s is drawn for each example, from 1/2 to 63/64. Between the
    write and the read to measure with stand `ignore`s with random bits alone.
    """

    name = "flipflop"
    title = "Flip-flop"
    asks = "which bit was last written?"
    own_words: ClassVar[dict[str, int]] = {"bit": 2, "write": 1, "ignore": 1, "read": 1}
    answers = "bit"
    questions = 1
    shortest = 4
    step = 2
    WRITE, IGNORE, READ = 0, 1, 2

    def learnt(self, rng: np.random.Generator, length: int) -> Example:
        others = 2.0 ** -rng.uniform(1.0, 6.0)
        kinds = rng.choice(3, size=(length + 1) // 2, p=[others / 2, 1.0 - others, others / 2])
        kinds[0], kinds[-1] = self.WRITE, self.READ
        return self._example(rng, kinds, length + 1)

    def measured(self, rng: np.random.Generator, distance: int, before: int) -> Example:
        earlier = rng.choice(3, size=before // 2, p=[0.1, 0.8, 0.1])
        earlier[:1] = self.WRITE
        ignored = np.full(distance // 2 - 1, self.IGNORE)
        kinds = np.concatenate([earlier, [self.WRITE], ignored, [self.READ]])
        example = self._example(rng, kinds, 2 * len(kinds))
        example.shift_labels[:-1], example.distances[:-1] = IGNORED, 0  # earlier reads are context
        return example

    def _example(self, rng: np.random.Generator, kinds: Ids, length: int) -> Example:
        draft = Draft(rng, length)
        instructions = [self.ids(kind).start for kind in ("write", "ignore", "read")]
        bits = self.draw(rng, "bit", len(kinds), distinct=False)
        write = 0
        for index, kind in enumerate(kinds):
            if kind == self.WRITE:
                write = index
            draft.put(2 * index, instructions[kind], bits[write if kind == self.READ else index])
            if kind == self.READ:
                draft.ask(2 * index, 2 * (index - write))
        return draft.example()


@final
class Tracking(Probe):
    """Variable tracking (RULER), link by link: `let a b`, `let b c`, …; `ask a` asks what a was set to.

    As in RULER a chain is listed name by name: each answer is the next question's name, and names stand in two
    statements, set to something and what something was set to. A list made freely is right where all its links are. To
    learn from, 1 or 2 chains of three links are asked for 12 times, as in `Recall`.
    """

    name = "tracking"
    title = "Variable tracking, link by link"
    asks = "what was this name set to?"
    own_words: ClassVar[dict[str, int]] = {"name": 16, "let": 1, "ask": 1}
    answers = "name"
    listed = 8
    questions = 6
    shortest = 24
    links: ClassVar[int] = 3
    asked_to_learn: ClassVar[int] = 12
    cell: ClassVar[int] = 3
    """Tokens that a statement or a question takes."""

    def learnt(self, rng: np.random.Generator, length: int) -> Example:
        count, cells = self.links * int(rng.integers(1, 3)), (length + 1) // self.cell
        first = int(rng.integers(count, cells - self.asked_to_learn + 1))  # of the cells with questions
        stated = self.cell * rng.permutation(first)[:count]
        asked = self.cell * (first + np.sort(rng.permutation(cells - first)[: self.asked_to_learn]))
        return self._example(rng, length + 1, stated, asked, rng.integers(count, size=len(asked)))

    def measured(self, rng: np.random.Generator, distance: int, before: int) -> Example:
        which = np.arange(self.questions)
        stated, length = before + self.cell * which, before + distance + self.cell * self.questions
        return self._example(rng, length, stated, stated + distance, which)

    def _example(self, rng: np.random.Generator, length: int, stated: Ids, asked: Ids, which: Ids) -> Example:
        """Link i, of chain i // links, is stated at stated[i]; question j, at asked[j], is for link which[j]."""
        draft, links = Draft(rng, length), np.arange(len(stated))
        let, ask = self.ids("let").start, self.ids("ask").start
        start = links + links // self.links  # a chain has one name more than links
        names = self.draw(rng, "name", int(start[-1]) + 2, distinct=True)
        for link, place in zip(start, stated, strict=True):
            draft.put(place, let, *names[link : link + 2])
        last = stated.copy()
        for question, index in zip(asked, which, strict=True):
            draft.put(question, ask, *names[start[index] : start[index] + 2])
            draft.ask(question + 1, question - last[index])
            last[index] = question
        return draft.example()


PROBES: Mapping[str, Probe] = {probe.name: probe for probe in (Recall(), Needles(), Copy(), FlipFlop(), Tracking())}
"""The probes by name, in the order of worth."""


def is_probe(corpus: str) -> bool:
    """Whether the name of a corpus is that of a probe."""
    return corpus.startswith(PREFIX)


def open_probe(corpus: str) -> Probe:
    """The probe that "task:NAME" stands for.

    Raises:
        ValueError: there is none of that name; it names the nearest.
    """
    name = corpus.removeprefix(PREFIX)
    if is_probe(corpus) and name in PROBES:
        return PROBES[name]
    near = get_close_matches(name, PROBES, n=1)
    hint = f"; did you mean {PREFIX + near[0]!r}?" if near else ""
    raise ValueError(f"a probe must be one of {', '.join(PREFIX + one for one in PROBES)}, got {corpus!r}{hint}")
