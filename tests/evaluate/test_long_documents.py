"""Long documents: which are drawn, what is read of them, and the figures of a loss that is known."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wavepos.data import TokenFile
from wavepos.evaluate.long_documents import LENGTHS, evaluate_long_documents, sample_documents, tokens_read

END = 0


def token_file(folder: Path, lengths: list[int]) -> TokenFile:
    """Documents of those many tokens, each filled with its own number."""
    ids = [END]
    for number, length in enumerate(lengths, start=1):
        ids += [number] * length + [END]
    np.asarray(ids, dtype="<u2").tofile(folder / "tokens.bin")
    facts = {"num_words": 0, "dtype": "uint16", "corpus": "text:a", "split": "valid", "vocab_size": 9, "sha256": ""}
    return TokenFile(path=folder / "tokens.bin", num_tokens=len(ids), num_documents=len(lengths), **facts)  # type: ignore[arg-type]


def falling_losses(inputs: Tensor, targets: Tensor) -> Tensor:
    """1/(1 + i) at place i of a window."""
    return (1.0 / torch.arange(1, inputs.shape[1] + 1, dtype=torch.float64)).expand(inputs.shape)


def context_losses(inputs: Tensor, targets: Tensor) -> Tensor:
    return torch.sin(inputs.double().cumsum(1) + 3.0 * targets) + 2.0


def test_a_loss_that_falls_in_the_window_gives_the_known_figures() -> None:
    documents = [np.zeros(32_769, dtype=np.uint16)] * 2
    results = evaluate_long_documents(falling_losses, documents, LENGTHS, 4096)
    found = {(result.protocol.kind, result.protocol.seq_len): result.per_token for result in results}
    for length, whole in zip(LENGTHS, (1.002174, 1.001171, 1.000628, 1.000335), strict=True):
        assert found["nonoverlapping", length] == pytest.approx(1.002174, abs=5e-7)
        assert found["whole", length] == pytest.approx(whole, abs=5e-7)


def test_lengths_are_nested() -> None:
    documents = list(np.random.default_rng(0).integers(0, 50, size=(3, 81)))
    results = evaluate_long_documents(context_losses, documents, [10, 20, 40, 80], 10)
    nats = {(result.protocol.kind, result.protocol.seq_len): result.nats for result in results}
    for index, document in enumerate(documents):
        blocks = [direct(document[start : start + 11]) for start in range(0, 80, 10)]
        for length in (10, 20, 40, 80):
            assert nats["nonoverlapping", length][index] == pytest.approx(sum(blocks[: length // 10]), rel=1e-12)
            assert nats["whole", length][index] == pytest.approx(direct(document[: length + 1]), rel=1e-12)
    every = sum(nats["whole", 40]) / 120
    assert next(
        r for r in results if r.protocol.seq_len == 40 and r.protocol.kind == "whole"
    ).per_token == pytest.approx(math.exp(every))


def direct(stream: np.ndarray) -> float:
    total, nats = 0, 0.0
    for token, target in pairwise(stream):
        total += int(token)
        nats += math.sin(total + 3.0 * int(target)) + 2.0
    return nats


def test_what_several_lengths_share_is_read_once() -> None:
    documents, told = [np.arange(81), np.arange(81)], list[tuple[float, float | None]]()

    def update(done: float, total: float | None, note: str = "") -> None:
        told.append((done, total))

    evaluate_long_documents(context_losses, documents, [10, 25, 80], 10, update=update)
    assert tokens_read([10, 25, 80], 10) == 80 + 5 + 25 + 80
    assert told[-1] == (2 * 190, 2 * 190)


def test_the_draw_takes_long_documents_alone_and_follows_the_seed(tmp_path: Path) -> None:
    lengths = [30, 5, 20, 19, 40, 20, 7, 25]
    tokens = token_file(tmp_path, lengths)
    drawn = [sample_documents(tokens, END, 20, 3, seed) for seed in range(20)]
    assert all(len(document) == 21 and document[0] == END for documents in drawn for document in documents)
    numbers = [tuple(int(document[1]) for document in documents) for documents in drawn]
    assert {number for chosen in numbers for number in chosen} == {1, 3, 5, 6, 8}
    assert all(tuple(sorted(set(chosen))) == chosen for chosen in numbers)
    assert len(set(numbers)) > 1
    assert [int(document[1]) for document in sample_documents(tokens, END, 20, 3, 7)] == list(numbers[7])
    with pytest.raises(ValueError, match=r"documents must be at most .* with 20 tokens or more, which are 5, got 6"):
        sample_documents(tokens, END, 20, 6)
