"""wavepos demo: small models on real text, in minutes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

from tyro.conf import arg

from wavepos.cli.command import CORPUS_HELP, METHOD_HELP, Command


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Demo(Command):
    """Train small models, one per positional method, on real text; read them at 0.5 to 8 times their length; report.

    What was done before is found again: a run that was cut off goes on where it was; methods and seeds can be added.
    """

    out: Path = Path("runs/demo")
    """Directory of report.html and what belongs to it; the runs are in its folder runs."""
    methods: Annotated[
        tuple[str, ...] | None,
        arg(help=f"Names in the table, methods ({METHOD_HELP}), or JSON; by default all seven of the demo."),
    ] = None
    corpus: Annotated[str, arg(help=CORPUS_HELP)] = "stdlib"
    seeds: int = 1
    """Seeds 0, 1, … of each method."""

    def run(self) -> None:
        """Train, read and report."""
        from wavepos.experiments.catalogue import Execution, run_study
        from wavepos.experiments.demo import demo_reference
        from wavepos.experiments.study import StudyOptions

        options = StudyOptions(seeds=self.seeds, methods=self.methods, corpus=self.corpus)
        execution = Execution(out=self.out / "runs", report=self.out, imports=self.imported)
        run_study("demo", options, execution, demo_reference())
