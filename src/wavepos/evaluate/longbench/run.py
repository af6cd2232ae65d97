"""LongBench on a saved model, item by item: a command that was cut off goes on at the first item without a record.

In the folder of the result lie TASK.jsonl, a line for each item that was answered, and `RESULT`.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wavepos.console import Update
from wavepos.evaluate.longbench.reading import Reader
from wavepos.evaluate.longbench.tasks import NAMES, Item, Task, longbench_tasks, mean_words, read_items
from wavepos.models.loading import checked_device, load_model, load_saved_tokenizer, weights_digest
from wavepos.runs import environment, model_directory
from wavepos.storage import write_json, write_text

RESULT = "longbench.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LongBenchConfig:
    """What is asked.

    Raises:
        ValueError: a number below its least, or tasks that there are not.
    """

    max_length: int
    """Tokens of a prompt; the middle of longer ones is cut out, half of max-length stays at each end."""
    tasks: tuple[str, ...] = NAMES
    """Names of tasks, with commas or spaces between them."""
    data: Path | None = None
    """Folder with TASK.jsonl in it or in its data/, or LongBench's data.zip; by default that file from the hub."""
    limit: int | None = None
    """Items of each task, at most, from the first; by default all."""
    device: str | None = None
    """cpu, cuda, …; by default cuda where there is one."""
    trust_remote_code: bool = False
    """Run the code that the model's directory brings along, where its config names some."""

    def __post_init__(self) -> None:
        longbench_tasks(self.tasks)
        for name, least in (("max_length", 2), ("limit", 1)):
            if (number := getattr(self, name)) is not None and number < least:
                raise ValueError(f"{name} must be at least {least}, got {number}")


def longbench(
    path: Path, config: LongBenchConfig, out: Path | None = None, update: Update | None = None
) -> dict[str, Any]:
    """Answer LongBench's items with a model, and score the answers.

    Args:
        path: directory of a finished run of `wavepos train`, or of a saved transformers model with its tokenizer.
        config: what is asked.
        out: folder of the records and of the result; None: longbench-MAX_LENGTH in path.
        update: told of the items answered.

    Returns:
        The content of `RESULT` and its "path".

    Raises:
        FileNotFoundError: path holds neither a run nor a model, or the data are not there.
        ValueError: an unfinished run, data that are none, or records of another model, length or data in `out`.
    """
    directory = model_directory(path)
    tasks = longbench_tasks(config.tasks)
    items = {task.name: read_items(task, config.data) for task in tasks}
    out = out or path / f"longbench-{config.max_length}"
    settings = {"max_length": config.max_length, "weights": weights_digest(directory)}
    result = _opened(out / RESULT, settings) | {"model": str(path), "settings": settings, "finished": False}
    known = {task.name: _known(out, task, items[task.name]) for task in tasks}
    write_json(out / RESULT, result)
    device = checked_device(config.device)
    trusted = config.trust_remote_code
    model: Any = load_model(directory, local_files_only=True, trust_remote_code=trusted).to(device)
    tokenizer = load_saved_tokenizer(directory, trust_remote_code=trusted)
    reader = Reader(model, tokenizer, config.max_length, device)
    planned = {task.name: len(items[task.name][: config.limit]) for task in tasks}
    done, total = 0, sum(planned.values())
    for task in tasks:
        chosen, records = items[task.name][: config.limit], known[task.name]
        for index, item in enumerate(chosen):
            if index >= len(records):
                records.append(_record(reader, task, index, item))
                _append(_records_path(out, task), records[-1])
            done += 1
            if update is not None:
                update(done, total, f"{task.title}: {index + 1} of {len(chosen)}")
        result["tasks"][task.name] = _summary(task, items[task.name], records[: len(chosen)])
        write_json(out / RESULT, result)
    result |= {"finished": True, "environment": environment()}
    write_json(out / RESULT, result)
    return {**result, "path": out / RESULT}


def read_records(folder: Path, task: str) -> list[dict[str, Any]]:
    """The records of a task in the folder of a result; a last line that was not written to its end is left out."""
    path = folder / f"{task}.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return [json.loads(line) for line in lines]


def _opened(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    if not path.exists():
        return {"tasks": {}}
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if result["settings"][name] != value:
            raise ValueError(
                f"{path.parent} holds a result with another {name} ({result['settings'][name]} there, {value} here): "
                f"choose another --out or delete it"
            )
    return result


def _known(out: Path, task: Task, items: Sequence[Item]) -> list[dict[str, Any]]:
    """The records that are there, in order; the file then holds these alone."""
    path, records = _records_path(out, task), read_records(out, task.name)
    for index, record in enumerate(records):
        if index >= len(items) or record["item"] != items[index].digest:
            raise ValueError(f"{path} holds records of other items than the data: choose another --out or delete it")
    if records:
        write_text(path, "".join(f"{json.dumps(record)}\n" for record in records))
    return records


def _record(reader: Reader, task: Task, index: int, item: Item) -> dict[str, Any]:
    prompt, truncated = reader.prompt(task, item)
    prediction = reader.answer(task, prompt)
    gold = reader.gold_loss(task, item)
    return {
        "index": index,
        "item": item.digest,
        "prediction": prediction,
        "answers": list(item.answers),
        "score": task.score(prediction, item.answers),
        "truncated": truncated,
        "gold": None if gold is None else asdict(gold),
    }


def _append(path: Path, record: dict[str, Any]) -> None:
    """Add a line; it is on disk when this returns, and cut short only if the process dies meanwhile."""
    if path.is_symlink():
        raise ValueError(f"{path} must be a file of its own, got a link to {path.readlink()}: delete it")
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(record)}\n")
        file.flush()
        os.fsync(file.fileno())


def _summary(task: Task, items: Sequence[Item], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of a task: LongBench's score, what the right answers cost per token, and Table 5's numbers of the data."""
    gold = [record["gold"] for record in records if record["gold"] is not None]
    tokens = sum(one["tokens"] for one in gold)

    def per_token(name: str) -> float | None:
        return sum(one[name] for one in gold) / tokens if tokens else None

    return {
        "title": task.title,
        "metric": task.metric,
        "score": round(100.0 * sum(record["score"] for record in records) / len(records), 2),
        "items": len(records),
        "of": len(items),
        "truncated": sum(record["truncated"] for record in records),
        "gold_tokens": tokens,
        "loss_with_context": per_token("with_context"),
        "loss_without_context": per_token("without_context"),
        "mean_words": mean_words(items),
    }


def _records_path(out: Path, task: Task) -> Path:
    return out / f"{task.name}.jsonl"
