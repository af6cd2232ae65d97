"""The command line: wavepos demo | study | report | train | eval | harness | generate | bench."""

import dataclasses
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.markup import escape
from rich.table import Table

from wavepos.console import console, is_first_process, progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Train small models, one per positional method, on real text; read them at 0.5 to 8 times their length; report.

    What was done before is found again: a run that was cut off goes on where it was; methods and seeds can be added.
    """

    out: Path = Path("runs/demo")
    """Directory of report.html and what belongs to it; the runs are in its folder runs."""
    methods: tuple[str, ...] | None = None
    """Names in the table, methods, or JSON objects; by default all seven of the demo."""
    corpus: str = "stdlib"
    """stdlib | wikitext103[:DIR] | text:PATH | jsonl:PATH[#FIELD] | hf:[ORG/]NAME[/CONFIG][#COLUMN]"""
    seeds: int = 1
    """Seeds 0, 1, … of each method."""

    def run(self) -> None:
        from wavepos.experiments.catalogue import Execution, run_study
        from wavepos.experiments.demo import demo_reference
        from wavepos.experiments.study import StudyOptions

        options = StudyOptions(seeds=self.seeds, methods=self.methods, corpus=self.corpus)
        run_study("demo", options, Execution(out=self.out / "runs", report=self.out), demo_reference())


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Run a study: a comparison of methods, seeds, sizes and lengths. What was done before is found again.

    Every run is a directory of its own in --out, shared by all studies. The same command goes on where it was cut off.
    """

    name: Annotated[str, tyro.conf.Positional]
    """list; the name of a study; or a Python file with a function study(options)."""
    seeds: int | None = None
    """Seeds 0, 1, … of each method; by default as the study has it."""
    methods: tuple[str, ...] | None = None
    """Names in the study's table, methods, or JSON objects; by default all."""
    size: Literal["cpu", "gpu", "paper"] | None = None
    """cpu (minutes per run on 2 cores), gpu (minutes per run on one), paper (the paper to the letter)."""
    corpus: str | None = None
    """Text to train on: stdlib | wikitext103[:DIR] | text:PATH | jsonl:PATH[.gz|.xz|.zst] | hf:NAME[/CONFIG]"""
    only: tuple[str, ...] | None = None
    """Rows of the study, by name or by number as --dry-run shows them."""
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

    def run(self) -> None:
        from wavepos.experiments.catalogue import Execution, print_studies, run_study
        from wavepos.experiments.study import StudyOptions

        if self.name == "list":
            print_studies()
            return
        options = StudyOptions(seeds=self.seeds, methods=self.methods, size=self.size, corpus=self.corpus)
        given = ("out", "report", "only", "jobs", "slurm", "dry_run")
        run_study(self.name, options, Execution(**{field: getattr(self, field) for field in given}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Compare finished runs: tables, differences with intervals, plots, as a page, Markdown, CSV and JSON."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories, or folders of them."""
    out: Path = Path("runs/report")
    """Directory of report.html and what belongs to it."""
    baseline: str | None = None
    """Name of the method that differences are taken to; by default RoPE, or the first."""

    def run(self) -> None:
        from wavepos.experiments.methods import names_by_description
        from wavepos.experiments.report import console_tables, write_report
        from wavepos.experiments.results import runs_result

        result = runs_result(self.runs, self.baseline, names_by_description)
        written = write_report(result, self.out)
        for table in console_tables(result):
            console.print(table)
        console.print(f"Report: {written[0]}", highlight=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train a model with a positional method on a corpus. The same command again resumes, or finds it finished.

    What is not given follows from the size: "paper" is the paper's whole recipe (A.7), a Llama's "7b" that of A.8.
    Processes that torchrun starts train together.
    """

    method: str
    """nope, rotary, alibi, kerple, t5, shaw, transformer_xl, wavelet, learned_relative, one of your own, or a JSON
    object such as '{"method": "rotary", "theta": 5e5}'."""
    model: Literal["baevski-auli", "llama"] = "baevski-auli"
    """The family of the model."""
    size: Literal["tiny", "small", "paper", "1b", "7b"] = "tiny"
    """tiny (minutes on a CPU), small (minutes on a GPU), baevski-auli's paper (247M parameters), llama's 1b and 7b."""
    start_from: str | None = None
    """Directory or hub name of a trained Llama to go on from, with its tokenizer; size then names the recipe alone."""
    corpus: str = "stdlib"
    """stdlib | wikitext103[:DIR] | text:PATH | jsonl:PATH[#FIELD] | hf:[ORG/]NAME[/CONFIG][#COLUMN]"""
    out: Path | None = None
    """Run directory; by default runs/[llama-]SIZE-POSITION-CORPUS-SEED."""
    tokenizer: str | None = None
    """bpe:SIZE, words, or file:DIR of a saved tokenizer."""
    max_tokens: int | None = None
    """Bound on the training tokens, for streamed corpora."""
    seq_len: int | None = None
    """L_train, tokens per block."""
    steps: int | None = None
    """Updates."""
    batch_tokens: int | None = None
    """Tokens per update, over all devices."""
    micro_batch_tokens: int | None = None
    """Tokens of one forward pass on one device."""
    optimizer: Literal["adamw", "nag"] | None = None
    """adamw, or nag (fairseq's Nesterov momentum 0.99)."""
    learning_rate: float | None = None
    """The highest learning rate."""
    warmup_steps: int | None = None
    """Updates until it is reached."""
    final_learning_rate: float | None = None
    """The learning rate of the last update."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """auto: bf16 where the hardware multiplies it."""
    gradient_checkpointing: bool = False
    """Keep each layer's input only and compute the layer again in the backward pass."""
    sharding: Literal["none", "fsdp"] = "none"
    """fsdp: every GPU keeps its share of the weights, gradients and optimizer state."""
    seed: int | None = None
    """Of the initial weights, the order of the data and dropout."""
    save_every: int | None = None
    """Updates between checkpoints."""
    validate_every: int | None = None
    """Updates between two looks at the loss of the valid split; by default none is taken."""
    dry_run: bool = False
    """Print the whole config, the parameters and a memory plan; train nothing, read no data."""
    devices: int | None = None
    """Devices to plan for in a dry run; otherwise torchrun's."""

    def run(self) -> None:
        from wavepos.positions import position_fields
        from wavepos.training.recipes import recipe
        from wavepos.training.trainer import train

        devices = self._num_devices()
        position = position_fields(self.method)
        base = recipe(
            self.size,
            corpus=self.corpus,
            position=position,
            model=self.model,
            start_from=self.start_from,
        )
        known = {field.name for field in dataclasses.fields(base)} - {"model", "size", "corpus", "position"}
        given = {name: getattr(self, name) for name in known if getattr(self, name, None) is not None}
        if "steps" in given and "warmup_steps" not in given:
            given["warmup_steps"] = min(base.warmup_steps, given["steps"] // 10)
        config = dataclasses.replace(base, **given)
        if self.dry_run:
            from wavepos.training.memory import print_plan

            print_plan(config, devices)
            return
        from wavepos.data import prepare
        from wavepos.runs import position_name, run_name
        from wavepos.training.processes import leave

        out = self.out or Path("runs") / run_name(config)
        with progress("Reading the corpus") as update:
            data = prepare(
                config.corpus,
                config.tokenizer,
                max_tokens=config.max_tokens,
                progress=lambda stage, done, total: update(done, total, stage),
            )
        with progress(f"Training {self.size} with {position_name(config)}") as update:
            record = train(
                config, out, data, lambda step, steps, loss: update(step, steps, f"loss {loss:.3f}" if loss else "")
            )
        leave()
        if is_first_process():
            console.print(f"{record['parameters']:,} parameters, last loss {record['losses'][-1][1]:.3f}, in {out}")

    def _num_devices(self) -> int:
        if self.devices is None:
            return int(os.environ.get("WORLD_SIZE", "1"))
        if self.devices < 1 or not self.dry_run:
            raise ValueError(f"devices takes at least 1, with --dry-run, got {self.devices}: torchrun starts real ones")
        return self.devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Eval:
    """Perplexity of a trained model at several lengths, by the three protocols."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Directory of a run of `wavepos train`."""
    lengths: tuple[int, ...] | None = None
    """Tokens read at once; by default 0.5, 1, 2, 4 and 8 times L_train."""
    corpus: str | None = None
    """Corpus whose validation split is read; by default the one trained on."""
    max_tokens: int | None = None
    """Tokens scored, at most, from the beginning of the split; by default all."""
    documents: int | None = None
    """Read that many long documents instead: the first 4k to 32k tokens of each (or --lengths), in blocks and whole."""
    seed: int = 0
    """Of the choice of the documents."""

    def run(self) -> None:
        from wavepos.evaluate.run import evaluate_run

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
        console.print(f"Written to {results['path']}", highlight=False)

    def _read_documents(self, count: int) -> None:
        from wavepos.evaluate.long_documents import evaluate_run_on_long_documents

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
        console.print(f"Written to {results['path']}", highlight=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """Evaluate a model with lm-eval: long texts, a passkey, needles at several lengths, or any of its tasks."""

    path: Annotated[Path, tyro.conf.Positional]
    """A run of `wavepos train`, or a saved transformers model."""
    max_length: int
    """Tokens the model may read at once; lm-eval's own choice would cut long inputs to the trained length."""
    tasks: str = "wavepos_perplexity,wavepos_passkey,niah_single_1"
    """Names with commas between them."""
    lengths: tuple[int, ...] | None = None
    """Tokens that those three are measured at; by default max-length alone."""
    limit: int | None = None
    """Documents of a task and length, at most; by default all."""
    batch_size: int = 1
    """Inputs read together."""
    corpus: str = "stdlib"
    """Whose long texts are read, those of the validation split."""
    out: Path | None = None
    """File of the result; by default harness-TASKS.json in path."""

    def run(self) -> None:
        from wavepos.evaluate.harness import harness, results_table
        from wavepos.evaluate.harness_plan import HarnessConfig

        settings = ("max_length", "lengths", "limit", "batch_size", "corpus")
        config = HarnessConfig(tasks=tuple(self.tasks.split(",")), **{name: getattr(self, name) for name in settings})
        with progress("Evaluating") as update:
            record = harness(self.path, config, self.out, update)
        console.print(results_table(record))
        console.print(f"Written to {record['path']}", highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Continue a prompt with a trained model."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Directory of a run of `wavepos train`."""
    prompt: str = "def "
    """The text to continue."""
    max_new_tokens: int = 100
    """Tokens to add."""
    temperature: float = 0.8
    """0: the likeliest token each time."""
    seed: int = 0
    """Of the sampling."""

    def run(self) -> None:
        from wavepos.generate import generate_text

        if self.temperature < 0.0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        text = generate_text(self.run_dir, self.prompt, self.max_new_tokens, self.temperature, self.seed)
        console.print(text, markup=False, highlight=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Measure time and memory beside other ways to do the same; needs a checkout of the source.

    Every method is first checked against the reference; if one is wrong, nothing is measured (exit status 2). What is
    not given follows from the device. The result is written after each measurement.
    """

    what: Annotated[Literal["all", "attention", "decode", "train-step", "generate"], tyro.conf.Positional] = "all"
    """attention: a call at several lengths; decode: a token with a cache; train-step: a step of a small model;
    generate: tokens per second of a Llama."""
    lengths: tuple[int, ...] | None = None
    """Tokens; for decode, keys in the cache."""
    dtypes: tuple[str, ...] | None = None
    """Of fp32, bf16, fp16."""
    peers: tuple[str, ...] | None = None
    """Methods by their names in benchmarks/peers; wavelet@banded names the backend too."""
    heads: int | None = None
    """Query heads."""
    head_dim: int | None = None
    """Size of a head."""
    batch: int | None = None
    """Sequences a call."""
    sizes: tuple[Literal["tiny", "small", "paper", "1b", "7b"], ...] | None = None
    """Models of train-step and generate."""
    batch_tokens: int | None = None
    """Tokens per step of train-step."""
    repeats: int | None = None
    """Pairs of interleaved runs of each measurement, at most."""
    seconds: float | None = None
    """Time after which a measurement begins no more pairs, once it has three."""
    max_gib: float | None = None
    """Methods with L² memory are left out where they would hold more, in GiB."""
    device: str | None = None
    """cpu, or cuda; by default cuda where there is one."""
    out: Path = Path("results")
    """Directory of the result and its plots."""
    resume: bool = False
    """Keep what the same commit measured on this machine with the same settings."""

    def run(self) -> None:
        root = Path(__file__).resolve().parents[2]
        if not (root / "benchmarks" / "run.py").is_file():
            raise ValueError("bench needs a checkout of the source, for benchmarks/ is not installed: run `make bench`")
        sys.path.insert(0, str(root))
        from benchmarks.run import run_benchmarks

        settings = ("lengths", "dtypes", "peers", "head_dim", "batch", "sizes", "batch_tokens", "repeats", "seconds")
        given = {name: getattr(self, name) for name in (*settings, "max_gib")} | {"num_heads": self.heads}
        given = {name: value for name, value in given.items() if value is not None}
        run_benchmarks(self.what, self.device, given, self.out, self.resume)


def main() -> None:
    """Entry point of the `wavepos` command."""
    _quiet()
    command: Any = tyro.cli(
        Annotated[Demo, tyro.conf.subcommand("demo")]
        | Annotated[Study, tyro.conf.subcommand("study")]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Eval, tyro.conf.subcommand("eval")]
        | Annotated[Harness, tyro.conf.subcommand("harness")]
        | Annotated[Generate, tyro.conf.subcommand("generate")]
        | Annotated[Bench, tyro.conf.subcommand("bench")],
        prog="wavepos",
        description="Wavelet positional representations for Transformers: train on short sequences, read long ones.",
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    try:
        command.run()
    except KeyboardInterrupt as stop:
        if is_first_process():
            console.print(f"[yellow]Interrupted.[/] {stop or ''} The same command goes on from there.")
        sys.exit(130)
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("WAVEPOS_TRACEBACK"):
            raise
        console.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


def _quiet() -> None:
    """Leave the console to our own progress."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)


if __name__ == "__main__":
    main()
