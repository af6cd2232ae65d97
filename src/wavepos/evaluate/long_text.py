"""Long texts of a corpus, as lm-eval's task long_text_perplexity reads them."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from datasets import Dataset

from wavepos.data import open_corpus
from wavepos.models.loading import load_saved_tokenizer


def long_texts(corpus: str, tokenizer: Any, min_tokens: int) -> Iterator[str]:
    """The documents of a corpus's validation split that have at least min_tokens tokens."""
    for text in open_corpus(corpus).documents("valid"):
        if len(tokenizer(text).input_ids) >= min_tokens:
            yield text


def lm_eval_documents(
    *,
    tokenizer: str,
    corpus: str = "stdlib",
    min_tokens: int = 1,
    limit: int | None = None,
    trust_remote_code: bool = False,
    **_: Any,
) -> dict[str, Dataset]:
    """The data of the task, from its metadata; lm-eval hands in more than is read here.

    Args:
        tokenizer: folder of the tokenizer that counts.
        corpus: as `wavepos.data.open_corpus` takes it.
        min_tokens: texts with fewer tokens are left out, so that a window of that length is filled.
        limit: texts, at most; None: all.
        trust_remote_code: run code that lies beside the tokenizer.

    Raises:
        ValueError: the corpus has no text of that length.
    """
    counter = load_saved_tokenizer(tokenizer, trust_remote_code=trust_remote_code)
    texts = list(islice(long_texts(corpus, counter, min_tokens), limit))
    if not texts:
        raise ValueError(
            f"lengths must not exceed the longest text of the corpus: no text of {corpus!r} (its validation split) has "
            f"{min_tokens} tokens"
        )
    return {"test": Dataset.from_list([{"text": text} for text in texts])}
