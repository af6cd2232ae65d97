"""Table 5 of the data at hand: how many documents there are, and how long."""

import statistics
from pathlib import Path
from typing import Any

from wavepos.console import Update
from wavepos.data import open_corpus
from wavepos.experiments.exhibits import Shown
from wavepos.experiments.long_documents_study import NOVELS
from wavepos.experiments.published import TABLE5
from wavepos.experiments.study import StudyOptions
from wavepos.experiments.table1 import WIKIPEDIA, WIKITEXT

TEXTS = (WIKIPEDIA, WIKITEXT, "stdlib", NOVELS)


def table5(options: StudyOptions, root: Path, update: Update) -> Shown:
    """Table 5: how long are the texts at hand, beside LongBench's?"""
    found, absent = {}, []
    texts = (options.corpus,) if options.corpus else TEXTS
    for number, spec in enumerate(texts):
        update(number, len(texts), spec)
        try:
            found[spec] = text_statistics(spec)
        except FileNotFoundError as error:
            absent.append(f"- Not here: {error}")
    lines = ["Held-out split of the texts that models are read on here.", ""]
    lines += ["| text | documents | words | words a document: mean | median | longest |", "|---|" + "---:|" * 5]
    for spec, one in found.items():
        counts = (one["documents"], one["words"], one["mean_words"], one["median_words"], one["longest_words"])
        lines.append(f"| {spec} | " + " | ".join(f"{round(value):,}" for value in counts) + " |")
    lines += ["", *absent, "", "The paper's Table 5 (LongBench, which is not read here):", ""]
    lines += ["| set | samples | words: mean | metric |", "|---|---:|---:|---|"]
    lines += [f"| {name} | {one.samples} | {one.average_length:,} | {one.metric} |" for name, one in TABLE5.items()]
    return Shown(title="Table 5: the texts at hand", lines=lines, data={"texts": found})


def text_statistics(spec: str) -> dict[str, Any]:
    """Documents, words and UTF-8 bytes of the valid split of a corpus.

    Args:
        spec: as `open_corpus` takes it.

    Raises:
        FileNotFoundError: the text is not here.
    """
    corpus = open_corpus(spec)
    words, num_bytes = [], 0
    for text in corpus.documents("valid"):
        words.append(corpus.count_words(text))
        num_bytes += len(text.encode())
    return {
        "documents": len(words),
        "words": sum(words),
        "bytes": num_bytes,
        "mean_words": statistics.fmean(words),
        "median_words": statistics.median(words),
        "longest_words": max(words),
    }
