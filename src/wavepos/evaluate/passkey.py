"""Passkey retrieval (Mohtashami & Jaggi, 2023): a number hidden in filler, asked for at the end."""

import random
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset

from wavepos.models.loading import load_saved_tokenizer

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Fractions of the filler that come before the number."""
KEYS = 20
"""Numbers, each hidden at every depth."""
ANSWER_TOKENS = 8
"""Room for the answer, also max_gen_toks of the task: a space and five digits are at most six bytes."""

INSTRUCTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
FILLER = ("The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again.")
QUESTION = "What is the pass key? The pass key is"

CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passkey:
    """One question.

    Attributes:
        prompt: the text that ends with the question.
        key: the number, five digits.
        depth: fraction of the filler before the number.
        length: tokens asked for.
        tokens: tokens of prompt and answer; at most length, and less than one filler sentence below it or so.
    """

    prompt: str
    key: str
    depth: float
    length: int
    tokens: int


def passkey_prompt(key: str, num_filler: int, depth: float) -> str:
    """The text around a number, with num_filler sentences of filler in all."""
    sentences = [FILLER[index % len(FILLER)] for index in range(num_filler)]
    before = round(depth * num_filler)
    hidden = f"The pass key is {key}. Remember it. {key} is the pass key."
    return "\n".join((INSTRUCTION, " ".join(sentences[:before]), hidden, " ".join(sentences[before:]), QUESTION))


def passkeys(count_tokens: CountTokens, lengths: Sequence[int], seed: int) -> Iterator[Passkey]:
    """KEYS × DEPTHS questions of each length, the same numbers in all; the depths take turns.

    Deviates from the paper: numbers always have five digits, and depths are even, not random.

    Args:
        count_tokens: the tokens of a text as the model will read it.
        lengths: tokens of prompt and answer, at most.
        seed: of the numbers.

    Raises:
        ValueError: a length that has no room for the text without filler.
    """
    for length in lengths:
        numbers = random.Random(seed)
        room = length - ANSWER_TOKENS
        most = _most_filler(count_tokens, room)
        for _ in range(KEYS):
            key = str(numbers.randint(10_000, 99_999))
            for depth in DEPTHS:
                prompt, tokens = _fitted_prompt(count_tokens, key, depth, most, room)
                yield Passkey(prompt=prompt, key=key, depth=depth, length=length, tokens=tokens + ANSWER_TOKENS)


def lm_eval_documents(
    *,
    tokenizer: str,
    max_seq_lengths: Sequence[int] = (4096,),
    seed: int = 0,
    trust_remote_code: bool = False,
    **_: Any,
) -> dict[str, Dataset]:
    """The data of the task, from its metadata; lm-eval hands in more than is read here.

    Args:
        tokenizer: folder of the tokenizer that counts.
        max_seq_lengths: tokens of prompt and answer, at most.
        seed: of the numbers.
        trust_remote_code: run code that lies beside the tokenizer.
    """
    encode = load_saved_tokenizer(tokenizer, trust_remote_code=trust_remote_code)
    questions = passkeys(lambda text: len(encode(text).input_ids), max_seq_lengths, seed)
    return {"test": Dataset.from_list([asdict(question) for question in questions])}


def lm_eval_score(document: dict[str, Any], answers: Sequence[str]) -> dict[str, float]:
    """1 if the first number of the answer is the hidden one, else 0."""
    found = re.search(r"\d+", answers[0])
    return {"exact_match": float(found is not None and found.group() == document["key"])}


def _most_filler(count_tokens: CountTokens, room: int) -> int:
    """The most sentences of filler with which the prompt of one number fits."""
    too_many = bisect_left(range(room), True, key=lambda n: count_tokens(passkey_prompt("10000", n, 0.5)) > room)
    return max(0, too_many - 1)


def _fitted_prompt(count_tokens: CountTokens, key: str, depth: float, most: int, room: int) -> tuple[str, int]:
    """A prompt of at most `room` tokens, and its tokens: another number may need a sentence less than `most`."""
    for num_filler in range(most, -1, -1):
        prompt = passkey_prompt(key, num_filler, depth)
        tokens = count_tokens(prompt)
        if tokens <= room:
            return prompt, tokens
    raise ValueError(
        f"lengths of passkey_retrieval must be at least {tokens + ANSWER_TOKENS}, the tokens of its text without "
        f"filler, got {room + ANSWER_TOKENS}"
    )
