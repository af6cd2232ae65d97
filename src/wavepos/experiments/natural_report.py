"""The page of study natural: tables with means and ranges over seeds, figures, JSON."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wavepos.data import Split, prepare_split
from wavepos.evaluate.long_documents import sample_documents
from wavepos.evaluate.natural_text import (
    GAINED_SHARE,
    LCL_ABOVE,
    LSD_ABOVE,
    DistanceBin,
    NaturalLosses,
    NaturalPlan,
    last_distances,
    losses_by_distance,
    mean_losses,
)
from wavepos.experiments.exhibits import Shown, TrainedRun
from wavepos.experiments.long_documents_study import NOVELS
from wavepos.experiments.natural_figures import by_context_figure, by_distance_figure, by_window_figure
from wavepos.experiments.plots import line_groups
from wavepos.models.loading import load_saved_tokenizer

PERPLEXITIES: Mapping[str, str] = {
    "by_window": "all tokens",
    "key_by_window": "key tokens",
    "gained_by_window": f"the {GAINED_SHARE:.0%} of tokens that the evaluator gains most from",
}
"""Fields of a method's numbers, and of which tokens they are."""
Documents = Sequence[npt.NDArray[np.integer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NaturalTexts:
    """Whose documents are read, and how.

    Attributes:
        corpus, split: of the documents; of novels, on which no model was trained, the larger split is read.
        documents: how many are drawn.
        seed: of the draw.
        times: longest context in L_train.
        tail: targets scored for each context.
    """

    corpus: str = NOVELS
    split: Split = "train"
    documents: int = 8
    seed: int = 0
    times: int = 64
    tail: int = 256

    def plan(self, train_len: int) -> NaturalPlan:
        """How models of an L_train read them."""
        return NaturalPlan(train_len=train_len, times=self.times, tail=self.tail)

    def drawn(self, directory: Path, plan: NaturalPlan) -> Documents:
        """The documents as the tokenizer of a model's folder cuts them."""
        tokenizer: Any = load_saved_tokenizer(directory)
        tokens = prepare_split(self.corpus, self.split, tokenizer)
        return sample_documents(tokens, tokenizer.eos_token_id, plan.length, self.documents, self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a run gave.

    Attributes:
        run: the run.
        losses: its losses.
    """

    run: TrainedRun
    losses: NaturalLosses


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """The model that says which tokens need a long context.

    Attributes:
        name: as reports name it.
        run: which of the runs it is; None: a model that is none of them.
        keys: LongPPL's key tokens, bool [D, N / 2].
        gained: the tokens that it gains most from, likewise.
    """

    name: str
    run: TrainedRun | None
    keys: npt.NDArray[np.bool_]
    gained: npt.NDArray[np.bool_]


def shown_probes(
    texts: NaturalTexts,
    plan: NaturalPlan,
    documents: Documents,
    probed: Sequence[Probed],
    evaluator: Evaluator,
    left_out: Sequence[TrainedRun],
) -> Shown:
    """The page of the probes.

    Args:
        texts, plan, documents: what was read and how.
        probed: the runs.
        evaluator: whose key tokens are told apart.
        left_out: runs of another L_train.
    """
    names = list(dict.fromkeys(one.run.name for one in probed))
    distances = last_distances(documents, plan)
    methods = {name: _method([one for one in probed if one.run.name == name], distances, evaluator) for name in names}
    baseline = "RoPE" if "RoPE" in names else names[0]
    return Shown(
        title="Natural text: who uses what lies far back",
        lines=list(_lines(texts, plan, methods, evaluator, left_out)),
        figures=_figures(plan, methods, baseline, evaluator),
        data={
            **dataclasses.asdict(texts),
            "train_len": plan.train_len,
            "windows": list(plan.windows),
            "contexts": list(plan.contexts),
            "evaluator": {"name": evaluator.name, "key_tokens": int(evaluator.keys.sum()), "of": evaluator.keys.size},
            "methods": methods,
        },
    )


def _method(probed: Sequence[Probed], distances: npt.NDArray[np.int64], evaluator: Evaluator) -> dict[str, Any]:
    """The numbers of a method: lists with an entry for each seed."""
    return {
        "seeds": [one.run.seed for one in probed],
        "runs": [one.run.folder.name for one in probed],
        "is_evaluator": [one.run == evaluator.run for one in probed],
        "by_distance": [[_bin(b) for b in losses_by_distance(one.losses, distances)] for one in probed],
        "by_context": [one.losses.by_context.mean((1, 2), dtype=np.float64).tolist() for one in probed],
        "by_window": [mean_losses(one.losses) for one in probed],
        "key_by_window": [mean_losses(one.losses, evaluator.keys) for one in probed],
        "gained_by_window": [mean_losses(one.losses, evaluator.gained) for one in probed],
    }


def _bin(found: DistanceBin) -> dict[str, Any]:
    return {**dataclasses.asdict(found), "gain": found.gain}


def _lines(
    texts: NaturalTexts,
    plan: NaturalPlan,
    methods: Mapping[str, Any],
    evaluator: Evaluator,
    left_out: Sequence[TrainedRun],
) -> Iterator[str]:
    length, half = plan.length, plan.length // 2
    keys, targets = int(evaluator.keys.sum()), evaluator.keys.size
    yield (
        f"The first {length:,} tokens of {texts.documents} documents (seed {texts.seed}) of {texts.corpus}, "
        f"{texts.split}; L_train {plan.train_len}. The targets of the second half are scored, {targets:,} in all, so "
        f"that each has {half:,} tokens before it. Cells: the mean over seeds, and their range where there are several."
    )
    yield ""
    yield from _distance_table(plan, methods, "gain", "What the context beyond L_train is worth for a token that")
    yield from _distance_table(plan, methods, "whole", "Loss, read whole, of a token that")
    yield f"| Loss of the last {plan.tail} tokens after a context of | " + _row(f"{c:,}" for c in plan.contexts)
    yield "|---|" + "---:|" * len(plan.contexts)
    for name, one in methods.items():
        yield f"| {name} ({len(one['seeds'])}) | " + _row(map(_cell, zip(*one["by_context"], strict=True)))
    yield ""
    for field, what in PERPLEXITIES.items():
        yield f"| Perplexity of {what}, windows of | " + _row(
            [*(f"{w:,}" for w in plan.windows[:-1]), f"whole ({length:,})"]
        )
        yield "|---|" + "---:|" * len(plan.windows)
        for name, one in methods.items():
            found = [losses for losses in one[field] if losses is not None]
            star = " *" if field != "by_window" and any(one["is_evaluator"]) else ""
            cells = map(_perplexity_cell, zip(*found, strict=True)) if found else ["–"] * len(plan.windows)
            yield f"| {name} ({len(one['seeds'])}){star} | " + _row(cells)
        yield ""
    yield (
        f"Key tokens (LongPPL, arXiv 2410.23771): {keys:,} of {targets:,} ({keys / targets:.1%}), by the evaluator "
        f"{evaluator.name}: its loss falls by more than {LSD_ABOVE:g} nats from windows of L_train to the whole text, "
        f"to less than {-LCL_ABOVE:g}. Where none is given, the evaluator is the model whose mean loss falls most. "
        f"Small models have few key tokens or none; the {GAINED_SHARE:.0%} whose loss falls most have no threshold. "
        "The evaluator's own rows (*) are flattered by the choice. Windows move by half their length."
    )
    if left_out:
        others = sorted({run.train_len for run in left_out})
        yield ""
        yield f"Left out: {len(left_out)} runs with L_train {', '.join(map(str, others))}."


def _distance_table(plan: NaturalPlan, methods: Mapping[str, Any], field: str, what: str) -> Iterator[str]:
    first = next(iter(methods.values()))["by_distance"][0]
    shown = [
        i for i, one in enumerate(first) if one["tokens"] and (one["low"] == 0 or one["low"] >= plan.train_len // 4)
    ]
    heads = [
        "is new" if first[i]["low"] == 0 else f"stood {first[i]['low']:,}–{first[i]['high'] - 1:,} back" for i in shown
    ]
    yield f"| {what} | " + _row(heads)
    yield "|---|" + "---:|" * len(shown)
    yield "| tokens | " + _row(f"{first[i]['tokens']:,}" for i in shown)
    for name, one in methods.items():
        columns = ([bins[i][field] for bins in one["by_distance"]] for i in shown)
        yield f"| {name} ({len(one['seeds'])}) | " + _row(map(_cell, columns))
    yield ""


def _row(cells: Any) -> str:
    return " | ".join(cells) + " |"


def _cell(values: Sequence[float]) -> str:
    mean = f"{sum(values) / len(values):.3f}"
    spread = f" ({min(values):.3f}–{max(values):.3f})" if len(values) > 1 else ""
    return (mean + spread).replace("-", "−")


def _perplexity_cell(losses: Sequence[float]) -> str:
    values = [math.exp(loss) for loss in losses]
    mean = f"{math.exp(sum(losses) / len(losses)):.2f}"
    return mean + (f" ({min(values):.2f}–{max(values):.2f})" if len(values) > 1 else "")


def _figures(plan: NaturalPlan, methods: Mapping[str, Any], baseline: str, evaluator: Evaluator) -> dict[str, Any]:
    found = {}
    for group, names in enumerate(line_groups(list(methods), baseline)):
        end = f"-{group}" if group else ""
        chosen = {name: methods[name] for name in names}
        found[f"distance{end}"] = (
            by_distance_figure(plan, chosen),
            "Above: the loss of tokens that stood before, read whole, against the distance to their last occurrence. "
            "Below: what the context beyond L_train is worth for these tokens. Lines: means over seeds; dots: seeds.",
        )
        found[f"context{end}"] = (
            by_context_figure(plan, chosen),
            f"The loss of the same last {plan.tail} tokens against the context that they are given.",
        )
        found[f"window{end}"] = (
            by_window_figure(plan, chosen, PERPLEXITIES),
            f"Perplexity in sliding windows, of all tokens and of those that {evaluator.name} says need a long "
            "context; the last point is the whole text.",
        )
    return found
