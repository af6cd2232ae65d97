"""wavepos harness: lm-eval on a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

from tyro.conf import OmitArgPrefixes, Positional

from wavepos.cli.command import Command
from wavepos.console import console, progress
from wavepos.evaluate.harness.plan import HarnessConfig


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Harness(Command):
    """Evaluate a model with lm-eval: long texts, a passkey, needles at several lengths, or any of its tasks."""

    path: Annotated[Path, Positional]
    """A run of `wavepos train`, or a saved transformers model."""
    out: Path | None = None
    """File of the result; by default harness-TASKS.json in path."""
    config: OmitArgPrefixes[HarnessConfig]

    def run(self) -> None:
        """Call lm-eval for each task and length, and print the table."""
        from wavepos.evaluate.harness.run import harness, results_table

        with progress("Evaluating") as update:
            record = harness(self.path, self.config, self.out, update)
        console.print(results_table(record))
        console.print(f"Written to {record['path']}", highlight=False, soft_wrap=True)
