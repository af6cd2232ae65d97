"""Does a model use what lies far back in natural text? Losses of single tokens of long documents, read in several ways.

Of each document the first N + 1 tokens are taken and the targets of the second half are scored, so that all of them
have at least N / 2 tokens before them. They are read

- in sliding windows of W tokens moved by W / 2 (each target has between W / 2 and W tokens of context), for some W;
- whole: the last "window" is all N tokens, and a target has all that stand before it;

and the last `tail` targets once for each of some contexts, cut off exactly there. From these follow

- the loss of a token that stood before, against the distance to its last occurrence (`losses_by_distance`), beside the
  loss of the same tokens in windows of L_train: rare words come back late, so the loss alone says nothing of reading
  far, its fall does;
- the loss of the last tokens against the context given (`NaturalLosses.by_context`);
- perplexity on the tokens that need a long context, by LongPPL (Fang et al., ICLR 2025, arXiv 2410.23771), beside the
  plain one (`key_tokens`). An evaluator, any model with the same tokens, says which these are: with losses in nats,
  LSD = loss in windows of L_train − loss whole > 2, and LCL = −loss whole > −2. The paper's short context is a window
  of 4,096 tokens; ours is of L_train, the longest that no model has been trained beyond.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from wavepos.console import Tally, Update
from wavepos.evaluate.perplexity import TokenLosses, Window, window_losses
from wavepos.storage import flush

LSD_ABOVE, LCL_ABOVE = 2.0, -2.0
"""LongPPL's α and β, in nats."""
GAINED_SHARE = 0.01
Losses = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class NaturalPlan:
    """How documents are read; lengths are in tokens.

    Attributes:
        train_len: L_train, at least 4 and a multiple of 4: the shortest window.
        times: longest context in L_train, a power of two; documents have train_len · times + 1 tokens.
        tail: targets at the end that are scored for each context; less than train_len · times.

    Raises:
        ValueError: a number out of its range.
    """

    train_len: int
    times: int = 64
    tail: int = 256

    def __post_init__(self) -> None:
        if self.train_len < 4 or self.train_len % 4:
            raise ValueError(f"train_len must be a multiple of 4, at least 4, got {self.train_len}")
        if self.times < 2 or self.times & (self.times - 1):
            raise ValueError(f"times must be a power of two, at least 2, got {self.times}")
        if not 1 <= self.tail < self.length:
            raise ValueError(f"tail must lie between 1 and {self.length - 1}, got {self.tail}")

    @property
    def length(self) -> int:
        """N: targets of a document."""
        return self.train_len * self.times

    @property
    def windows(self) -> tuple[int, ...]:
        """W: 1, 2, 4 … times / 2 times L_train; then N, which stands for reading whole."""
        return tuple(self.train_len * 2**i for i in range(self.times.bit_length()))

    @property
    def contexts(self) -> tuple[int, ...]:
        """Tokens before the tail: a quarter of L_train and its doubles, and all that there are."""
        most = self.length - self.tail
        doubles = (self.train_len // 4 * 2**i for i in range(2 + self.times.bit_length()))
        return (*(context for context in doubles if context < most), most)

    def cuts(self) -> list[list[Window]]:
        """The windows of each W over the second half, then one of each context, which scores the tail."""
        half, end = self.length // 2, self.length
        cuts = []
        for window in self.windows[:-1]:
            stride = window // 2
            ends = range(half + stride, end + 1, stride)
            cuts.append([Window(start=last - window, end=last, first_scored=window - stride) for last in ends])
        cuts.append([Window(start=0, end=end, first_scored=half)])
        cuts += [[Window(start=end - self.tail - c, end=end, first_scored=c)] for c in self.contexts]
        return cuts


@dataclass(frozen=True, slots=True, kw_only=True)
class NaturalLosses:
    """−log p in nats of the targets of D documents.

    Attributes:
        by_window: [windows, D, N / 2], float32, in the order of the plan's windows.
        by_context: [contexts, D, tail], float32.
    """

    by_window: Losses
    by_context: Losses

    def save(self, path: Path) -> None:
        """Write it as .npz, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        temporary.unlink(missing_ok=True)  # one that a folder from elsewhere holds may be a link out of it
        try:
            with temporary.open("xb") as file:
                np.savez(file, by_window=self.by_window, by_context=self.by_context)
            flush(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> "NaturalLosses":
        """What `save` wrote."""
        with np.load(path) as found:
            return cls(by_window=found["by_window"], by_context=found["by_context"])


def natural_losses(
    token_losses: TokenLosses,
    documents: Sequence[npt.NDArray[np.integer]],
    plan: NaturalPlan,
    *,
    device: torch.device | str = "cpu",
    update: Update | None = None,
) -> NaturalLosses:
    """The losses of the documents' targets in all ways of the plan.

    Args:
        token_losses: the model's.
        documents: of plan.length + 1 tokens each, the first of which is context alone.
        plan: how they are read.
        device: where the model is.
        update: told of the tokens read.

    Raises:
        ValueError: no documents, or one of another length.
    """
    lengths = {len(document) for document in documents}
    if lengths != {plan.length + 1}:
        raise ValueError(f"documents must have {plan.length + 1} tokens each, and be at least one, got {lengths}")
    cuts = plan.cuts()
    whole = len(plan.windows) - 1
    read = cuts if plan.tail > plan.length // 2 else cuts[:-1]  # the last context is the whole reading's own
    cost = sum(window.end - window.start for windows in read for window in windows)
    tally = Tally(update, len(documents) * cost, "tokens read")
    found = []
    for document in documents:
        rows = [np.concatenate(list(window_losses(token_losses, document, w, tally, device))) for w in read]
        found.append(rows if len(rows) == len(cuts) else [*rows, rows[whole][-plan.tail :]])
    return NaturalLosses(
        by_window=np.stack([[rows[i] for rows in found] for i in range(whole + 1)]).astype(np.float32),
        by_context=np.stack([[rows[i] for rows in found] for i in range(whole + 1, len(cuts))]).astype(np.float32),
    )


def last_distances(documents: Sequence[npt.NDArray[np.integer]], plan: NaturalPlan) -> npt.NDArray[np.int64]:
    """How many tokens back each scored target of the second half stood last, 0 where it never did; int64 [D, N / 2]."""
    return np.stack([_last_distances(document)[plan.length // 2 :] for document in documents])


def _last_distances(document: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Of the targets document[1:]."""
    order = np.argsort(document, kind="stable")
    ids = document[order]
    found = np.zeros(len(document), dtype=np.int64)
    again = ids[1:] == ids[:-1]
    found[order[1:][again]] = (order[1:] - order[:-1])[again]
    return found[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistanceBin:
    """Targets whose last occurrence lies low … high − 1 tokens back; low = 0: that never occurred.

    Attributes:
        low, high: bounds.
        tokens: of them.
        whole: mean loss with the whole context, in nats; None without tokens.
        short: mean loss of the same tokens in windows of L_train.
    """

    low: int
    high: int
    tokens: int
    whole: float | None
    short: float | None

    @property
    def gain(self) -> float | None:
        """What the context beyond L_train is worth, nats per token."""
        return None if self.whole is None or self.short is None else self.short - self.whole


def losses_by_distance(losses: NaturalLosses, distances: npt.NDArray[np.int64]) -> list[DistanceBin]:
    """Losses by the distance to the last occurrence, in bins that double; the first is of new tokens.

    Args:
        losses: of the model.
        distances: of `last_distances`, for the same documents.
    """
    whole, short = losses.by_window[-1].astype(np.float64), losses.by_window[0].astype(np.float64)
    bounds = [(0, 1), *((2**i, 2 ** (i + 1)) for i in range(int(distances.max()).bit_length()))]
    found = []
    for low, high in bounds:
        chosen = (distances >= low) & (distances < high)
        count = int(chosen.sum())
        means = (float(whole[chosen].mean()), float(short[chosen].mean())) if count else (None, None)
        found.append(DistanceBin(low=low, high=high, tokens=count, whole=means[0], short=means[1]))
    return found


def key_tokens(evaluator: NaturalLosses) -> npt.NDArray[np.bool_]:
    """LongPPL's key tokens: those that the evaluator reads well, and only with a long context; bool [D, N / 2]."""
    whole, short = evaluator.by_window[-1], evaluator.by_window[0]
    found: npt.NDArray[np.bool_] = (short - whole > LSD_ABOVE) & (-whole > LCL_ABOVE)
    return found


def most_gained(evaluator: NaturalLosses, share: float = GAINED_SHARE) -> npt.NDArray[np.bool_]:
    """That share of the targets whose loss the evaluator lowers most from windows of L_train to the whole; bool.

    No part of LongPPL: small models gain 2 nats from far context on next to no token, and this has no threshold.

    Args:
        evaluator: its losses.
        share: of the targets, above 0, at most 1; ties at the border are in.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must lie above 0 and at most at 1, got {share!r}")
    gains = evaluator.by_window[0] - evaluator.by_window[-1]
    count = max(1, round(share * gains.size))
    border = np.partition(gains, -count, axis=None)[-count]
    found: npt.NDArray[np.bool_] = gains >= border
    return found


def mean_losses(losses: NaturalLosses, chosen: npt.NDArray[np.bool_] | None = None) -> list[float] | None:
    """Mean loss for each window over all targets, or over some; None where there are none."""
    if chosen is None:
        return [float(one.mean(dtype=np.float64)) for one in losses.by_window]
    if not chosen.any():
        return None
    return [float(one[chosen].mean(dtype=np.float64)) for one in losses.by_window]
