"""wavepos study: comparisons of many runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

from tyro.conf import Positional, arg

from wavepos.cli.command import CORPUS_HELP, METHOD_HELP, Command
from wavepos.names import StudySize


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Study(Command):
    """Run a study: a comparison of methods, seeds, sizes and lengths. What was done before is found again.

    Every run is a directory of its own in --out, shared by all studies. The same command goes on where it was cut off.
    """

    name: Annotated[str, Positional]
    """list; the name of a study; or a Python file with a function study(options)."""
    seeds: int | None = None
    """Seeds 0, 1, … of each method; by default as the study has it."""
    methods: Annotated[
        tuple[str, ...] | None,
        arg(help=f"Names in the study's table, methods ({METHOD_HELP}), or JSON; by default all."),
    ] = None
    size: StudySize | None = None
    """cpu (minutes per run on 2 cores), gpu (minutes per run on one), paper (the paper to the letter)."""
    corpus: Annotated[str | None, arg(help=f"Text to train on: {CORPUS_HELP}")] = None
    evaluator: Path | None = None
    """Of study natural: a model (a run, or saved, with the same tokenizer) that says which tokens need a long context;
    by default the trained model that reads best whole."""
    only: tuple[str, ...] | None = None
    """Rows of the study, by name or by number as --dry-run shows them."""
    known: tuple[Path, ...] = ()
    """Results, such as results/table1-cpu.json, whose runs count as done though their directories are not here."""
    out: Path = Path("runs/studies")
    """Folder of the run directories."""
    report: Path | None = None
    """Directory of the report; by default reports/NAME in --out."""
    jobs: int | None = None
    """Runs side by side; by default one per GPU."""
    slurm: str | None = None
    """Run on a cluster through submitit: partition=NAME,gpus=1,time=8:00:00 (also account, qos, constraint, cpus, mem,
    parallel)."""
    dry_run: bool = False
    """Show all runs with parameters, tokens, time on this machine and memory; train nothing."""
    evaluate_only: bool = False
    """Measure what is trained and report it; train nothing."""
    save_result: bool = False
    """Copy the report's JSON to results/NAME[-SIZE].json, where `study list` finds it."""

    def run(self) -> None:
        """Do what is missing of the study, and report."""
        from wavepos.experiments.catalogue import Execution, print_studies, run_study
        from wavepos.experiments.study import StudyOptions

        if self.name == "list":
            print_studies()
            return
        options = StudyOptions(
            seeds=self.seeds, methods=self.methods, size=self.size, corpus=self.corpus, evaluator=self.evaluator
        )
        execution = Execution(
            out=self.out,
            report=self.report,
            only=self.only,
            known=self.known,
            jobs=self.jobs,
            slurm=self.slurm,
            dry_run=self.dry_run,
            imports=self.imported,
            evaluate_only=self.evaluate_only,
            save_result=self.save_result,
        )
        run_study(self.name, options, execution)
