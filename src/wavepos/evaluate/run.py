"""Perplexity of a finished training run, written beside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from wavepos.console import Update
from wavepos.data import prepare_split
from wavepos.evaluate.perplexity import evaluate_protocols, perplexity_record, table_protocols
from wavepos.models.loading import load_model
from wavepos.provenance import environment, write_json


def finished_run(run_dir: Path) -> dict[str, Any]:
    """run.json of a finished run.

    Raises:
        FileNotFoundError: no run there.
        ValueError: the run is not finished.
    """
    path = run_dir / "run.json"
    if not path.exists():
        raise FileNotFoundError(f"run_dir must be the directory of a run of `wavepos train`: no run.json in {run_dir}")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if record["status"] != "finished":
        raise ValueError(f"the run in {run_dir} is not finished: give its `wavepos train` command again")
    return record


def evaluate_run(
    run_dir: Path, lengths: Sequence[int] | None, corpus: str | None, max_tokens: int, update: Update
) -> dict[str, Any]:
    """Perplexity at several lengths by the three protocols; also written to perplexity-CORPUS.json in the run's folder.

    Args:
        run_dir: directory of a finished run.
        lengths: tokens read at once; None: 0.5, 1, 2, 4 and 8 times L_train.
        corpus: corpus whose validation split is read; None: the one trained on.
        max_tokens: tokens scored, at most.
        update: told of the progress.

    Raises:
        ValueError: max_tokens below 1, an unfinished run, or weights that do not fit the model's config.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    config = finished_run(run_dir)["config"]
    train_len = config["seq_len"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = load_model(run_dir / "model").to(device)
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "model")
    tokens = prepare_split(corpus or config["corpus"], "valid", tokenizer)
    stream = tokens.ids[: max_tokens + 1]
    protocols = table_protocols(lengths or [train_len // 2, *(train_len * 2**i for i in range(4))], train_len)
    scored = 0

    def count(targets: int) -> None:
        nonlocal scored
        scored += targets
        update(scored, len(protocols) * (len(stream) - 1), f"{scored:,} tokens scored")

    results = evaluate_protocols(
        model.token_losses,
        stream,
        protocols,
        words_per_token=tokens.words_per_token,
        device=device,
        progress=count,
    )
    name = "".join(c if c.isalnum() else "-" for c in corpus or config["corpus"])
    path = run_dir / f"perplexity-{name}.json"
    record = {
        "corpus": corpus or config["corpus"],
        "perplexities": [perplexity_record(result) for result in results],
        "environment": environment(),
    }
    write_json(path, record)
    return {**record, "path": path}
