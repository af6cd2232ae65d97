"""Retrieval by distance, on models whose answers are known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from wavepos.data import PROBES, Probe
from wavepos.evaluate.retrieval import Logits, Retrieval, measure_retrieval, recalled_record, spots
from wavepos.models import BaevskiAuliForCausalLM, baevski_auli_config

SEQ_LEN = 128
ASKED = Retrieval(distances=(0.125, 0.25, 0.5, 1.0, 4.0, 16.0), questions=16)
Solver = Callable[[Probe, list[int], int], int | None]
"""The answer at a place, or None."""


def looked_up(probe: Probe, words: list[int], place: int) -> int | None:
    """What followed this word the last time."""
    return next((words[i + 1] for i in range(place - 1, -1, -1) if words[i] == words[place]), None)


def tracked(probe: Probe, words: list[int], place: int) -> int | None:
    """What the name was set to, whatever was set to it."""
    let = probe.ids("let").start
    return next((words[i + 2] for i in range(place - 2) if words[i : i + 2] == [let, words[place]]), None)


def last_written(probe: Probe, words: list[int], place: int) -> int | None:
    write = probe.ids("write").start
    return next((words[i + 1] for i in range(place - 1, -1, -1) if words[i] == write), None)


SOLVERS: dict[str, Solver] = {
    "mqar": looked_up,
    "needles": looked_up,
    "copy": looked_up,
    "flipflop": last_written,
    "tracking": tracked,
}


def solving(probe: Probe, window: int | None = None) -> Logits:
    """A model that knows the answer, from the last `window` words alone where there is a window."""

    def logits(ids_BT: Tensor) -> Tensor:
        out = torch.zeros(*ids_BT.shape, len(probe.words))
        for row, words in enumerate(ids_BT.tolist()):
            for place in range(len(words)):
                start = 0 if window is None else max(0, place + 1 - window)
                answer = SOLVERS[probe.name](probe, words[start : place + 1], place - start)
                if answer is not None:
                    out[row, place, answer] = 1.0
        return out

    return logits


@pytest.mark.parametrize("name", PROBES)
def test_a_copier_scores_one_at_every_distance(name: str) -> None:
    probe = PROBES[name]
    asked = Retrieval(distances=(0.25, 0.5, 1.0, 4.0), questions=16)
    found = measure_retrieval(solving(probe), probe, spots(probe, SEQ_LEN, asked), asked)
    assert len(found) == 8
    assert [one.accuracy for one in found] == [1.0] * 8


@pytest.mark.parametrize("name", PROBES)
def test_a_window_leaves_chance_beyond_it(name: str) -> None:
    """Its model answers nothing there, so all possible answers are equally likely: exactly chance, not zero."""
    probe = PROBES[name]
    asked = Retrieval(distances=(0.25, 0.5, 1.0, 2.0), questions=16)
    found = measure_retrieval(solving(probe, window=80), probe, spots(probe, SEQ_LEN, asked), asked)
    for one in found:
        assert one.accuracy == (1.0 if one.spot.distance < 79 else probe.chance), one


@pytest.mark.parametrize("name", PROBES)
def test_a_uniform_model_scores_chance(name: str) -> None:
    probe = PROBES[name]
    found = measure_retrieval(
        lambda ids: torch.zeros(*ids.shape, len(probe.words)), probe, spots(probe, SEQ_LEN, ASKED), ASKED
    )
    assert all(one.accuracy == probe.chance for one in found)


@pytest.mark.parametrize("name", [name for name, probe in PROBES.items() if probe.listed is not None])
def test_a_guess_among_the_answers_in_the_context_scores_what_the_probe_says(name: str) -> None:
    probe = PROBES[name]

    def seen(ids_BT: Tensor) -> Tensor:
        present = torch.nn.functional.one_hot(ids_BT, len(probe.words)).cumsum(1)
        return (present > 0).float()

    found = measure_retrieval(seen, probe, spots(probe, SEQ_LEN, ASKED), ASKED)
    assert all(one.accuracy == probe.guess for one in found)


@pytest.mark.parametrize("name", PROBES)
def test_a_closed_window_of_a_real_model_lets_no_answer_through(name: str) -> None:
    """2 layers × (window − 1) < distance: other answers far back change no logit at the question."""
    probe = PROBES[name]
    position = {"method": "rotary", "window": SEQ_LEN // 2}
    torch.manual_seed(0)
    model = BaevskiAuliForCausalLM(baevski_auli_config("probe", len(probe.words), position)).eval()
    spot = spots(probe, SEQ_LEN, Retrieval(distances=(1.0,), depths=(0.5,)))[0]
    assert spot.distance > 2 * (SEQ_LEN // 2 - 1)
    ids = torch.randint(len(probe.words), (1, spot.length))
    asked = spot.length - 1
    near, far = ids.clone(), ids.clone()
    far[0, : asked - spot.distance + 1] = 1
    near[0, asked - 1] = (near[0, asked - 1] + 1) % len(probe.words)
    with torch.no_grad():
        first, second, third = (model(input_ids=x).logits[0, asked] for x in (ids, far, near))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_spots_are_exact_and_in_range_examples_fit_into_it() -> None:
    for probe in PROBES.values():
        for spot in spots(probe, SEQ_LEN, ASKED):
            assert spot.distance == spot.units * SEQ_LEN
            if spot.units <= 0.5:
                assert spot.length <= SEQ_LEN
            if spot.depth == 0.0:
                assert spot.before == 0
            elif spot.units >= 1.0:
                assert spot.before == spot.distance
    assert {spot.units for spot in spots(PROBES["tracking"], SEQ_LEN, ASKED)} == {0.25, 0.5, 1.0, 4.0, 16.0}
    with pytest.raises(ValueError, match="distances must hold one of at least 24 tokens for probe 'tracking'"):
        spots(PROBES["tracking"], SEQ_LEN, Retrieval(distances=(0.125,)))


def test_all_questions_count_and_the_record_names_where_they_lie() -> None:
    probe = PROBES["needles"]
    asked = Retrieval(distances=(1.0,), depths=(0.5,), questions=10)
    (one,) = measure_retrieval(solving(probe), probe, spots(probe, SEQ_LEN, asked), asked)
    assert recalled_record(one) == {
        "units": 1.0,
        "depth": 0.5,
        "distance": 128,
        "before": 128,
        "length": 267,
        "questions": 12,
        "accuracy": 1.0,
    }


def test_logits_that_are_no_numbers_are_refused() -> None:
    probe = PROBES["mqar"]
    with pytest.raises(ValueError, match="logits of probe 'mqar' must be numbers, got NaN"):
        measure_retrieval(
            lambda ids: torch.full((*ids.shape, len(probe.words)), torch.nan), probe, spots(probe, 128, ASKED), ASKED
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"distances": ()}, "distances must hold at least one positive number"),
        ({"distances": (1.0, -2.0)}, "distances must hold at least one positive number"),
        ({"distances": (1.0,), "depths": (1.0,)}, "depths must hold numbers from 0 up to, without, 1"),
        ({"distances": (1.0,), "depths": ()}, "depths must hold numbers from 0"),
        ({"distances": (1.0,), "questions": 0}, "questions must be at least 1, got 0"),
        ({"distances": (1.0,), "seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_measurements_that_cannot_be_meant_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Retrieval(**fields)
