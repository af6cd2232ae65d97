"""lm-eval (EleutherAI's lm-evaluation-harness) on a model of ours or any saved transformers model, offline.

Some tasks are measured at several lengths: long_text_perplexity (windows of that length over long texts),
passkey_retrieval and RULER's (inputs of that length). Every other task of lm-eval is passed through.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import asdict
from difflib import get_close_matches
from io import TextIOBase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO, final

from rich.box import SIMPLE
from rich.table import Table
from torch import nn

from wavepos.console import Update
from wavepos.evaluate.harness.plan import BY_LENGTH, RULER, HarnessConfig, Step, steps
from wavepos.evaluate.harness.step import load_tasks, measured, quiet_lm_eval
from wavepos.models.loading import checked_device, load_model
from wavepos.runs import environment, model_directory
from wavepos.storage import write_json


def harness(path: Path, config: HarnessConfig, out: Path | None = None, update: Update | None = None) -> dict[str, Any]:
    """Evaluate a model with lm-eval; nothing is downloaded for the tasks that are measured by length.

    Args:
        path: directory of a finished run of `wavepos train`, or of a saved transformers model with its tokenizer.
        config: what is evaluated.
        out: the result's file; None: harness-TASKS.json in path. It is written after each step.
        update: told of the progress.

    Returns:
        The content of the file and its "path".

    Raises:
        ImportError: lm-eval, or what RULER needs, is not installed.
        FileNotFoundError: path holds neither a run nor a model.
        ValueError: an unfinished run, a task that neither we nor lm-eval have, a length that a task has no room for.
    """
    _check_installed(config.tasks)
    directory = model_directory(path)
    _check_known(config.tasks)
    device = checked_device(config.device)
    model = load_model(directory, local_files_only=True, trust_remote_code=config.trust_remote_code).to(device)
    out = out or path / f"harness-{'-'.join(config.tasks)}.json"
    record: dict[str, Any] = {"model": str(path), "config": asdict(config), "finished": False, "results": []}
    record["environment"] = environment()
    planned = steps(config)
    with quiet_lm_eval():  # all before the first is measured: what cannot be measured is known at once
        loaded = [load_tasks(step, directory, config) for step in planned]
    for done, (step, tasks) in enumerate(zip(planned, loaded, strict=True)):
        with quiet_lm_eval(), _reading(model, step, done, len(planned), update):
            record["results"] += measured(step, tasks, model, directory, config)
        record["finished"] = done + 1 == len(planned)
        write_json(out, record)
    return {**record, "path": out}


def results_table(record: dict[str, Any]) -> Table:
    """The results for the console; inputs that were too long, and so lost their beginning, are counted below."""
    table = Table("task", "length", "metric", "value", "± error", "docs", box=SIMPLE, caption_justify="left")
    for entry in record["results"]:
        metric = entry["metric"] if entry["depth"] is None else f"  depth {entry['depth']:g}"
        numbers = ("–" if number is None else f"{number:.4g}" for number in (entry["value"], entry["stderr"]))
        length = "–" if entry["length"] is None else str(entry["length"])
        table.add_row(entry["task"], length, metric, *numbers, str(entry["documents"]))
    cut = [entry for entry in record["results"] if entry["longest_input"] > entry["max_length"]]
    if cut:
        names = ", ".join(dict.fromkeys(f"{entry['task']} at {entry['length']}" for entry in cut))
        longest = max(entry["longest_input"] for entry in cut)
        table.caption = f"Inputs of {names} lost their beginning: they need --max-length {longest}."
    return table


@contextmanager
def _reading(model: nn.Module, step: Step, done: int, total: int, update: Update | None) -> Iterator[None]:
    """Tell of the tokens that the model reads meanwhile, in place of lm-eval's bars, one per batch."""
    where = step.task if step.length is None else f"{step.task} at {step.length}"
    tokens = 0

    def count(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], __: Any) -> None:
        nonlocal tokens
        tokens += (inputs[0] if inputs else named["input_ids"]).numel()
        if update is not None:
            update(done, total, f"{where}: {tokens:,} tokens read")

    hook = model.register_forward_hook(count, with_kwargs=True)
    try:
        with nullcontext() if update is None else redirect_stderr(_WithoutBars(sys.stderr)):
            yield
    finally:
        hook.remove()


@final
class _WithoutBars(TextIOBase):
    """A stream that leaves out what tqdm writes: lm-eval gives its bars no switch."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        if text.strip() and not text.startswith("\r"):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


def _check_installed(tasks: Iterable[str]) -> None:
    try:
        import lm_eval  # noqa: F401 - to know that it is there

        if any(task in RULER for task in tasks):
            _import_ruler()
    except ImportError as error:
        raise ImportError(f"harness needs lm-eval: pip install 'wavepos[eval]' ({error})") from error


def _import_ruler() -> None:
    """Import the module that, when imported, downloads nltk's punkt_tab: only essays need it, so none is shown."""
    import nltk.data

    with TemporaryDirectory() as folder:
        (Path(folder) / "tokenizers" / "punkt_tab").mkdir(parents=True)
        nltk.data.path.append(folder)
        try:
            import lm_eval.tasks.ruler.prepare_niah  # noqa: F401 - for what its import does
        finally:
            nltk.data.path.remove(folder)


def _check_known(tasks: Iterable[str]) -> None:
    others = [task for task in tasks if task not in BY_LENGTH]
    if not others:
        return
    from lm_eval.tasks import TaskManager

    with quiet_lm_eval():
        known = {*BY_LENGTH, *TaskManager().all_tasks}
    for task in others:
        if task not in known:
            close = get_close_matches(task, sorted(known))
            raise ValueError(
                f"tasks must be {', '.join(BY_LENGTH)}, or tasks of lm-eval, got {task!r}"
                + (f"; close to it: {', '.join(close)}" if close else "")
            )
