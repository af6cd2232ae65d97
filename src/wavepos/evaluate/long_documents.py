"""Perplexity of long documents (section 7, Table 2): the beginnings of the same documents, in blocks and whole.

Of each document the first 4k … 32k tokens are scored, cut into blocks of L_train that are read alone, and read whole.
The lengths are nested: in blocks of 4k tokens nats(8k) = nats(4k) + nats(the second block). So a fall with the length
in blocks comes from the text, not from context, and both are reported.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wavepos.console import Tally, Update
from wavepos.data import Split, TokenFile, prepare_split
from wavepos.data.corpora import corpus_of_run
from wavepos.evaluate.perplexity import Protocol, TokenLosses, Window, perplexity_of, table_protocols, window_nats
from wavepos.models.loading import default_device, load_model, load_saved_tokenizer
from wavepos.runs import MODEL, environment, finished_config, slug

LENGTHS = (4096, 8192, 16_384, 32_768)
NUM_DOCUMENTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LongDocuments:
    """The outcome of one protocol over all documents.

    Args:
        protocol: "nonoverlapping" or "whole"; its seq_len is the tokens scored of each document.
        nats: of each document, the sum of −log p of those tokens.
    """

    protocol: Protocol
    nats: tuple[float, ...]

    @property
    def per_token(self) -> float:
        """exp(nats / tokens) over all documents; infinite where it is beyond float64."""
        return perplexity_of(math.fsum(self.nats), len(self.nats) * self.protocol.seq_len)


def sample_documents(
    tokens: TokenFile, end: int, min_tokens: int, num_documents: int = NUM_DOCUMENTS, seed: int = 0
) -> list[npt.NDArray[np.unsignedinteger]]:
    """Documents of a token file that have at least min_tokens tokens, drawn without replacement, in the file's order.

    Args:
        tokens: the token file.
        end: id of the token that stands before and after each document.
        min_tokens: tokens of a document, its end not counted, at least.
        num_documents: how many are drawn.
        seed: of the draw.

    Returns:
        For each the end before it and its first min_tokens tokens, [min_tokens + 1]: as many targets as min_tokens.

    Raises:
        ValueError: there are fewer such documents.
    """
    ids = tokens.ids
    ends = np.flatnonzero(ids == end)
    starts = ends[:-1][np.diff(ends) - 1 >= min_tokens]
    if len(starts) < num_documents:
        raise ValueError(
            f"documents must be at most those of the {tokens.split} split of corpus {tokens.corpus!r} with "
            f"{min_tokens:,} tokens or more, which are {len(starts)}, got {num_documents}"
        )
    drawn = np.sort(np.random.default_rng(seed).choice(starts, size=num_documents, replace=False))
    return [ids[start : start + min_tokens + 1] for start in drawn]


def evaluate_long_documents(
    token_losses: TokenLosses,
    documents: Sequence[npt.NDArray[np.integer]],
    lengths: Sequence[int],
    train_len: int,
    *,
    device: torch.device | str = "cpu",
    update: Update | None = None,
) -> list[LongDocuments]:
    """Perplexity of the documents' beginnings, in blocks of train_len and whole at each length.

    Blocks that several lengths share are read once.

    Args:
        token_losses: the model's losses; called without gradients.
        documents: streams of at least max(lengths) + 1 tokens, the first of which is context only.
        lengths: tokens scored of each.
        train_len: tokens of a block.
        device: where the model is.
        update: told of the tokens read.
    """
    tally = Tally(update, len(documents) * tokens_read(lengths, train_len), "tokens read")
    protocols = _protocols(lengths, train_len)
    plans = [protocol.windows(protocol.seq_len) for protocol in protocols]
    distinct = _distinct_windows(plans)
    nats: list[list[float]] = [[] for _ in protocols]
    for document in documents:
        of_window = dict(zip(distinct, window_nats(token_losses, document, distinct, tally, device), strict=True))
        for sums, plan in zip(nats, plans, strict=True):
            sums.append(math.fsum(of_window[window] for window in plan))
    return [LongDocuments(protocol=p, nats=tuple(sums)) for p, sums in zip(protocols, nats, strict=True)]


def tokens_read(lengths: Sequence[int], train_len: int) -> int:
    """Tokens that a model reads of each document: each block and each length once."""
    plans = [protocol.windows(protocol.seq_len) for protocol in _protocols(lengths, train_len)]
    return sum(window.end - window.start for window in _distinct_windows(plans))


def _protocols(lengths: Sequence[int], train_len: int) -> list[Protocol]:
    return table_protocols(lengths, train_len, ("nonoverlapping", "whole"))


def _distinct_windows(plans: Sequence[Sequence[Window]]) -> list[Window]:
    """The windows of all plans, each once, those of one length side by side."""
    return sorted({window for plan in plans for window in plan}, key=lambda w: (w.end - w.start, w.start))


def evaluate_run_on_long_documents(
    run_dir: Path,
    corpus: str | None,
    lengths: Sequence[int] | None,
    num_documents: int,
    seed: int,
    update: Update,
    split: Split = "valid",
) -> dict[str, Any]:
    """Perplexity of a finished run on long documents.

    Args:
        run_dir: directory of a finished run.
        corpus: whose documents are read; None: the one trained on.
        lengths: tokens scored of each document; None: 4k, 8k, 16k and 32k.
        num_documents: how many are drawn.
        seed: of the draw.
        update: told of the progress.
        split: that the documents are of; of a corpus that was not trained on, any is held out.
    """
    config = finished_config(run_dir)
    lengths, corpus = sorted(lengths or LENGTHS), corpus or corpus_of_run(run_dir, config)
    device = default_device()
    model: Any = load_model(run_dir / MODEL).to(device)
    tokenizer = load_saved_tokenizer(run_dir / MODEL)
    tokens = prepare_split(corpus, split, tokenizer)
    documents = sample_documents(tokens, tokenizer.eos_token_id, lengths[-1], num_documents, seed)
    results = evaluate_long_documents(
        model.token_losses, documents, lengths, config["seq_len"], device=device, update=update
    )
    return {
        "corpus": corpus,
        "split": split,
        "documents": num_documents,
        "seed": seed,
        "train_len": config["seq_len"],
        "results": [
            {
                "kind": result.protocol.kind,
                "length": result.protocol.seq_len,
                "per_token": result.per_token if math.isfinite(result.per_token) else None,
                "nats": list(result.nats),
            }
            for result in results
        ],
        "environment": environment(),
    }


def long_documents_path(run_dir: Path, corpus: str, split: Split) -> Path:
    """Where the result for a corpus lies: long-documents-CORPUS[-SPLIT].json."""
    return run_dir / f"long-documents-{slug(corpus)}{'' if split == 'valid' else f'-{split}'}.json"
