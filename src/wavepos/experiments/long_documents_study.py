"""Table 2 on the documents at hand: perplexity of the beginnings of long documents, in blocks of L_train and whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wavepos.console import Update
from wavepos.data import Split
from wavepos.evaluate.long_documents import evaluate_run_on_long_documents, long_documents_path
from wavepos.experiments.exhibits import Shown, missing_lines, trained_runs
from wavepos.experiments.intervals import mean_interval
from wavepos.experiments.study import StudyOptions
from wavepos.experiments.tables import BLOCKS, difference_text
from wavepos.storage import read_record, write_record

NOVELS = "jsonl:../shared/data/novels.jsonl.xz"
METHODS = ("RoPE", "RoPE, theta = L_train", "ALiBi", "Wavelet", "Wavelet, recency start")
LENGTHS = (1024, 2048, 4096, 8192)
DOCUMENTS = 29
SEED = 0
SPLIT: Split = "train"
"""Of the novels, which no model was trained on; the other holds few."""


def table2(options: StudyOptions, root: Path, update: Update) -> Shown:
    """Table 2: what do long documents cost, in blocks and whole, document by document?"""
    runs, missing = trained_runs(options, root, METHODS)
    records = {name: _read(run, update) for name, run in runs.items()}
    lines = [
        f"The first {LENGTHS[0]:,} to {LENGTHS[-1]:,} tokens of {DOCUMENTS} novels, the same for all methods. Lengths "
        "are nested, so what falls with the length in blocks of L_train is the text, not the use of context.",
        *missing_lines(missing),
        "",
    ]
    for kind in ("nonoverlapping", "whole"):
        lines += [*_table(records, kind), ""]
    baseline = "RoPE" if "RoPE" in records else next(iter(records), "")
    for kind in ("nonoverlapping", "whole"):
        lines += [*_differences(records, kind, baseline), ""]
    return Shown(title="Table 2: long documents, in blocks and whole", lines=lines, data={"runs": records})


def _read(run: Path, update: Update) -> dict[str, Any]:
    """The record of a run, read now unless it was before."""
    path = long_documents_path(run, NOVELS, SPLIT)
    if path.exists():
        record = read_record(path, "delete it, and it is measured again")
        lengths = {result["length"] for result in record["results"]}
        if (record["documents"], record["seed"], lengths) == (DOCUMENTS, SEED, set(LENGTHS)):
            return record
    measured = evaluate_run_on_long_documents(run, NOVELS, LENGTHS, DOCUMENTS, SEED, update, SPLIT)
    write_record(path, measured)
    return measured


def _table(records: dict[str, dict[str, Any]], kind: str) -> Iterator[str]:
    yield f"| {BLOCKS[kind]} | " + " | ".join(f"{length:,}" for length in LENGTHS) + " |"
    yield "|---|" + "---:|" * len(LENGTHS)
    for name, record in records.items():
        values = {r["length"]: r["per_token"] for r in record["results"] if r["kind"] == kind}
        yield f"| {name} | " + " | ".join(_shown(values[length]) for length in LENGTHS) + " |"


def _shown(value: float | None) -> str:
    return "inf" if value is None else f"{value:.2f}"


def _differences(records: dict[str, dict[str, Any]], kind: str, baseline: str) -> Iterator[str]:
    """Mean difference to the baseline over documents in nats per token, its 95% interval: documents are the sample."""
    if len(records) < 2:
        return
    yield (
        f"| Difference to {baseline}, nats per token, {BLOCKS[kind]} | " + " | ".join(f"{n:,}" for n in LENGTHS) + " |"
    )
    yield "|---|" + "---:|" * len(LENGTHS)
    nats = {
        name: {r["length"]: r["nats"] for r in one["results"] if r["kind"] == kind} for name, one in records.items()
    }
    for name in records:
        if name == baseline:
            continue
        cells = []
        for length in LENGTHS:
            pairs = zip(nats[name][length], nats[baseline][length], strict=True)
            difference = mean_interval([(ours - theirs) / length for ours, theirs in pairs])
            text = difference_text(difference)
            cells.append(f"**{text}**" if difference.leaves_out_zero else text)
        yield f"| {name} | " + " | ".join(cells) + " |"
