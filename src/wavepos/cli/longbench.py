"""wavepos longbench: LongBench's nine tasks on a model, and the difference of two."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

from tyro.conf import Positional, arg

from wavepos.cli.command import Command
from wavepos.console import console, progress


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LongBench(Command):
    """Answer LongBench's nine tasks with a model, or compare two models that have. The same command goes on."""

    path: Annotated[Path | None, Positional] = None
    """A run of `wavepos train`, or a saved transformers model; none with --compare."""
    max_length: int | None = None
    """Tokens of a prompt; the middle of longer ones is cut out, half of max-length stays at each end."""
    tasks: tuple[str, ...] | None = None
    """Names of tasks, with commas or spaces between them; by default all nine."""
    data: Path | None = None
    """Folder with TASK.jsonl in it or in its data/, or LongBench's data.zip; by default that file from the hub."""
    limit: int | None = None
    """Items of each task, at most, from the first; by default all."""
    device: str | None = None
    """cpu, cuda, …; by default cuda where there is one."""
    trust_remote_code: bool = False
    """Run the code that the model's directory brings along, where its config names some."""
    out: Path | None = None
    """Folder of records and result (default longbench-MAX_LENGTH in path), or of the comparison (longbench-compare)."""
    compare: Annotated[tuple[Path, Path] | None, arg(metavar="A B")] = None
    """Two models with finished results, or folders of results: the scores of A less those of B (Fig. 11)."""

    def run(self) -> None:
        """Answer and print the table, or compare."""
        if self.compare is not None:
            self._compare(self.compare)
            return
        if self.path is None or self.max_length is None:
            raise ValueError("longbench takes a model and --max-length, or --compare A B")
        from wavepos.evaluate.longbench.run import LongBenchConfig, longbench
        from wavepos.experiments.longbench_report import results_table

        given = {} if self.tasks is None else {"tasks": self.tasks}
        config = LongBenchConfig(
            max_length=self.max_length,
            data=self.data,
            limit=self.limit,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            **given,
        )
        with progress("Answering") as update:
            result = longbench(self.path, config, self.out, update)
        console.print(results_table(result))
        console.print(f"Written to {result['path']}", highlight=False, soft_wrap=True)

    def _compare(self, pair: tuple[Path, Path]) -> None:
        from wavepos.experiments.exhibits import write_exhibit
        from wavepos.experiments.longbench_report import compared

        if self.path is not None:
            raise ValueError(f"compare takes two models and no third, got {self.path}")
        shown = compared(*pair, max_length=self.max_length)
        written = write_exhibit("longbench", shown, self.out or Path("longbench-compare"))
        console.print("\n".join(shown.lines), markup=False, highlight=False)
        console.print(f"Report: {written[0]}", highlight=False)
