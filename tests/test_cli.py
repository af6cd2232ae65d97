"""The command line as a user meets it."""

import dataclasses
import json
import math
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from wavepos import __version__
from wavepos.cli import main, parsed
from wavepos.cli.command import told
from wavepos.cli.harness import Harness
from wavepos.cli.train import Train
from wavepos.evaluate.harness.plan import HarnessConfig
from wavepos.experiments import catalogue
from wavepos.experiments.tasks import Task, task_from_json
from wavepos.names import CORPORA, METHODS, ModelName
from wavepos.positions import registry
from wavepos.positions.registry import BUILT_IN
from wavepos.training.recipes import size_recipe

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left: its exit status and all that it printed."""

    status: int
    output: str


@pytest.fixture
def wavepos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["wavepos", *arguments])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Done(status, captured.out + captured.err)

    return call


HEAVY = ("torch", "transformers", "numpy", "datasets", "matplotlib")
COMMANDS = ("demo", "study", "report", "train", "eval", "harness", "longbench", "inspect", "generate")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_shown_without_importing_torch(command: str) -> None:
    program = (
        "import sys\nfrom wavepos.cli import main\nsys.argv = ['wavepos', *sys.argv[1:], '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    words = [sys.executable, "-c", program, *([command] if command else [])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert ("--import" if command else "subcommands") in done.stdout
    for name in () if command else COMMANDS:
        assert f"• {name}" in done.stdout


def test_python_m_runs_the_command_and_version_prints_the_version() -> None:
    command = [sys.executable, "-m", "wavepos.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == f"wavepos {__version__}\n"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__


def help_text(wavepos: Callable[..., Done], *arguments: str) -> str:
    done = wavepos(*arguments, "--help")
    assert done.status == 0, done.output
    return " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize("command", ["demo", "study", "train"])
def test_help_names_every_method_and_corpus(command: str, wavepos: Callable[..., Done]) -> None:
    text = help_text(wavepos, command)
    assert ", ".join(config.method for config in BUILT_IN) in text
    assert " | ".join(CORPORA) in text


def test_the_light_list_of_methods_is_that_of_the_configs() -> None:
    assert tuple(config.method for config in BUILT_IN) == METHODS


@pytest.mark.parametrize(
    ("model", "size", "options"),
    [
        ("baevski-auli", "tiny", ()),
        ("baevski-auli", "paper", ()),
        ("llama", "7b", ()),
        ("llama", "small", ("--start-from=there",)),
    ],
)
def test_help_of_train_shows_the_recipe_of_model_and_size(
    model: str, size: str, options: tuple[str, ...], wavepos: Callable[..., Done]
) -> None:
    text = help_text(wavepos, "train", "--size", size, *options, "--model", model)
    start_from = "there" if options and "there" in options[0] else None
    found = size_recipe(size, model=cast(ModelName, model), start_from=start_from)
    for name, value in dataclasses.asdict(found).items():
        assert re.search(rf"--{name.replace('_', '-')}[ ,].*?\(default: {re.escape(str(value))}\)", text), name
    assert "highest, reached after warmup_steps" in text


def test_a_warm_up_that_is_not_given_fits_the_updates() -> None:
    command = ["train", "--method", "rope", "--size", "paper", "--steps"]
    short, given = parsed([*command, "200"]), parsed([*command, "200", "--warmup-steps", "7"])
    assert isinstance(short, Train)
    assert isinstance(given, Train)
    assert (short.recipe.steps, short.recipe.warmup_steps) == (200, 20)
    assert (given.config().warmup_steps, given.config().learning_rate) == (7, 1.0)
    assert given.config().position["method"] == "rotary"


@pytest.mark.parametrize(
    ("typed", "method"), [("RoPE", "rotary"), ("ALiBi", "alibi"), ("Transformer-XL", "transformer_xl")]
)
def test_train_understands_the_names_that_people_type(typed: str, method: str) -> None:
    for name in (typed, typed.lower(), json.dumps({"method": typed.upper()})):
        train = parsed(["train", "--method", name])
        assert isinstance(train, Train)
        assert train.config().position["method"] == method


METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from wavepos import ALiBi
from wavepos.positions import Position, PositionConfig, register_position

@register_position
@dataclass(frozen=True, slots=True, kw_only=True)
class MineConfig(PositionConfig):
    method: ClassVar[str] = "mine"

    def build(self, *, head_dim: int, num_heads: int) -> Position:
        return ALiBi(num_heads)
"""


def test_every_process_of_a_study_imports_what_the_command_names(
    wavepos: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    (tmp_path / "mine.py").write_text(METHOD)
    given: list[Task] = []

    def stop(tasks: list[Task], jobs: int | None) -> None:
        given.extend(tasks)
        raise ValueError("seen enough")

    monkeypatch.setattr(catalogue, "run_tasks", stop)
    done = wavepos("study", "demo", "--methods", "Mine", "--seeds", "2", "--import", "mine.py", "json")
    assert "seen enough" in done.output
    assert [task.config.position for task in given] == [{"method": "mine"}] * 2
    assert {task.imports[-2:] for task in given} == {(str(tmp_path / "mine.py"), "json")}
    assert given[0] == task_from_json(given[0].to_json())


@pytest.mark.parametrize("tasks", [("passkey_retrieval,a",), ("passkey_retrieval", "a")])
def test_tasks_of_the_harness_are_parted_by_commas_or_spaces(tasks: tuple[str, ...]) -> None:
    command = parsed(["harness", "somewhere", "--max-length", "64", "--tasks", *tasks, "--lengths", "32", "64"])
    assert isinstance(command, Harness)
    assert command.config == HarnessConfig(tasks=("passkey_retrieval", "a"), max_length=64, lengths=(32, 64))


def test_importing_wavepos_is_lazy_and_complete() -> None:
    program = (
        "import sys, wavepos\nassert 'torch' not in sys.modules\n"
        "assert set(wavepos.__all__) <= set(dir(wavepos))\n"
        "from wavepos import *\nfrom wavepos import Wavelet, attention\n"
        "import wavepos.ops.attention\nassert attention is wavepos.attention is wavepos.ops.attention.attention\n"
        "assert wavepos.Wavelet is wavepos.positions.Wavelet and callable(wavepos.wavelets.mother_wavelet)\n"
        "assert not hasattr(wavepos, 'Wavlet')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_a_dry_run_of_the_papers_model_needs_no_data(wavepos: Callable[..., Done], tmp_path: Path) -> None:
    done = wavepos(
        "train",
        "--size",
        "paper",
        "--corpus",
        "wikitext103",
        "--method",
        "wavelet",
        "--dry-run",
    )
    assert done.status == 0, done.output
    assert "Parameters: 246,932,928" in done.output
    assert '"learning_rate": 1.0' in done.output
    assert re.search(r"total\s+│\s+\d+\.\d\d", done.output)
    assert not list(tmp_path.iterdir())


def test_the_list_of_studies_says_what_each_needs(
    wavepos: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = wavepos("study", "list")
    assert done.status == 0, done.output
    for name in (
        "demo",
        "table1",
        "ladder",
        "controls",
        "table3",
        "table4",
        "rope-wavelet",
        "figures",
        "table2",
        "natural",
        "table5",
    ):
        assert re.search(rf"│ {name} +│", done.output)
    assert "Wikipedia" in done.output  # the table wraps where a line is full


def test_a_study_without_its_corpus_says_which_file_is_missing(wavepos: Callable[..., Done]) -> None:
    done = wavepos("study", "table1", "--corpus", "jsonl:nowhere.jsonl")
    assert done.status == 2
    assert "corpus 'jsonl:nowhere.jsonl': no such file: nowhere.jsonl" in done.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("study", "tabel1"), "did you mean 'table1'?"),
        (("study", "nowhere.py"), "no such file"),
        (("study", "demo", "--only", "RoPEs", "--dry-run"), "did you mean 'RoPE'?"),
        (("report", "nowhere"), "no run.json in nowhere"),
    ],
)
def test_mistaken_studies_and_reports_are_named(
    wavepos: Callable[..., Done], arguments: tuple[str, ...], message: str
) -> None:
    done = wavepos(*arguments)
    assert done.status == 2
    assert message in done.output


def test_a_dry_run_of_seven_billion_plans_for_many_gpus(wavepos: Callable[..., Done], tmp_path: Path) -> None:
    command = ["train", "--method", "wavelet", "--model", "llama", "--size", "7b", "--dry-run", "--devices", "8"]
    whole, shared = wavepos(*command), wavepos(*command, "--sharding", "fsdp", "--gradient-checkpointing")
    for done in (whole, shared):
        assert done.status == 0, done.output
        assert "Parameters: 6,738,415,616" in done.output
        assert "8 device(s) × 1 pass(es) × 1 blocks × 4096 tokens" in done.output
    assert re.search(r"weights\s+│\s+25\.10", whole.output)
    assert re.search(r"weights\s+│\s+3\.14", shared.output)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--method", "ropes"), "method of a position must be one of nope, rotary"),
        (("train", "--method", '{"method": "wavelet", "scle": 2}'), "unknown key 'scle'"),
        (("train", "--method", "{method}"), "position must be a method's name or JSON"),
        (("train", "--method", "nope", "--corpus", "books"), "corpus must be one of stdlib"),
        (("train", "--method", "nope", "--corpus", "text:no/such/file"), "no such file or folder: no/such/file"),
        (("train", "--method", "nope", "--tokenizer", "bpe:5"), "vocab_size of a BPE must be at least 257, got 5"),
        (
            ("train", "--method", "nope", "--model", "llama", "--size", "paper"),
            "one of tiny, small, 1b, 7b for model llama",
        ),
        (("train", "--method", "nope", "--devices", "8"), "devices takes at least 1, with --dry-run, got 8"),
        (("train", "--method", "nope", "--sharding", "fsdp"), "sharding='fsdp' is served for model llama"),
        (("eval", "nowhere"), "no run.json in nowhere"),
        (("generate", "nowhere", "--temperature", "-1"), "temperature must be at least 0 and finite, got -1.0"),
        (("generate", "nowhere", "--temperature", "nan"), "must be at least 0 and finite, got nan: 0.8 would do"),
        (("generate", "nowhere", "--max-new-tokens", "0"), "max_new_tokens must be at least 1, got 0"),
        (("generate", "nowhere", "--seed", "-1"), "seed must lie between 0 and 2**32 - 1, got -1"),
        (("generate", "nowhere", "--prompt", "a\udcff"), r"prompt must be Unicode text, got '\udcff' at character 1"),
        (("inspect", "nowhere", "--text", "\ud800"), r"text must be Unicode text, got '\ud800' at character 0"),
        (("eval", ""), "an argument must not be empty, got '': the current directory is '.'"),
        (("train", "--method", "nope", "--out", ""), "--out must not be empty, got ''"),
        (("report", "runs", "--out="), "--out must not be empty, got ''"),
        (("demo", "--methods"), "methods must name at least one method, got none: leave it out for all of them"),
        (("study", "demo", "--only"), "only must name at least one row of the study, got none"),
        (("train", "--method", "nope", "--micro-batch-tokens", "0"), "micro_batch_tokens must be at least 1 or None"),
        (("train", "--method", "nope", "--max-tokens", "-3"), "max_tokens must be at least 1 or None, got -3"),
        (("train", "--method", "nope", "--learning-rate", "inf"), "must be positive and finite, got inf: 1e-3 would"),
        (("train", "--method", "nope", "--learning-rate", "nan"), "learning_rate must be positive and finite, got nan"),
        (("train", "--method", "nope", "--weight-decay", "nan"), "weight_decay must be at least 0 and finite, got nan"),
        (("train", "--method", "nope", "--seed", "-1"), "seed must lie between 0 and 2**32 - 1, got -1"),
        (("demo", "--seeds", "0"), "seeds must be at least 1, got 0"),
        (("train", "--method", "nope", "--steps", "0"), "steps must be at least 1, got 0"),
        (("train", "--method", "nope", "--warmup-steps", "2000"), "must lie between 0 and steps=1000, got 2000"),
        (("train", "--method", "nope", "--size", "large"), "invalid choice 'large'"),
        (("train", "--method", "nope", "--import", "no_such_module"), "No module named 'no_such_module'"),
        (("train", "--method", "nope", "--import", "nowhere.py"), "no such file: nowhere.py"),
        (("harness", "run", "--max-length", "0"), "max_length must be at least 1, got 0"),
        (("inspect", "nowhere"), "path must be the directory of a run of `wavepos train`"),
        (("inspect", "run", "--text", "a", "--text-file", "b"), "two ways to give one text, got both"),
        (("longbench",), "longbench takes a model and --max-length, or --compare A B"),
        (("longbench", "run", "--max-length", "64", "--tasks", "qaspar"), "got 'qaspar'; did you mean 'qasper'?"),
        (("longbench", "run", "--max-length", "64"), "path must be the directory of a run of `wavepos train`"),
        (("longbench", "--compare", "a", "b"), "models with a result of `wavepos longbench`: none in a"),
        (("longbench", "c", "--compare", "a", "b"), "compare takes two models and no third, got c"),
    ],
    ids=str,
)
def test_wrong_input_is_one_clear_line(arguments: tuple[str, ...], message: str, wavepos: Callable[..., Done]) -> None:
    done = wavepos(*arguments)
    assert done.status == 2
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output


@pytest.mark.parametrize("model", ["baevski-auli", "llama"])
def test_train_eval_and_generate_on_a_text_of_ones_own(
    model: str, wavepos: Callable[..., Done], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(["wave", "near", "far"], size=8)) for _ in range(300)]
    (tmp_path / "own.txt").write_text("\n".join(lines), encoding="utf-8")
    options = ["--tokenizer", "bpe:280", "--seq-len", "16", "--steps", "8", "--batch-tokens", "64"]
    options += ["--out", "run", "--corpus", "text:own.txt", "--model", model]
    method = '{"method": "wavelet", "query_bias": "recency"}'
    done = wavepos("train", "--method", method, *options)
    assert done.status == 0, done.output
    again = wavepos("train", "--method", method, *options)
    assert again.output.splitlines()[-1] == done.output.splitlines()[-1]
    read = wavepos("eval", "run", "--lengths", "16", "40")
    assert read.status == 0, read.output
    written = json.loads((tmp_path / "run" / "perplexity-text-own-txt.json").read_text())
    assert [(p["kind"], p["seq_len"]) for p in written["perplexities"]] == [
        (kind, length) for length in (16, 40) for kind in ("nonoverlapping", "whole", "sliding")
    ]
    assert written["available_tokens"] == written["perplexities"][0]["tokens"]
    assert "Scored" not in read.output
    lines = (tmp_path / "own.txt").read_text(encoding="utf-8").splitlines()[-15:]
    entry = written["perplexities"][0]
    assert (entry["words"], entry["bytes"]) == (15 * 8, len("\n".join(lines)))
    assert entry["bits_per_byte"] == pytest.approx(entry["nats"] / math.log(2.0) / entry["bytes"])
    cut = wavepos("eval", "run", "--lengths", "16", "--max-tokens", "50")
    assert f"Scored: the first 50 of {entry['tokens']} tokens, for --max-tokens cuts." in cut.output
    none = wavepos("eval", "run", "--documents", "3", "--lengths", "32", "64")
    assert none.status == 2
    assert "with 64 tokens or more, which are 1, got 3" in " ".join(none.output.split())
    long = wavepos("eval", "run", "--documents", "1", "--lengths", "32", "64")
    assert long.status == 0, long.output
    assert "in blocks of 16" in long.output
    found = json.loads((tmp_path / "run" / "long-documents-text-own-txt.json").read_text())["results"]
    assert [(e["kind"], e["length"]) for e in found] == [
        (kind, length) for length in (32, 64) for kind in ("nonoverlapping", "whole")
    ]
    text = wavepos("generate", "run", "--prompt", "wave near", "--max-new-tokens", "5")
    assert text.status == 0, text.output
    assert text.output.startswith("wave near")
    assert text.output == wavepos("generate", "run", "--prompt", "wave near", "--max-new-tokens", "5").output


class PanicException(BaseException):
    """As libraries in Rust raise it."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "used up: Default"),
        (RuntimeError("can't start new thread"), "memory or threads are used up: can't start new thread"),
        (PanicException("The global thread pool has not been initialized.: ..."), "used up: The global thread pool"),
        (MemoryError(), "Error: MemoryError"),
        (ValueError("corpus must not be :warning:"), "Error: corpus must not be :warning:"),
    ],
)
def test_memory_and_threads_that_are_used_up_are_told_in_a_line(
    error: BaseException, said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with pytest.raises(SystemExit, match="2"):
        told(fail)
    assert said in capfd.readouterr().out
    if isinstance(error, MemoryError):  # and rich gets none either
        monkeypatch.setattr("wavepos.cli.command.console.print", fail)
        with pytest.raises(SystemExit, match="2"):
            told(fail)
        assert capfd.readouterr().err == "Error: MemoryError\n"


def test_an_error_that_nobody_foresaw_is_raised() -> None:
    def fail() -> None:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        told(fail)
