"""Natural text: does a model use what lies far back? Three probes of the models that table1 has trained."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wavepos.console import Update
from wavepos.evaluate.natural_text import NaturalLosses, NaturalPlan, key_tokens, most_gained, natural_losses
from wavepos.evaluate.perplexity import TokenLosses
from wavepos.experiments.exhibits import Shown, trained_seeds
from wavepos.experiments.natural_report import Documents, Evaluator, NaturalTexts, Probed, shown_probes
from wavepos.experiments.study import StudyOptions
from wavepos.models import BaevskiAuliForCausalLM
from wavepos.models.decoder.model import DecoderLM
from wavepos.models.loading import default_device, load_model, weights_digest
from wavepos.runs import model_directory

TEXTS = NaturalTexts()


def natural(options: StudyOptions, root: Path, update: Update) -> Shown:
    """Natural text: who uses what lies far back, token by token?"""
    return probed_texts(options, root, TEXTS, update)


def probed_texts(options: StudyOptions, root: Path, texts: NaturalTexts, update: Update) -> Shown:
    """The probes on some texts.

    Args:
        options: size, corpus and methods, as table1 takes them, and the evaluator.
        root: folder of the run directories.
        texts: what is read.
        update: told of the runs read.

    Raises:
        ValueError: no finished run, models of several tokenizers, or an evaluator with another.
    """
    runs = trained_seeds(options, root)
    if not runs:
        raise ValueError(f"study 'natural' reads finished runs of table1, and {root} holds none of those asked for")
    train_len = min(run.train_len for run in runs)
    left_out = [run for run in runs if run.train_len != train_len]
    runs = [run for run in runs if run.train_len == train_len]
    plan = texts.plan(train_len)
    documents = texts.drawn(model_directory(runs[0].folder), plan)
    probed = []
    for number, run in enumerate(runs):
        _check_tokens(texts, plan, model_directory(run.folder), documents, f"the run in {run.folder}")

        def told(done: float, total: float | None, note: str = "", /, number: int = number) -> None:
            share = done / total if total else 0.0
            update(number + share, len(runs), f"{runs[number].name}, seed {runs[number].seed}: {note}")

        probed.append(Probed(run=run, losses=read_losses(run.folder, run.read_with, documents, plan, told)))
    evaluator = _evaluator(options.evaluator, probed, texts, plan, documents, update)
    return shown_probes(texts, plan, documents, probed, evaluator, left_out)


def read_losses(
    path: Path, read_with: Any, documents: Documents, plan: NaturalPlan, update: Update | None = None
) -> NaturalLosses:
    """The losses of a model on documents; those of each document are kept beside it, in natural/, and found again.

    Args:
        path: a run, or a saved model.
        read_with: JSON of another position to read with; None: its own.
        documents, plan: what is read and how.
        update: told of the documents read.
    """
    asked = [dataclasses.asdict(plan), read_with, weights_digest(model_directory(path))]
    kept = [path / "natural" / f"{_digest(document, asked)}.npz" for document in documents]
    unread = [number for number, file in enumerate(kept) if not file.exists()]
    if unread:
        device = default_device()
        model = load_model(model_directory(path), position=read_with, local_files_only=True).to(device)
        token_losses = losses_of(model)
        for done, number in enumerate(unread):

            def told(part: float, whole: float | None, note: str = "", /, done: int = done) -> None:
                if update is not None:
                    share = part / whole if whole else 0.0
                    update(done + share, len(unread), f"document {done + 1} of {len(unread)}")

            natural_losses(token_losses, [documents[number]], plan, device=device, update=told).save(kept[number])
    found = [NaturalLosses.load(file) for file in kept]
    return NaturalLosses(
        by_window=np.concatenate([one.by_window for one in found], axis=1),
        by_context=np.concatenate([one.by_context for one in found], axis=1),
    )


def _digest(document: npt.NDArray[np.integer], asked: Any) -> str:
    """What was read, how and by which model, as a file name."""
    found = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    found.update(np.asarray(document, dtype="<i8").tobytes())
    return found.hexdigest()[:16]


def losses_of(model: Any) -> TokenLosses:
    """−log p of each target by any causal language model; ours have their own way, some without all logits at once."""
    if isinstance(model, BaevskiAuliForCausalLM | DecoderLM):
        own: TokenLosses = model.token_losses
        return own

    def losses(inputs: Tensor, targets: Tensor) -> Tensor:
        logits = model(inputs, use_cache=False).logits.float()
        return torch.nn.functional.cross_entropy(logits.mT, targets, reduction="none")

    return losses


def _evaluator(
    path: Path | None,
    probed: Sequence[Probed],
    texts: NaturalTexts,
    plan: NaturalPlan,
    documents: Documents,
    update: Update,
) -> Evaluator:
    if path is not None:
        _check_tokens(texts, plan, model_directory(path), documents, f"evaluator {path}")
        losses = read_losses(path, None, documents, plan, update)
        own = next((one.run for one in probed if one.run.folder.resolve() == path.resolve()), None)
        return Evaluator(name=path.name, run=own, keys=key_tokens(losses), gained=most_gained(losses))

    def gain(one: Probed) -> float:
        means = one.losses.by_window.mean((1, 2), dtype=np.float64)
        return float(means[0] - means[-1])

    best = max(probed, key=gain)
    return Evaluator(
        name=f"{best.run.name}, seed {best.run.seed}",
        run=best.run,
        keys=key_tokens(best.losses),
        gained=most_gained(best.losses),
    )


def _check_tokens(texts: NaturalTexts, plan: NaturalPlan, directory: Path, documents: Documents, what: str) -> None:
    """Refuse a model that cuts the texts into other tokens."""
    try:
        theirs = texts.drawn(directory, plan)
    except ValueError:
        theirs = []
    if len(theirs) != len(documents) or not all(map(np.array_equal, theirs, documents)):
        raise ValueError(f"{what} must have the tokenizer of the models that are read, for losses of single tokens")
