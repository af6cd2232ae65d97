"""wavepos report: any finished runs beside each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

from tyro.conf import Positional

from wavepos.cli.command import Command
from wavepos.console import console


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Command):
    """Compare finished runs: tables, differences with intervals, plots, as a page, Markdown, CSV and JSON."""

    runs: Annotated[tuple[Path, ...], Positional]
    """Run directories, or folders of them."""
    out: Path = Path("runs/report")
    """Directory of report.html and what belongs to it."""
    baseline: str | None = None
    """Name of the method that differences are taken to; by default RoPE, or the first."""

    def run(self) -> None:
        """Write the report and print its tables."""
        from wavepos.experiments.methods import table1_methods
        from wavepos.experiments.report import console_tables, write_report
        from wavepos.experiments.results import runs_result

        result = runs_result(self.runs, self.baseline, table1_methods)
        written = write_report(result, self.out)
        for table in console_tables(result):
            console.print(table)
        console.print(f"Report: {written[0]}", highlight=False)
