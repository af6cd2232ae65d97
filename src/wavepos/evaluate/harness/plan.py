"""What `wavepos harness` evaluates, and the calls of lm-eval that this takes."""

from dataclasses import dataclass

PERPLEXITY, PASSKEY = "long_text_perplexity", "passkey_retrieval"
RULER = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "ruler_vt", "ruler_cwe", "ruler_fwe")
"""The tasks of RULER whose texts lm-eval makes up itself, without a download."""
BY_LENGTH = (PERPLEXITY, PASSKEY, *RULER)
DOWNLOADING = (
    *(f"niah_{name}" for name in ("single_2", "single_3", "multikey_1", "multiquery", "multivalue")),
    *("ruler", "ruler_qa_hotpot", "ruler_qa_squad", "longcxt"),
)
"""RULER's tasks over essays and questions, and the groups that hold them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessConfig:
    """What is evaluated, and how.

    Raises:
        ValueError: a task named twice or one that downloads essays, a number below 1, a length above max_length.
    """

    tasks: tuple[str, ...] = (PERPLEXITY, PASSKEY, RULER[0])
    """Names of tasks, each once; with commas or spaces between them."""
    max_length: int
    """Tokens that the model may read at once, prompt and answer together. lm-eval's own choice is
    max_position_embeddings, which would cut longer inputs to the trained length in silence."""
    lengths: tuple[int, ...] | None = None
    """Tokens, for the tasks that are measured by length; by default max-length alone."""
    limit: int | None = None
    """Documents of a task and length, at most; by default all."""
    batch_size: int = 1
    """Inputs read together."""
    corpus: str = "stdlib"
    """Of long_text_perplexity, as `wavepos.data.open_corpus` takes it; its validation split is read, and in it the
    documents that are at least as long as the longest of the lengths."""
    seed: int = 0
    """Of made-up documents and few-shot examples."""
    device: str | None = None
    """cpu, cuda, …; by default cuda where there is one."""
    trust_remote_code: bool = False
    """Run the code that a model's directory brings along, where its config names some."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(name for task in self.tasks for name in task.split(",")))
        if self.max_length < 1:
            raise ValueError(
                f"max_length must be at least 1, got {self.max_length}: tokens the model may read at once; without it "
                f"lm-eval would cut inputs to max_position_embeddings, the trained length"
            )
        for name in ("limit", "batch_size"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        object.__setattr__(self, "lengths", (self.max_length,) if self.lengths is None else tuple(self.lengths))
        for length in self.lengths or (0,):
            if not 1 <= length <= self.max_length:
                raise ValueError(f"lengths must lie between 1 and max_length={self.max_length}, got {length}")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks must name at least one task, each once, got {','.join(self.tasks)!r}")
        for task in self.tasks:
            if task in DOWNLOADING:
                raise ValueError(
                    f"tasks must not hold {task!r}: lm-eval downloads its texts. Tasks of RULER that need no download: "
                    f"{', '.join(RULER)}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of lm-eval.

    Attributes:
        task: its name.
        length: what it is measured at; None for tasks that know no length.
        max_length: tokens the model may read at once: the length itself for perplexity, whose windows it is.
    """

    task: str
    length: int | None
    max_length: int


def steps(config: HarnessConfig) -> list[Step]:
    """The calls of lm-eval, in order."""
    planned = []
    for task in config.tasks:
        if task not in BY_LENGTH:
            planned.append(Step(task=task, length=None, max_length=config.max_length))
            continue
        for length in config.lengths or ():
            window = length if task == PERPLEXITY else config.max_length
            planned.append(Step(task=task, length=length, max_length=window))
    return planned
