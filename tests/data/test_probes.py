"""Examples of probes: the distance is what is claimed, the answer stands nowhere else, and seeds keep apart."""

from collections import Counter

import numpy as np
import pytest

from wavepos.data import PROBES, Probe, ProbeData, ProbeExamples, measured_examples, open_probe, prepare_training
from wavepos.data.corpora import open_corpus
from wavepos.data.probes import IGNORED, NOISE, Example

LOOKUPS = ("mqar", "needles", "copy")
"""Probes whose question is a word that stood right before the answer."""


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize(("distance", "before"), [(32, 0), (100, 50), (512, 512)])
def test_every_question_to_measure_with_lies_at_the_claimed_distance(name: str, distance: int, before: int) -> None:
    probe = PROBES[name]
    for example in measured_examples(probe, distance, before, 20):
        assert example.distances[example.asked].tolist() == [distance] * probe.questions
        assert not example.distances[~example.asked].any()
        for place in np.flatnonzero(example.asked):
            source, answer = place - distance, example.shift_labels[place]
            assert before <= source < before + 4 * probe.questions
            assert example.input_ids[source + 1] == answer in probe.ids(probe.answers)
            assert is_source(probe, example, source, place)


def is_source(probe: Probe, example: Example, source: int, place: int) -> bool:
    """Whether what a question asks for stands at a place."""
    words, asked = example.input_ids, example.input_ids[place]
    match probe.name:
        case "tracking":
            let = probe.ids("let").start
            return bool(words[source - 1] == let and words[source] == asked)
        case "flipflop":
            return words[source] == probe.ids("write").start and asked == probe.ids("read").start
        case _:
            return bool(words[source] == asked)


@pytest.mark.parametrize("name", LOOKUPS)
@pytest.mark.parametrize(("distance", "before"), [(16, 0), (48, 200), (512, 512)])
def test_what_is_asked_for_stands_once_before_the_question(name: str, distance: int, before: int) -> None:
    for example in measured_examples(PROBES[name], distance, before, 20):
        for place in np.flatnonzero(example.asked):
            assert np.count_nonzero(example.input_ids[:place] == example.input_ids[place]) == 1


def test_a_name_is_set_once_and_the_links_of_a_chain_are_listed_in_order() -> None:
    probe = PROBES["tracking"]
    let = probe.ids("let").start
    for example in measured_examples(probe, 128, 64, 20):
        words, places = example.input_ids, np.flatnonzero(example.asked)
        set_names = words[np.flatnonzero(words == let) + 1]
        assert len(set(set_names.tolist())) == len(set_names) == probe.questions
        for chain in np.split(places, 2):
            assert example.shift_labels[chain[:-1]].tolist() == words[chain[1:]].tolist()
        for place in places[1:]:  # but for the chain's start, which is only set
            stands = np.count_nonzero(words[64 : 64 + 3 * probe.questions] == words[place])
            assert stands == (1 if place == places[3] else 2)


def test_nothing_but_ignored_bits_lies_between_a_write_and_its_read() -> None:
    probe = PROBES["flipflop"]
    for example in measured_examples(probe, 64, 32, 20):
        between = example.input_ids[-64:-1]
        assert set(between[1::2].tolist()) == {probe.ids("ignore").start}
        assert set(between[2::2].tolist()) == set(probe.ids("bit"))


@pytest.mark.parametrize("name", PROBES)
def test_answers_are_evenly_spread_over_the_possible_ones(name: str) -> None:
    probe = PROBES[name]
    count = 1600 // probe.questions
    answers = Counter(int(x) for e in measured_examples(probe, 32, 0, count) for x in e.shift_labels[e.asked])
    expected = 1600 * probe.chance
    assert set(answers) == set(probe.ids(probe.answers))
    assert all(abs(found - expected) < 5.0 * expected**0.5 for found in answers.values())


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("seq_len", [64, 128, 131])
def test_examples_to_learn_from_have_the_length_and_true_distances(name: str, seq_len: int) -> None:
    probe = PROBES[name]
    found: set[int] = set()
    for index in range(400):
        item = ProbeExamples(probe, "train", seed=0, seq_len=seq_len, count=400)[index]
        words, labels = item["input_ids"].numpy(), item["shift_labels"].numpy()
        assert len(words) == len(labels) == seq_len
        places = np.flatnonzero(labels != IGNORED)
        assert len(places) > 0 and set(labels[places].tolist()) <= set(probe.ids(probe.answers))
        if name in LOOKUPS:  # the nearest word like the question's is followed by the answer
            for place in places:
                source = int(np.flatnonzero(words[:place] == words[place])[-1])
                assert words[source + 1] == labels[place]
                found.add(int(place - source))
    if name in LOOKUPS:
        assert min(found) <= 16 and max(found) >= 3 * seq_len // 4


@pytest.mark.parametrize("name", PROBES)
def test_the_distances_to_learn_from_are_those_it_says(name: str) -> None:
    probe = PROBES[name]
    for index in range(50):
        example = probe.learnt(np.random.default_rng(index), 128)
        for place in np.flatnonzero(example.asked):
            source = place - example.distances[place]
            assert example.input_ids[source + 1] == example.shift_labels[place]


@pytest.mark.parametrize("name", PROBES)
def test_an_example_follows_from_its_seed_and_number_alone(name: str) -> None:
    def item(index: int, seed: int, count: int = 10) -> list[int]:
        examples = ProbeExamples(PROBES[name], "train", seed=seed, seq_len=128, count=count)
        return examples[index]["input_ids"].tolist()

    assert item(3, 0) == item(3, 0, count=7)
    assert item(3, 0) != item(3, 1)
    assert item(3, 0) != item(4, 0)


@pytest.mark.parametrize("name", PROBES)
def test_no_example_of_one_stream_or_seed_is_in_another(name: str) -> None:
    probe = PROBES[name]
    seen = [
        {bytes(item["input_ids"].numpy()) for item in (examples[index] for index in range(200))}
        for examples in (
            ProbeExamples(probe, "train", seed=0, seq_len=128, count=200),
            ProbeExamples(probe, "train", seed=1, seq_len=128, count=200),
            ProbeExamples(probe, "valid", seed=0, seq_len=128, count=200),
        )
    ]
    seen.append({bytes(e.input_ids) for e in measured_examples(probe, 64, 64, 200, seed=0)})
    seen.append({bytes(e.input_ids) for e in measured_examples(probe, 64, 64, 200, seed=1)})
    assert sum(map(len, seen)) == len(set().union(*seen)) == 1000


def test_longer_contexts_hold_more_needles_that_nobody_asks_for() -> None:
    probe = PROBES["needles"]

    def needles(distance: int) -> float:
        found = measured_examples(probe, distance, 0, 20)
        return float(np.mean([np.count_nonzero(e.input_ids == probe.ids("needle").start) for e in found]))

    assert 4 < needles(64) < needles(512) / 4 < needles(2048) / 14


def test_words_have_one_id_each_and_filler_means_nothing() -> None:
    for probe in PROBES.values():
        assert len(probe.words) == len(set(probe.words)) == 1 + NOISE + sum(probe.own_words.values())
        tokenizer = ProbeData(probe=probe).tokenizer
        assert tokenizer.convert_tokens_to_ids(probe.words) == list(range(len(probe.words)))
        kind = probe.answers
        assert [probe.words[index] for index in probe.ids(kind)][:2] == [f"{kind}0", f"{kind}1"]
        assert all(word.startswith("noise") for word in probe.words[1 : 1 + NOISE])


@pytest.mark.parametrize(
    ("distance", "before", "message"),
    [
        (2, 0, "distance of probe 'flipflop' must be at least 4 and a multiple of 2 tokens, got 2"),
        (33, 0, "distance of probe 'flipflop' must be at least 4 and a multiple of 2 tokens, got 33"),
        (32, -2, "before of probe 'flipflop' must be at least 0 and a multiple of 2 tokens, got -2"),
        (32, 3, "before of probe 'flipflop' must be at least 0 and a multiple of 2 tokens, got 3"),
    ],
)
def test_distances_that_cannot_be_made_are_refused(distance: int, before: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(measured_examples(PROBES["flipflop"], distance, before, 1))


def test_wrong_names_and_sizes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="got 'task:needle'; did you mean 'task:needles'"):
        open_probe("task:needle")
    with pytest.raises(ValueError, match=r"must be one of task:mqar, .*, got 'stdlib'"):
        open_probe("stdlib")
    with pytest.raises(ValueError, match="seq_len of probe 'mqar' must be at least 64, got 63"):
        ProbeExamples(PROBES["mqar"], "train", seed=0, seq_len=63, count=1)
    with pytest.raises(ValueError, match=r"tokenizer of corpus 'task:mqar' must be 'task:mqar', .* got 'bpe:300'"):
        prepare_training("task:mqar", "bpe:300")
    with pytest.raises(ValueError, match="kind must be one of key, value, got 'values'"):
        PROBES["mqar"].ids("values")
    with pytest.raises(ValueError, match="'task:mqar' holds questions, no text: `wavepos study retrieval`"):
        open_corpus("task:mqar")
