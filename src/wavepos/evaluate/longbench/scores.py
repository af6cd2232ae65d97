"""The two scores of an answer: F1 over words, and the F of Rouge-L as the package `rouge` (1.0.1) computes it."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from itertools import chain

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ROUGE_EPSILON = 1e-8


def qa_f1(prediction: str, gold: str) -> float:
    """F1 of the words of two answers, counted as multisets: 2PR / (P + R), and 0 where they share none.

    Case, ASCII punctuation and the articles a, an, the do not count.

    Args:
        prediction: the model's answer.
        gold: a right one.

    Example:
        >>> round(qa_f1("The Eiffel Tower, in Paris.", "Eiffel Tower"), 4)
        0.6667
    """
    ours, theirs = _words(prediction), _words(gold)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2.0 * shared / (len(ours) + len(theirs)) if shared else 0.0


def rouge_l(prediction: str, gold: str) -> float:
    """F of Rouge-L at the level of summaries, as LongBench reads it from the package `rouge`; 0 for an empty text.

    Texts are cut into sentences at full stops and these into words at white space. U is the set of words that lie on a
    longest common subsequence of some sentence of `gold` and some sentence of `prediction`; with R = |U| / (distinct
    words of gold) and P = |U| / (distinct words of prediction), F = 2PR / (P + R + 1e-8). Words of a set count once, so
    ("a b c a b c", "a b c") is nearly 1, and the order of sentences does not matter. Which of several longest common
    subsequences is taken is the package's choice too: a difference from `rouge_score`, which is another definition.

    Args:
        prediction: the model's answer.
        gold: a right one.

    Example:
        >>> round(rouge_l("The cat sat. The dog ran away.", "The dog ran away. The cat sat on the mat."), 10)
        0.7999999952
    """
    ours, theirs = _sentences(prediction), _sentences(gold)
    if not ours or not theirs:
        return 0.0
    union = {word for gold_words in theirs for words in ours for word in _common_subsequence(gold_words, words)}
    recall = len(union) / len(set(chain(*theirs)))
    precision = len(union) / len(set(chain(*ours)))
    return 2.0 * (precision * recall) / (precision + recall + _ROUGE_EPSILON)


def _words(text: str) -> list[str]:
    plain = text.lower().translate(_PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _sentences(text: str) -> list[list[str]]:
    """Words by sentence; a sentence of white space alone holds one empty word, as it does in the package."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common_subsequence(x: Sequence[str], y: Sequence[str]) -> list[str]:
    """A longest common subsequence: followed from the ends, a word of y is skipped first where both ways are long."""
    lengths = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i, left in enumerate(x, 1):
        for j, right in enumerate(y, 1):
            above, before = lengths[i - 1][j], lengths[i][j - 1]
            lengths[i][j] = lengths[i - 1][j - 1] + 1 if left == right else max(above, before)
    found: list[str] = []
    i, j = len(x), len(y)
    while i and j:
        if x[i - 1] == y[j - 1]:
            found.append(x[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found
