"""wavepos eval: perplexity of a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, final

from rich.table import Table
from tyro.conf import Positional, arg

from wavepos.cli.command import CORPUS_HELP, Command
from wavepos.console import console, progress


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Eval(Command):
    """Perplexity of a trained model at several lengths, by the three protocols."""

    run_dir: Annotated[Path, Positional]
    """Directory of a run of `wavepos train`."""
    lengths: tuple[int, ...] | None = None
    """Tokens read at once; by default 0.5, 1, 2, 4 and 8 times L_train."""
    corpus: Annotated[
        str | None, arg(help=f"Corpus whose validation split is read; by default the one trained on. {CORPUS_HELP}")
    ] = None
    max_tokens: int | None = None
    """Tokens scored, at most, from the beginning of the split; by default all."""
    documents: int | None = None
    """Read that many long documents instead: the first 4k to 32k tokens of each (or --lengths), in blocks and whole."""
    seed: int = 0
    """Of the choice of the documents."""
    out: Path | None = None
    """File of the result; by default perplexity-CORPUS.json, or long-documents-CORPUS.json, in the run's folder."""

    def run(self) -> None:
        """Score the split, or long documents, and print the table."""
        from wavepos.evaluate.run import evaluate_run, perplexity_path

        if self.documents is not None:
            self._read_documents(self.documents)
            return
        with progress("Reading") as update:
            results = evaluate_run(self.run_dir, self.lengths, self.corpus, self.max_tokens, update)
        table = Table("protocol", "length", "tokens", "perplexity", "per word", "bits per byte", caption_justify="left")
        for entry in results["perplexities"]:
            numbers = ((entry["per_token"], 3), (entry["per_word"], 2), (entry["bits_per_byte"], 4))
            cells = ("–" if value is None else f"{value:.{digits}f}" for value, digits in numbers)
            table.add_row(entry["kind"], str(entry["seq_len"]), f"{entry['tokens']:,}", *cells)
        scored, available = results["perplexities"][0]["tokens"], results["available_tokens"]
        if scored < available:
            table.caption = f"Scored: the first {scored:,} of {available:,} tokens, for --max-tokens cuts."
        console.print(table)
        self._write(results, perplexity_path(self.run_dir, results["corpus"]))

    def _write(self, results: dict[str, Any], default: Path) -> None:
        """Keep the result, which has been shown by then whatever becomes of the file."""
        from wavepos.storage import write_record

        path = self.out or default
        try:
            write_record(path, results)
        except OSError as error:
            raise OSError(
                f"the result could not be written to {path} ({error.strerror or error}): name another file by --out"
            ) from error
        console.print(f"Written to {path}", highlight=False, soft_wrap=True)

    def _read_documents(self, count: int) -> None:
        from wavepos.evaluate.long_documents import evaluate_run_on_long_documents, long_documents_path

        if self.max_tokens is not None:
            raise ValueError("max-tokens does not go with documents: --lengths says how much of each is read")
        with progress("Reading") as update:
            results = evaluate_run_on_long_documents(self.run_dir, self.corpus, self.lengths, count, self.seed, update)
        table = Table("first tokens", f"in blocks of {results['train_len']}", "whole", title=f"{count} documents")
        perplexities = {(e["kind"], e["length"]): e["per_token"] for e in results["results"]}
        for length in dict.fromkeys(length for _, length in perplexities):
            values = (perplexities[kind, length] for kind in ("nonoverlapping", "whole"))
            table.add_row(f"{length:,}", *("–" if value is None else f"{value:.3f}" for value in values))
        console.print(table)
        self._write(results, long_documents_path(self.run_dir, results["corpus"], results["split"]))
