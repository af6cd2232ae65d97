"""Retrieval by distance: how often a model answers when what is asked for lies exactly so many tokens back.

A question is scored among the possible answers of its task: right, wrong, or 1/k where k of them are equally likely
and the right one is among these. So a model that knows nothing scores exactly 1 over the number of possible answers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavepos.console import Tally, Update
from wavepos.data.probes import Example, Probe, measured_examples

BATCH_TOKENS = 8192

Logits = Callable[[Tensor], Tensor]
"""Input ids, int64 [B,T], to the logits of the next word, [B,T,V]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """What is measured of a model trained on a probe.

    Attributes:
        distances: from question to answer, in units of L_train.
        depths: share of the context that lies before what is asked for: 0 at its start, 1/2 halfway. As long as an
            example fits into L_train with less before it, no more than fits is put there.
        questions: at each distance and depth, at least.
        seed: of the examples.
        read_with: JSON of another position to read with; None: the trained one.

    Raises:
        ValueError: no distances or depths, or a number out of its range.
    """

    distances: tuple[float, ...]
    depths: tuple[float, ...] = (0.0, 0.5)
    questions: int = 512
    seed: int = 0
    read_with: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "distances", tuple(self.distances))
        object.__setattr__(self, "depths", tuple(self.depths))
        if not self.distances or not all(0.0 < distance < math.inf for distance in self.distances):
            raise ValueError(f"distances must hold at least one positive number, got {self.distances}")
        if not self.depths or not all(0.0 <= depth < 1.0 for depth in self.depths):
            raise ValueError(f"depths must hold numbers from 0 up to, without, 1, got {self.depths}")
        if self.questions < 1:
            raise ValueError(f"questions must be at least 1, got {self.questions}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Where what is asked for lies.

    Attributes:
        units: the distance in units of L_train, as it was asked for.
        depth: as it was asked for.
        distance: tokens from question back to answer.
        before: tokens before what is asked for.
        length: tokens of an example.
    """

    units: float
    depth: float
    distance: int
    before: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """What a model answered at a spot.

    Attributes:
        spot: where.
        questions: that were asked.
        correct: the sum of their scores.
    """

    spot: Spot
    questions: int
    correct: float

    @property
    def accuracy(self) -> float:
        """From 0 to 1."""
        return self.correct / self.questions


def spots(probe: Probe, seq_len: int, retrieval: Retrieval) -> list[Spot]:
    """The spots of every distance and depth that the probe has.

    Distances below the probe's shortest are left out.

    Args:
        probe: the task.
        seq_len: L_train.
        retrieval: what is asked for.

    Raises:
        ValueError: no distance is left.
    """
    found = []
    for units in retrieval.distances:
        distance = int(units * seq_len) // probe.step * probe.step
        if distance < probe.shortest:
            continue
        tail = len(next(measured_examples(probe, distance, 0, 1)).input_ids) - distance
        for depth in retrieval.depths:
            before = int(distance * depth / (1.0 - depth))
            if distance + tail <= seq_len:  # in range: so is all of the example
                before = min(before, seq_len - distance - tail)
            before = before // probe.step * probe.step
            length = before + distance + tail
            found.append(Spot(units=units, depth=depth, distance=distance, before=before, length=length))
    if not found:
        raise ValueError(
            f"distances must hold one of at least {probe.shortest} tokens for probe {probe.name!r}, got "
            f"{retrieval.distances} × {seq_len}"
        )
    return found


def measure_retrieval(
    logits: Logits,
    probe: Probe,
    at: Sequence[Spot],
    retrieval: Retrieval,
    *,
    device: torch.device | str = "cpu",
    update: Update | None = None,
) -> list[Recalled]:
    """Ask a model at every spot.

    Args:
        logits: the model.
        probe: the task, whose ids the model knows.
        at: as `spots` gives them.
        retrieval: how many questions, of which seed.
        device: where the model lies.
        update: told of the tokens read.

    Raises:
        ValueError: logits that are not numbers.
    """
    count = -(-retrieval.questions // probe.questions)
    tally = Tally(update, sum(spot.length * count for spot in at), "tokens read")
    found = []
    for spot in at:
        correct, questions = 0.0, 0
        examples = list(measured_examples(probe, spot.distance, spot.before, count, retrieval.seed))
        size = max(1, BATCH_TOKENS // spot.length)
        for start in range(0, count, size):
            scores = _scores(logits, probe, examples[start : start + size], device)
            correct, questions = correct + float(scores.sum()), questions + scores.numel()
            tally.add(spot.length * len(examples[start : start + size]))
        found.append(Recalled(spot=spot, questions=questions, correct=correct))
    return found


@torch.no_grad()
def _scores(logits: Logits, probe: Probe, examples: Sequence[Example], device: torch.device | str) -> Tensor:
    """The score of every question of examples of one length, float64 [Q]."""
    ids_BT, labels_BT = (
        torch.from_numpy(np.stack([getattr(example, name) for example in examples])).to(device)
        for name in ("input_ids", "shift_labels")
    )
    asked_BT = torch.from_numpy(np.stack([example.asked for example in examples])).to(device)
    possible = probe.ids(probe.answers)
    logits_QA = logits(ids_BT)[asked_BT][:, possible.start : possible.stop].double()
    if bool(logits_QA.isnan().any()):
        raise ValueError(f"logits of probe {probe.name!r} must be numbers, got NaN")
    best_QA = logits_QA == logits_QA.amax(1, keepdim=True)
    right_Q = best_QA.gather(1, labels_BT[asked_BT][:, None] - possible.start)[:, 0]
    return right_Q.double() / best_QA.sum(1)


def recalled_record(recalled: Recalled) -> dict[str, Any]:
    """A measurement as JSON."""
    spot = recalled.spot
    return {
        "units": spot.units,
        "depth": spot.depth,
        "distance": spot.distance,
        "before": spot.before,
        "length": spot.length,
        "questions": recalled.questions,
        "accuracy": round(recalled.accuracy, 5),
    }
