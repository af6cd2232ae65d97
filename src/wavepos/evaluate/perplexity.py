"""Perplexity of a token stream by three protocols (section 6.1); every token is scored exactly once in each.

- "nonoverlapping": sequences of seq_len tokens, each divided into sub-sequences of at most train_len, each read alone
  (the paper's non-overlapping inference with L_train; up to train_len the same as "whole").
- "whole": sequences of seq_len tokens, read whole (the paper's inference without division).
- "sliding": windows of seq_len tokens moved by `stride`; after the first window only the last `stride` tokens of each
  are scored, so that every token has at least seq_len − stride tokens of context.

A window's first input is the last token before it, so a stream of N + 1 tokens holds N targets.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wavepos.console import Tally, Update

BATCH_TOKENS = 8192

Kind = Literal["nonoverlapping", "whole", "sliding"]
KINDS: tuple[Kind, ...] = get_args(Kind)

TokenLosses = Callable[[Tensor, Tensor], Tensor]
"""Input ids and targets, int64 [B,T] each, to −log p of each target in nats, [B,T]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Inputs stream[start:end], targets stream[start+1:end+1]; targets from index first_scored on are scored."""

    start: int
    end: int
    first_scored: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How a stream is cut into windows.

    Args:
        kind: "nonoverlapping", "whole" or "sliding".
        seq_len: tokens per sequence.
        train_len: tokens per sub-sequence, at most; "nonoverlapping" only.
        stride: tokens that a window is moved by, 1 … seq_len; "sliding" only.

    Raises:
        ValueError: a length that is not positive, a missing or needless train_len or stride.
    """

    kind: Kind
    seq_len: int
    train_len: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind of a protocol must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.seq_len < 1:
            raise ValueError(f"seq_len must be at least 1, got {self.seq_len}")
        if (self.kind == "nonoverlapping") != (self.train_len is not None):
            raise ValueError(f"train_len belongs to 'nonoverlapping' and to it only, got {self.train_len}")
        if (self.kind == "sliding") != (self.stride is not None):
            raise ValueError(f"stride belongs to 'sliding' and to it only, got {self.stride}")
        if self.train_len is not None and self.train_len < 1:
            raise ValueError(f"train_len must be at least 1, got {self.train_len}")
        if self.stride is not None and not 1 <= self.stride <= self.seq_len:
            raise ValueError(f"stride must lie between 1 and seq_len={self.seq_len}, got {self.stride}")

    def windows(self, num_targets: int) -> list[Window]:
        """The windows over a stream of num_targets + 1 tokens."""
        if num_targets < 1:
            raise ValueError(f"num_targets must be at least 1, got {num_targets}")
        sequences = list(_cut(0, num_targets, self.seq_len))
        if self.train_len is not None:
            return [piece for whole in sequences for piece in _cut(whole.start, whole.end, self.train_len)]
        if self.stride is not None:
            return list(_slide(num_targets, self.seq_len, self.stride))
        return sequences


@dataclass(frozen=True, slots=True)
class TextSize:
    """Words and UTF-8 bytes that the targets of a stream make up: those whose last token is among them."""

    words: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """The outcome of one protocol.

    Args:
        protocol: what was asked for.
        tokens: targets scored.
        nats: the sum of their −log p.
        text: what they make up; None if unknown.
        loss_by_position: mean nats of the targets at each place in their window, from the first place scored on.
    """

    protocol: Protocol
    tokens: int
    nats: float
    text: TextSize | None
    loss_by_position: tuple[float, ...]

    @property
    def per_token(self) -> float:
        """exp(nats / tokens); infinite where it is beyond float64."""
        return perplexity_of(self.nats, self.tokens)

    @property
    def per_word(self) -> float | None:
        """exp(nats / words), or None if the words are unknown."""
        return None if self.text is None or not self.text.words else perplexity_of(self.nats, self.text.words)

    @property
    def bits_per_byte(self) -> float | None:
        """nats / (ln 2 · bytes), comparable between tokenizers; None if the bytes are unknown."""
        return None if self.text is None or not self.text.bytes else self.nats / (math.log(2.0) * self.text.bytes)


def evaluate_perplexity(
    token_losses: TokenLosses,
    tokens: npt.NDArray[np.integer],
    protocol: Protocol,
    *,
    text: TextSize | None = None,
    batch_tokens: int = BATCH_TOKENS,
    device: torch.device | str = "cpu",
    update: Update | None = None,
) -> Perplexity:
    """Perplexity of a stream; exp of the token-weighted mean loss.

    Args:
        token_losses: the model's losses; called without gradients.
        tokens: the stream, any integer dtype, memory-mapped or not; its first token is context only.
        protocol: how the stream is cut.
        text: what all targets make up, for perplexity per word and bits per byte.
        batch_tokens: windows of one length are batched up to that many tokens.
        device: where the model is.
        update: told of the targets scored.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    tally = Tally(update, len(tokens) - 1, "tokens scored")
    return _perplexity(token_losses, tokens, protocol, text, batch_tokens, device, tally)


def _perplexity(
    token_losses: TokenLosses,
    tokens: npt.NDArray[np.integer],
    protocol: Protocol,
    text: TextSize | None,
    batch_tokens: int,
    device: torch.device | str,
    tally: Tally,
) -> Perplexity:
    plan = protocol.windows(len(tokens) - 1)
    longest = max(window.end - window.start for window in plan)
    nats = np.zeros(longest, dtype=np.float64)
    counts = np.zeros(longest, dtype=np.int64)
    for batch in _batches(plan, batch_tokens):
        losses = _losses(token_losses, tokens, batch, device)
        first_scored = np.array([window.first_scored for window in batch])
        scored = np.arange(losses.shape[1])[None, :] >= first_scored[:, None]
        nats[: losses.shape[1]] += (losses * scored).sum(axis=0)
        counts[: losses.shape[1]] += scored.sum(axis=0)
        tally.add(int(scored.sum()))
    total = int(counts.sum())
    return Perplexity(
        protocol=protocol,
        tokens=total,
        nats=float(nats.sum()),
        text=text,
        loss_by_position=tuple(float(value) for value in nats[counts > 0] / counts[counts > 0]),
    )


def window_losses(
    token_losses: TokenLosses,
    tokens: npt.NDArray[np.integer],
    windows: Sequence[Window],
    tally: Tally,
    device: torch.device | str = "cpu",
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[npt.NDArray[np.float64]]:
    """−log p of the scored targets of each window; windows of one length that stand side by side are batched.

    The tally counts the tokens read.
    """
    for batch in _batches(windows, batch_tokens):
        losses = _losses(token_losses, tokens, batch, device)
        tally.add(losses.size)
        for row, window in zip(losses, batch, strict=True):
            yield row[window.first_scored :]


def window_nats(
    token_losses: TokenLosses,
    tokens: npt.NDArray[np.integer],
    windows: Sequence[Window],
    tally: Tally,
    device: torch.device | str = "cpu",
) -> list[float]:
    """The nats of the scored targets of each window, as `window_losses` computes them."""
    return [float(losses.sum()) for losses in window_losses(token_losses, tokens, windows, tally, device)]


def table_protocols(seq_lens: Sequence[int], train_len: int, kinds: Sequence[Kind] = KINDS) -> list[Protocol]:
    """The three protocols at each length, or those of some kinds; sliding windows move by half their length."""
    return [
        protocol
        for seq_len in seq_lens
        for protocol in (
            Protocol(kind="nonoverlapping", seq_len=seq_len, train_len=train_len),
            Protocol(kind="whole", seq_len=seq_len),
            Protocol(kind="sliding", seq_len=seq_len, stride=max(1, seq_len // 2)),
        )
        if protocol.kind in kinds
    ]


def evaluate_protocols(
    token_losses: TokenLosses,
    tokens: npt.NDArray[np.integer],
    protocols: Sequence[Protocol],
    *,
    text: TextSize | None = None,
    device: torch.device | str = "cpu",
    update: Update | None = None,
) -> list[Perplexity]:
    """Perplexity by each protocol; those that cut the stream into the same windows are one computation.

    The arguments are those of `evaluate_perplexity`; `update` is told of the targets of all protocols together, also of
    those whose windows are shared.
    """
    tally = Tally(update, len(protocols) * (len(tokens) - 1), "tokens scored")
    known: dict[tuple[Window, ...], Perplexity] = {}
    results = []
    for protocol in protocols:
        plan = tuple(protocol.windows(len(tokens) - 1))
        if plan not in known:
            known[plan] = _perplexity(token_losses, tokens, protocol, text, BATCH_TOKENS, device, tally)
        else:
            tally.add(known[plan].tokens)
        results.append(dataclasses.replace(known[plan], protocol=protocol))
    return results


def perplexity_record(result: Perplexity) -> dict[str, Any]:
    """A perplexity as JSON, without the losses by position; an infinite one is null."""
    return {
        **dataclasses.asdict(result.protocol),
        "per_token": _finite(result.per_token),
        "per_word": _finite(result.per_word),
        "bits_per_byte": _finite(result.bits_per_byte),
        "tokens": result.tokens,
        "words": None if result.text is None else result.text.words,
        "bytes": None if result.text is None else result.text.bytes,
        "nats": result.nats,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def perplexity_of(nats: float, units: int) -> float:
    """exp(nats / units); infinite where it is beyond float64."""
    return math.exp(nats / units) if nats / units < 700.0 else math.inf


def _losses(
    token_losses: TokenLosses, tokens: npt.NDArray[np.integer], batch: Sequence[Window], device: torch.device | str
) -> npt.NDArray[np.float64]:
    """−log p of every target of windows of one length, [windows, length]."""
    stream = np.stack([np.asarray(tokens[w.start : w.end + 1], dtype=np.int64) for w in batch])
    ids = torch.from_numpy(stream).to(device)
    with torch.inference_mode():
        losses: npt.NDArray[np.float64] = token_losses(ids[:, :-1], ids[:, 1:]).double().cpu().numpy()
    if not np.isfinite(losses).all():
        row, place = np.argwhere(~np.isfinite(losses))[0]
        raise FloatingPointError(
            f"the model's loss is {losses[row, place]} for token {batch[row].start + int(place) + 1:,} of the text, "
            f"read in windows of {losses.shape[1]:,}: its weights are not finite, or it cannot read that length"
        )
    return losses


def _cut(start: int, end: int, length: int) -> Iterator[Window]:
    for low in range(start, end, length):
        yield Window(start=low, end=min(low + length, end))


def _slide(num_targets: int, seq_len: int, stride: int) -> Iterator[Window]:
    scored = min(seq_len, num_targets)
    yield Window(start=0, end=scored)
    while scored < num_targets:
        end = min(scored + stride, num_targets)
        start = max(0, end - seq_len)
        yield Window(start=start, end=end, first_scored=scored - start)
        scored = end


def _batches(plan: Sequence[Window], batch_tokens: int) -> Iterator[list[Window]]:
    batch: list[Window] = []
    for window in plan:
        length = window.end - window.start
        if batch and (length != batch[0].end - batch[0].start or (len(batch) + 1) * length > batch_tokens):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
