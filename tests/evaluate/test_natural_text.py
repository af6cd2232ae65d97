"""Probes of natural text on losses whose answer is known: a copier, a window, a uniform model."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import small
from torch import Tensor

from wavepos.evaluate.natural_text import (
    NaturalLosses,
    NaturalPlan,
    key_tokens,
    last_distances,
    losses_by_distance,
    mean_losses,
    most_gained,
    natural_losses,
)

PLAN = NaturalPlan(train_len=8, times=16, tail=12)
KNOWN, NEW = 0.25, 5.0


def documents(count: int = 3, vocab: int = 60) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, vocab, size=PLAN.length + 1).astype(np.uint16) for _ in range(count)]


def copier(inputs: Tensor, targets: Tensor) -> Tensor:
    """A model that knows every token that it has read, wherever it stood."""
    length = inputs.shape[1]
    seen = (targets[:, :, None] == inputs[:, None, :]) & torch.tril(torch.ones(length, length, dtype=torch.bool))
    return torch.where(seen.any(-1), KNOWN, NEW).double()


def window(width: int) -> object:
    """A model whose loss follows from the last `width` inputs and the target, and from nothing else."""

    def losses(inputs: Tensor, targets: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(inputs.double(), (width - 1, 0))
        return torch.sin(padded.unfold(1, width, 1).sum(-1) + targets) + 2.0

    return losses


def uniform(inputs: Tensor, targets: Tensor) -> Tensor:
    return torch.full(inputs.shape, math.log(60.0), dtype=torch.float64)


def test_the_plan_reads_every_target_of_the_second_half_once_for_each_window() -> None:
    assert PLAN.windows == (8, 16, 32, 64, 128)
    assert PLAN.contexts == (2, 4, 8, 16, 32, 64, 116)
    assert NaturalPlan(train_len=256).windows[-2:] == (32 * 256, 16_384)
    assert NaturalPlan(train_len=256).contexts == (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_128)
    cuts = PLAN.cuts()
    for size, windows in zip(PLAN.windows, cuts, strict=False):
        scored = [n for w in windows for n in range(w.start + w.first_scored, w.end)]
        assert scored == list(range(64, 128))
        assert min(w.first_scored for w in windows) == (64 if size == 128 else size // 2)
        assert min(w.start for w in windows) >= 0
    for context, (w,) in zip(PLAN.contexts, cuts[5:], strict=True):
        assert (w.start, w.end, w.first_scored) == (128 - 12 - context, 128, context)


def test_last_distances_are_those_of_a_plain_search() -> None:
    (document,) = documents(1)
    found = last_distances([document], PLAN)[0]
    for index, distance in enumerate(found):
        place = 64 + index + 1  # of the target in the document
        before = [place - n for n in range(place) if document[n] == document[place]]
        assert distance == (min(before) if before else 0)


def test_a_copier_knows_each_token_that_stood_before_however_far() -> None:
    texts = documents()
    losses = natural_losses(copier, texts, PLAN)
    distances = last_distances(texts, PLAN)
    bins = losses_by_distance(losses, distances)
    assert [(one.low, one.high) for one in bins][:3] == [(0, 1), (1, 2), (2, 4)]
    assert sum(one.tokens for one in bins) == 3 * 64
    for one in bins:
        if not one.tokens:
            continue
        assert one.whole == pytest.approx(NEW if one.low == 0 else KNOWN)
        if one.low == 0 or one.high <= 4 + 1:
            assert one.gain == pytest.approx(0.0)
        elif one.low > 8:
            assert one.gain == pytest.approx(NEW - KNOWN)
    assert bins[4].low == 8
    far = [one for one in bins if one.low >= 16 and one.tokens]
    assert len(far) >= 3
    context = losses.by_context.mean((1, 2))
    assert (np.diff(context) <= 0).all()
    assert context[-1] < context[0]
    assert np.array_equal(losses.by_context[-1], losses.by_window[-1][:, -12:])


def test_key_tokens_are_those_that_a_copier_needs_the_long_context_for() -> None:
    texts = documents()
    losses = natural_losses(copier, texts, PLAN)
    distances = last_distances(texts, PLAN)
    keys = key_tokens(losses)
    assert np.array_equal(keys, (losses.by_window[0] == NEW) & (losses.by_window[-1] == np.float32(KNOWN)))
    assert (distances[keys] > 4).all()
    assert keys[distances > 8].all()
    assert mean_losses(losses, keys) is not None
    per_window = mean_losses(losses, keys)
    assert per_window is not None
    assert (per_window[0], per_window[-1]) == (NEW, pytest.approx(KNOWN))
    assert per_window == sorted(per_window, reverse=True)
    of_uniform = natural_losses(uniform, texts, PLAN)
    assert mean_losses(of_uniform, keys) == pytest.approx([math.log(60.0)] * 5)
    assert not key_tokens(of_uniform).any()
    assert mean_losses(losses, key_tokens(of_uniform)) is None
    assert np.array_equal(most_gained(losses, keys.mean()), keys)
    assert most_gained(of_uniform, 0.05).all()  # nothing is gained anywhere: all are tied
    gains = NaturalLosses(by_window=losses.by_window.copy(), by_context=losses.by_context)
    gains.by_window[0], gains.by_window[-1] = np.arange(192).reshape(3, 64), 0.0
    assert np.flatnonzero(most_gained(gains, 0.05)).tolist() == list(range(182, 192))
    with pytest.raises(ValueError, match="share must lie above 0 and at most at 1, got 0"):
        most_gained(losses, 0.0)
    unsure = NaturalLosses(by_window=losses.by_window + 2.5, by_context=losses.by_context)
    assert not key_tokens(unsure).any()  # it gains as much, and is still wrong: LCL below −2


@pytest.mark.parametrize("width", [1, 4])
def test_a_window_model_gains_exactly_nothing_beyond_its_window(width: int) -> None:
    texts = documents()
    losses = natural_losses(window(width), texts, PLAN)  # type: ignore[arg-type]
    for one in losses.by_window[1:]:
        assert np.array_equal(one, losses.by_window[0])
    for context, one in zip(PLAN.contexts, losses.by_context, strict=True):
        assert np.array_equal(one, losses.by_context[-1]) == (context >= width - 1)
    gains = [one.gain for one in losses_by_distance(losses, last_distances(texts, PLAN)) if one.tokens]
    assert gains == [0.0] * len(gains)


def test_a_real_window_model_gains_nothing_and_nope_does() -> None:
    texts = [document.astype(np.int64) for document in documents(2)]
    gains = []
    for position in ({"method": "alibi", "window": 2}, "nope"):
        model = small("llama", position)
        losses = natural_losses(model.token_losses, texts, PLAN)
        gains.append(np.abs(losses.by_window[0] - losses.by_window[-1]).max())
    assert gains[0] < 1e-4  # two layers of 2 reach 2 tokens back
    assert gains[1] > 0.01


def test_a_uniform_model_has_the_same_loss_everywhere() -> None:
    texts = documents()
    losses = natural_losses(uniform, texts, PLAN)
    assert mean_losses(losses) == pytest.approx([math.log(60.0)] * 5)
    for one in losses_by_distance(losses, last_distances(texts, PLAN)):
        assert one.tokens == 0 or (one.gain == 0.0 and one.whole == pytest.approx(math.log(60.0)))


def test_losses_are_kept_and_found_again(tmp_path: Path) -> None:
    told: list[tuple[float, float | None]] = []
    losses = natural_losses(copier, documents(), PLAN, update=lambda done, total, note="": told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    losses.save(tmp_path / "a" / "x.npz")
    again = NaturalLosses.load(tmp_path / "a" / "x.npz")
    assert np.array_equal(again.by_window, losses.by_window)
    assert np.array_equal(again.by_context, losses.by_context)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.npz"]


def test_a_tail_longer_than_half_is_read_for_itself() -> None:
    plan = NaturalPlan(train_len=8, times=2, tail=10)
    texts = [document[:17] for document in documents()]
    losses = natural_losses(copier, texts, plan)
    assert losses.by_context.shape == (3, 3, 10)
    direct = copier(torch.tensor(texts[0][None, :-1].astype(int)), torch.tensor(texts[0][None, 1:].astype(int)))
    assert np.allclose(losses.by_context[-1][0], direct[0, 6:])


def test_wrong_plans_and_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="train_len must be a multiple of 4, at least 4, got 6"):
        NaturalPlan(train_len=6)
    with pytest.raises(ValueError, match="times must be a power of two, at least 2, got 12"):
        NaturalPlan(train_len=8, times=12)
    with pytest.raises(ValueError, match="tail must lie between 1 and 15, got 16"):
        NaturalPlan(train_len=8, times=2, tail=16)
    with pytest.raises(ValueError, match="documents must have 129 tokens each"):
        natural_losses(uniform, [np.zeros(128, dtype=np.int64)], PLAN)
    with pytest.raises(ValueError, match="documents must have 129 tokens each"):
        natural_losses(uniform, [], PLAN)
