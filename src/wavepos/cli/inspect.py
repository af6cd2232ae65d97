"""wavepos inspect: what the heads of a model prefer and where they look."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

from tyro.conf import Positional, arg

from wavepos.cli.command import CORPUS_HELP, Command, check_unicode
from wavepos.console import console, progress


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Inspect(Command):
    """What each head of a model prefers, how far it looks, what reaches the prediction; or one text, token by token."""

    path: Annotated[Path, Positional]
    """A run of `wavepos train`, or a saved model of wavepos with its tokenizer."""
    text: str | None = None
    """Write a page of this text instead: point at a token, or go by the arrow keys, to see what it attends to."""
    text_file: Path | None = None
    """The same with the beginning of a file."""
    length: int | None = None
    """Tokens of a text; by default 4 times L_train (1024 for a model without a run), of a page 128 at most."""
    texts: int = 8
    """Texts read."""
    corpus: Annotated[
        str | None, arg(help=f"Whose validation split is read; by default that of the run. {CORPUS_HELP}")
    ] = None
    out: Path | None = None
    """Folder of the report; by default inspect in path."""

    def run(self) -> None:
        """Write the report, or the page of a text."""
        from wavepos.experiments.inspect_report import opened

        if self.text is not None and self.text_file is not None:
            raise ValueError("text and text-file are two ways to give one text, got both")
        check_unicode("text", self.text or "")
        model = opened(self.path)
        out = self.out or self.path / "inspect"
        if self.text is not None or self.text_file is not None:
            from wavepos.experiments.text_page import write_text_page

            page = write_text_page(model, self.text, self.text_file, self.length, out)
            console.print(f"Page: {page} ({page.stat().st_size / 2**20:.2f} MiB)", highlight=False, soft_wrap=True)
            return
        from wavepos.experiments.exhibits import write_exhibit
        from wavepos.experiments.inspect_report import console_table, distance_rows, inspected, preference_rows

        with progress("Reading") as update:
            found, shown = inspected(model, self.corpus, self.length, self.texts, update)
        written = write_exhibit("inspect", shown, out)
        console.print(console_table("Mean attention distance, tokens back", distance_rows(found)))
        own = any(bool((layer.own_HN != 0.0).any()) for layer in found.layers)
        heading = "What each head prefers by itself" if own else "What each head prefers, with the text's queries"
        console.print(console_table(f"{heading}: score δ back less that at 0", preference_rows(found, own=own)))
        console.print(f"Report: {written[0]}", highlight=False, soft_wrap=True)
