"""Perplexity of a finished training run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wavepos.console import Update
from wavepos.data import TokenFile, prepare_split
from wavepos.data.corpora import corpus_of_run
from wavepos.data.preparation import valid_bound
from wavepos.evaluate.perplexity import TextSize, evaluate_protocols, perplexity_record, table_protocols
from wavepos.models.loading import default_device, load_model, load_saved_tokenizer
from wavepos.runs import MODEL, RECORD, environment, finished_config, slug


def evaluate_run(
    run_dir: Path, lengths: Sequence[int] | None, corpus: str | None, max_tokens: int | None, update: Update
) -> dict[str, Any]:
    """Perplexity at several lengths by the three protocols.

    Args:
        run_dir: directory of a finished run.
        lengths: tokens read at once; None: 0.5, 1, 2, 4 and 8 times L_train.
        corpus: corpus whose validation split is read; None: the one trained on, bounded as in training.
        max_tokens: tokens scored, at most, of the beginning of the split; None: all.
        update: told of the progress.

    Raises:
        ValueError: max_tokens below 2, an unfinished or damaged run, or weights that do not fit the model's config.
        FloatingPointError: a loss is not finite.
    """
    if max_tokens is not None and max_tokens < 2:
        raise ValueError(f"max_tokens must be at least 2, got {max_tokens}")
    if not (run_dir / RECORD).exists() and (run_dir / "config.json").exists():
        raise ValueError(
            f"eval reads runs of `wavepos train`, which say what was trained on and at which length, and {run_dir} is "
            "a saved model: wavepos harness --tasks long_text_perplexity --corpus … --lengths … reads it"
        )
    config = finished_config(run_dir)
    train_len = config["seq_len"]
    bound = valid_bound(config.get("max_tokens")) if corpus is None else None
    corpus = corpus or corpus_of_run(run_dir, config)
    device = default_device()
    model: Any = load_model(run_dir / MODEL).to(device)
    tokenizer = load_saved_tokenizer(run_dir / MODEL)
    tokens = prepare_split(corpus, "valid", tokenizer, max_tokens=bound, ended=False)
    available = tokens.num_tokens - 1
    if max_tokens is not None and max_tokens < available:
        tokens = prepare_split(corpus, "valid", tokenizer, max_tokens=max_tokens + 1, ended=False)
    protocols = table_protocols(lengths or [train_len // 2, *(train_len * 2**i for i in range(4))], train_len)
    results = evaluate_protocols(
        model.token_losses, tokens.ids, protocols, text=text_size(tokens), device=device, update=update
    )
    return {
        "corpus": corpus,
        "available_tokens": available,
        "perplexities": [perplexity_record(result) for result in results],
        "environment": environment(),
    }


def perplexity_path(run_dir: Path, corpus: str) -> Path:
    """Where the result for a corpus lies, unless another place is given: perplexity-CORPUS.json in the run's folder."""
    return run_dir / f"perplexity-{slug(corpus)}.json"


def text_size(tokens: TokenFile) -> TextSize | None:
    """What the targets of a token file make up; exact for one that was prepared with ended=False."""
    return None if tokens.num_bytes is None else TextSize(tokens.num_words, tokens.num_bytes)
