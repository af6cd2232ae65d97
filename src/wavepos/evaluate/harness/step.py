"""One call of lm-eval, and what is kept of its outcome."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import set_seed

from wavepos.evaluate.harness.plan import BY_LENGTH, PASSKEY, RULER, HarnessConfig, Step
from wavepos.models.loading import load_saved_tokenizer

BOOTSTRAP_SAMPLES = 1000
DEFAULT_GENERATED_TOKENS = 256
"""What HFLM generates where a task does not say."""
RULER_METRIC = "string_match_all"
"""RULER's name of the score of the tasks here: the share of the answers that the text holds."""
TASK_FILES = Path(__file__).parent / "tasks"


def load_tasks(step: Step, directory: Path, config: HarnessConfig) -> dict[str, Any]:
    """The tasks of one step with their documents, as lm-eval makes them.

    Args:
        step: what is measured.
        directory: of the model, whose tokenizer counts.
        config: of the evaluation.

    Raises:
        ValueError: the length leaves no room for the text, or a download failed.
    """
    set_seed(config.seed)  # RULER draws its needles from the global generators
    with _ruler_trusts(step, config.trust_remote_code):
        loaded = _loaded(step, _task_manager(step, directory, config))
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(config.seed)
    return loaded


def measured(
    step: Step, loaded: dict[str, Any], model: Any, directory: Path, config: HarnessConfig
) -> list[dict[str, Any]]:
    """The results of one step, of what `load_tasks` gave.

    lm-eval's `evaluate` is called, not `simple_evaluate`, which adds nothing for a loaded model but a survey of the
    machine by a dozen commands; the seeds that it sets are set here.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    tokenizer = load_saved_tokenizer(directory, trust_remote_code=config.trust_remote_code)
    lm = HFLM(
        pretrained=model,
        backend="causal",
        tokenizer=tokenizer,
        max_length=step.max_length,
        batch_size=config.batch_size,
    )
    set_seed(config.seed)  # so that nothing depends on the steps before
    outcome = evaluate(lm, loaded, limit=config.limit, bootstrap_iters=BOOTSTRAP_SAMPLES)
    longest = _longest_input(outcome["samples"], lm.tok_encode)
    entries = [entry | {"longest_input": longest} for entry in _entries(step, outcome["results"])]
    if step.task == PASSKEY:
        entries += [entries[0] | by_depth for by_depth in _by_depth(outcome["samples"][PASSKEY])]
    return entries


def _task_manager(step: Step, directory: Path, config: HarnessConfig) -> Any:
    """lm-eval's index of tasks; the 14,000 of its own are read only where one of them is asked for."""
    import lm_eval.tasks

    lengths = config.lengths or ()
    metadata = {
        "tokenizer": str(directory),
        "max_seq_lengths": list(lengths if step.length is None else [step.length]),
        "min_tokens": max(lengths),
        "corpus": config.corpus,
        "limit": config.limit,
        "seed": config.seed,
        "trust_remote_code": config.trust_remote_code,
    }
    folders = [TASK_FILES, Path(lm_eval.tasks.__file__).parent / "ruler"]
    return lm_eval.tasks.TaskManager(
        include_path=folders if step.task in BY_LENGTH else [TASK_FILES],
        include_defaults=step.task not in BY_LENGTH,
        metadata=metadata,
    )


@contextmanager
def _ruler_trusts(step: Step, trust_remote_code: bool) -> Iterator[None]:
    """RULER's own way to a tokenizer would run any code that lies beside it; meanwhile it takes ours."""
    if step.task not in RULER:
        yield
        return
    from lm_eval.tasks.ruler import common_utils

    class Tokenizers:
        @staticmethod
        def from_pretrained(directory: str, **_: Any) -> Any:
            return load_saved_tokenizer(directory, trust_remote_code=trust_remote_code)

    theirs, common_utils.AutoTokenizer = common_utils.AutoTokenizer, Tokenizers
    try:
        yield
    finally:
        common_utils.AutoTokenizer = theirs


def _loaded(step: Step, manager: Any) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = manager.load([step.task])
    except ConnectionError as error:
        raise ValueError(f"tasks hold {step.task!r}, which needs a download that failed: {error}") from error
    except ValueError as error:
        if step.task not in RULER:
            raise
        raise ValueError(f"lengths must leave {step.task} room for its text and answer, got {step.length}") from error
    return loaded


def _entries(step: Step, results: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One record a task and metric; RULER's metrics are lengths, −1 at those that it was not asked for."""
    for task, metrics in results.items():
        for key, value in metrics.items():
            metric, _, rule = key.partition(",")
            if not rule or metric.endswith("_stderr") or (task in RULER and value == -1):
                continue
            yield {
                "task": task,
                "length": step.length,
                "max_length": step.max_length,
                "metric": RULER_METRIC if task in RULER else metric if rule == "none" else f"{metric}, {rule}",
                "depth": None,
                "value": _finite(value),
                "stderr": _finite(metrics.get(f"{metric}_stderr,{rule}")),
                "documents": metrics.get("sample_len"),
            }


def _by_depth(samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What a passkey's record says otherwise for each depth."""
    scores: dict[float, list[float]] = {}
    for sample in samples:
        scores.setdefault(sample["doc"]["depth"], []).append(sample["exact_match"])
    for depth, values in sorted(scores.items()):
        yield {"depth": depth, "value": sum(values) / len(values), "stderr": None, "documents": len(values)}


def _longest_input(samples: dict[str, list[dict[str, Any]]], encode: Callable[[str], list[int]]) -> int:
    """Tokens of the longest prompt with its answer; 0 where texts are read in windows, for nothing is cut then."""
    longest = 0
    for sample in (sample for of_task in samples.values() for sample in of_task):
        for prompt, *rest in sample["arguments"]:
            match rest:
                case [str(answer), *_]:
                    longest = max(longest, len(encode(prompt + answer)) - 1)  # the last token is only predicted
                case [dict(settings), *_]:
                    room = settings.get("max_gen_toks", DEFAULT_GENERATED_TOKENS)
                    longest = max(longest, len(encode(prompt)) + room)
    return longest


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Keep lm-eval's warnings, which are of its own defaults, off the console; the inputs it cuts are counted by us."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
