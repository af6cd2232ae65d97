"""LongBench's nine tasks: prompts, room for answers, scores, and the items from local files or the hub (A.15, Table 5).

The prompts lie in prompts.json, word for word LongBench's own, with their source.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

from wavepos.evaluate.longbench.scores import qa_f1, rouge_l

HUB_DATA = ("THUDM/LongBench", "data.zip")
"""The data set on the hub, and the file in it that its own script reads, which `datasets` no longer runs."""
Score = Callable[[str, str], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task.

    Attributes:
        name: LongBench's, also of its file.
        title: the paper's (Table 5, Fig. 11).
        prompt: with places for {context} and {input}.
        answer_tokens: an answer has at most.
        metric: "F1" or "Rouge-L".
        first_line: whether only the first line of an answer is judged.
        ends_at_newline: whether an answer ends at a newline too, and has at least one token.
    """

    name: str
    title: str
    prompt: str
    answer_tokens: int
    metric: str
    first_line: bool = False
    ends_at_newline: bool = False

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        """The best score of a prediction over the right answers, 0 … 1."""
        judge: Score = qa_f1 if self.metric == "F1" else rouge_l
        if self.first_line:
            prediction = prediction.lstrip("\n").split("\n")[0]
        return max(judge(prediction, answer) for answer in answers)


_ROWS: tuple[tuple[str, str, int, str], ...] = (
    ("narrativeqa", "NarrativeQA", 128, "F1"),
    ("qasper", "Qasper", 128, "F1"),
    ("multifieldqa_en", "MultiFieldQA-en", 64, "F1"),
    ("hotpotqa", "HotpotQA", 32, "F1"),
    ("2wikimqa", "2WikiMQA", 32, "F1"),
    ("musique", "MuSiQue", 32, "F1"),
    ("triviaqa", "TriviaQA", 32, "F1"),
    ("samsum", "SAMSum", 128, "Rouge-L"),
    ("qmsum", "QMSum", 512, "Rouge-L"),
)
NAMES = tuple(name for name, *_ in _ROWS)


def longbench_tasks(names: Sequence[str] = NAMES) -> list[Task]:
    """Tasks by name, in the order asked for.

    Args:
        names: LongBench's ("2wikimqa"), each once; with commas between them or not.

    Raises:
        ValueError: an unknown name (it names the nearest), one twice, or none.
    """
    wanted = [part for name in names for part in name.split(",") if part]
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"tasks must name at least one task, each once, got {','.join(wanted)!r}")
    prompts = json.loads(Path(__file__).with_name("prompts.json").read_text(encoding="utf-8"))
    known = {
        name: Task(
            name=name,
            title=title,
            prompt=prompts[name],
            answer_tokens=tokens,
            metric=metric,
            first_line=name in ("triviaqa", "samsum"),
            ends_at_newline=name == "samsum",
        )
        for name, title, tokens, metric in _ROWS
    }
    for name in wanted:
        if name not in known:
            close = get_close_matches(name.lower(), NAMES, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"tasks must be of {', '.join(NAMES)}, got {name!r}{hint}")
    return [known[name] for name in wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question of a task.

    Attributes:
        context: the long text.
        input: the question, or what stands for it.
        answers: the right ones, at least one.
        words: of all of it, as LongBench counts them ("length"); None where the file does not say.
    """

    context: str
    input: str
    answers: tuple[str, ...]
    words: int | None = None

    @property
    def digest(self) -> str:
        """The start of a hash of what is asked and what is right: records are of these items and no others."""
        text = json.dumps([self.context, self.input, self.answers])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_items(task: Task, data: Path | None) -> list[Item]:
    """The items of a task.

    Args:
        task: of which.
        data: a folder with TASK.jsonl in it or in its data/, or LongBench's data.zip; None: that file from the hub.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: a line that is no item.
    """
    with _opened(task.name, data) as (place, lines):
        items = [_item(place, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise ValueError(f"{place} holds no items")
    return items


def mean_words(items: Sequence[Item]) -> float | None:
    """Table 5's average length, in words; None where the data do not say it."""
    words = [item.words for item in items if item.words is not None]
    return sum(words) / len(words) if words and len(words) == len(items) else None


@contextmanager
def _opened(name: str, data: Path | None) -> Iterator[tuple[str, IO[str]]]:
    if data is None:
        from huggingface_hub import hf_hub_download

        try:
            data = Path(hf_hub_download(*HUB_DATA, repo_type="dataset"))
        except (OSError, ValueError) as error:  # whatever the hub's client says, of which some hold many lines
            reason = str(error).partition("\n")[0]
            raise FileNotFoundError(
                f"data must be given where the hub does not give {'/'.join(HUB_DATA)}: {reason}"
            ) from error
    if data.is_file():
        if not zipfile.is_zipfile(data):
            raise ValueError(f"data must be a folder or LongBench's data.zip, got the file {data}")
        with zipfile.ZipFile(data) as archive:
            inside = f"data/{name}.jsonl"
            if inside not in archive.namelist():
                raise FileNotFoundError(f"data must hold {inside}: it is not in {data}")
            with archive.open(inside) as raw:
                yield f"{data}:{inside}", io.TextIOWrapper(raw, encoding="utf-8")
        return
    for path in (data / f"{name}.jsonl", data / "data" / f"{name}.jsonl"):
        if path.exists():
            with path.open(encoding="utf-8") as file:
                yield str(path), file
            return
    raise FileNotFoundError(f"data must be a folder that holds {name}.jsonl, or LongBench's data.zip: not in {data}")


def _item(place: str, number: int, line: str) -> Item:
    try:
        fields: Mapping[str, Any] = json.loads(line)
        context, question, answers = (fields[name] for name in ("context", "input", "answers"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{place}, line {number}: no JSON object with context, input and answers: {error!r}"
        ) from error
    texts = isinstance(answers, list) and answers and all(isinstance(answer, str) for answer in answers)
    if not texts or not isinstance(context, str) or not isinstance(question, str):
        raise ValueError(f"{place}, line {number}: context and input must be texts, answers a list of at least one")
    words = fields.get("length")
    return Item(
        context=context, input=question, answers=tuple(answers), words=words if isinstance(words, int) else None
    )
