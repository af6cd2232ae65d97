"""Perplexity protocols against a direct computation on a model whose losses are known by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wavepos.evaluate import (
    Perplexity,
    Protocol,
    TextSize,
    evaluate_perplexity,
    evaluate_protocols,
    perplexity_record,
    table_protocols,
)

TOKENS = np.random.default_rng(0).integers(0, 50, size=301)


def context_losses(inputs: Tensor, targets: Tensor) -> Tensor:
    """A toy model that needs its context: the loss depends on every input up to the target."""
    return torch.sin(inputs.double().cumsum(1) + 3.0 * targets) + 2.0


def direct(start: int, end: int, first_scored: int) -> list[float]:
    """Losses of stream[start+1 … end], written without batches or arrays, from the first scored one on."""
    total, losses = 0, []
    for index in range(start, end):
        total += int(TOKENS[index])
        losses.append(math.sin(total + 3.0 * int(TOKENS[index + 1])) + 2.0)
    return losses[first_scored:]


def score(protocol: Protocol, num_targets: int = 300, batch_tokens: int = 64) -> Perplexity:
    return evaluate_perplexity(
        context_losses, TOKENS[: num_targets + 1], protocol, text=TextSize(150, 700), batch_tokens=batch_tokens
    )


def test_whole_blocks_equal_a_direct_sum() -> None:
    result = score(Protocol(kind="whole", seq_len=70))
    blocks = [direct(low, min(low + 70, 300), 0) for low in range(0, 300, 70)]
    assert result.tokens == 300
    assert result.nats == pytest.approx(sum(map(sum, blocks)), rel=1e-12)
    assert result.per_token == pytest.approx(math.exp(sum(map(sum, blocks)) / 300), rel=1e-12)
    assert result.per_word == pytest.approx(math.exp(sum(map(sum, blocks)) / 150), rel=1e-12)
    assert result.bits_per_byte == pytest.approx(sum(map(sum, blocks)) / 700 / math.log(2.0), rel=1e-12)
    record = perplexity_record(result)
    assert (record["words"], record["bytes"], record["bits_per_byte"]) == (150, 700, result.bits_per_byte)
    for place in (0, 19, 20, 69):
        values = [block[place] for block in blocks if place < len(block)]
        assert result.loss_by_position[place] == pytest.approx(sum(values) / len(values), rel=1e-12)


def test_nonoverlapping_divides_each_sequence() -> None:
    result = score(Protocol(kind="nonoverlapping", seq_len=101, train_len=50))
    pieces = [(0, 50), (50, 100), (100, 101), (101, 151), (151, 201), (201, 202), (202, 252), (252, 300)]
    assert result.tokens == 300
    assert result.nats == pytest.approx(sum(sum(direct(a, b, 0)) for a, b in pieces), rel=1e-12)


def test_sliding_scores_the_end_of_each_window() -> None:
    result = score(Protocol(kind="sliding", seq_len=40, stride=7))
    expected, scored = sum(direct(0, 40, 0)), 40
    while scored < 300:
        end = min(scored + 7, 300)
        expected += sum(direct(end - 40, end, 40 - (end - scored)))
        scored = end
    assert result.tokens == 300
    assert result.nats == pytest.approx(expected, rel=1e-12)


@given(
    num_targets=st.integers(1, 300), seq_len=st.integers(1, 120), part=st.integers(1, 120), batch=st.integers(1, 500)
)
def test_every_token_is_scored_once(num_targets: int, seq_len: int, part: int, batch: int) -> None:
    for protocol in (
        Protocol(kind="whole", seq_len=seq_len),
        Protocol(kind="nonoverlapping", seq_len=seq_len, train_len=part),
        Protocol(kind="sliding", seq_len=seq_len, stride=min(part, seq_len)),
    ):
        plan = protocol.windows(num_targets)
        targets = [t for w in plan for t in range(w.start + w.first_scored + 1, w.end + 1)]
        assert targets == list(range(1, num_targets + 1))
        assert score(protocol, num_targets, batch).tokens == num_targets


def test_sliding_by_the_whole_window_is_whole_blocks() -> None:
    sliding = Protocol(kind="sliding", seq_len=70, stride=70)
    assert sliding.windows(280) == Protocol(kind="whole", seq_len=70).windows(280)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "whole", "seq_len": 0}, "seq_len must be at least 1, got 0"),
        ({"kind": "sliding", "seq_len": 5}, "stride belongs to 'sliding'"),
        ({"kind": "sliding", "seq_len": 5, "stride": 6}, "stride must lie between 1 and seq_len=5, got 6"),
        ({"kind": "whole", "seq_len": 5, "train_len": 5}, "train_len belongs to 'nonoverlapping'"),
        ({"kind": "nonoverlapping", "seq_len": 5, "train_len": 0}, "train_len must be at least 1, got 0"),
        ({"kind": "blocks", "seq_len": 5}, "must be one of nonoverlapping, whole, sliding, got 'blocks'"),
    ],
)
def test_wrong_input_is_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Protocol(**fields)


def falling_losses(inputs: Tensor, targets: Tensor) -> Tensor:
    """1/(1 + i) at place i of a window, whatever the tokens are."""
    return (1.0 / torch.arange(1, inputs.shape[1] + 1, dtype=torch.float64)).expand(inputs.shape)


@pytest.mark.parametrize(
    ("seq_len", "divided", "whole"),
    [
        (512, 0.01342024, 0.01342024),
        (1012, 0.01355690, 0.00745584),
        (1512, 0.01358885, 0.00523942),
        (2512, 0.01363724, 0.00336386),
    ],
)
def test_the_papers_protocols_at_the_size_of_wikitexts_valid_split(seq_len: int, divided: float, whole: float) -> None:
    stream = np.zeros(217_647, dtype=np.uint16)
    protocols = table_protocols([seq_len], 512)[:2]
    results = evaluate_protocols(falling_losses, stream, protocols)
    assert [result.tokens for result in results] == [217_646, 217_646]
    np.testing.assert_allclose([result.per_token - 1.0 for result in results], [divided, whole], rtol=0, atol=5e-9)


def test_progress_adds_up_to_all_protocols_though_windows_are_shared() -> None:
    protocols = table_protocols([10, 20, 40], 20)
    told: list[tuple[float, float | None, str]] = []

    def update(done: float, total: float | None, note: str = "") -> None:
        told.append((done, total, note))

    evaluate_protocols(falling_losses, TOKENS, protocols, update=update)
    assert told[-1] == (2700, 2700, "2,700 tokens scored")
    assert [done for done, _, _ in told] == sorted({done for done, _, _ in told})


def test_an_empty_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="num_targets must be at least 1, got 0"):
        score(Protocol(kind="whole", seq_len=5), num_targets=0)


def test_a_loss_that_is_not_finite_names_its_token() -> None:
    def losses(inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.where(torch.arange(targets.shape[1]) == 3, torch.nan, context_losses(inputs, targets))

    with pytest.raises(FloatingPointError, match="loss is nan for token 4 of the text, read in windows of 70"):
        evaluate_perplexity(losses, TOKENS, Protocol(kind="whole", seq_len=70))
