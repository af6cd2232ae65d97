"""Tokenizers: byte-level BPE, or whole words by frequency; both are saved and loaded as transformers' own."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from wavepos.storage import unreadable_tokenizer

EOS, UNK = "<eos>", "<unk>"
MIN_BPE_VOCAB = 257
"""The 256 bytes and <eos>."""
LONGEST_WORD = 1000
"""Characters of what a BPE is trained on as one word, at most."""
LONG_WORD = re.compile(rf"\w{{{LONGEST_WORD}}}|(?:[^\w\s]|_){{{LONGEST_WORD}}}|\s{{{LONGEST_WORD}}}")
WHITE_SPACE = r"[\s\x1c-\x1f]+"
"""What str.split() takes for white space: the regex's own class lacks four separators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BPE:
    """A byte-level BPE to be trained on the corpus, of at most vocab_size tokens."""

    vocab_size: int

    def __post_init__(self) -> None:
        if self.vocab_size < MIN_BPE_VOCAB:
            raise ValueError(f"vocab_size of a BPE must be at least {MIN_BPE_VOCAB}, got {self.vocab_size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """All words of the corpus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A tokenizer that `save_pretrained` left in a folder."""

    folder: Path


def parse_tokenizer(spec: str) -> BPE | Words | Saved:
    """What "bpe:4096", "words" or "file:DIR" stands for.

    Raises:
        ValueError: anything else, or a BPE of fewer than 257 tokens.
    """
    kind, _, rest = spec.partition(":")
    match kind:
        case "bpe" if rest.isdecimal():
            return BPE(vocab_size=int(rest))
        case "words" if spec == "words":
            return Words()
        case "file" if rest:
            return Saved(folder=Path(rest).expanduser())
        case _:
            raise ValueError(f"tokenizer must be one of bpe:VOCAB_SIZE, words, file:DIR; got {spec!r}")


def train_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE: the same texts give the same one; decode(encode(text)) == text for any text.

    Args:
        texts: what to train on.
        vocab_size: tokens at most, with <eos> (id 0, also the bos token) and the 256 bytes; little text gives
            fewer.

    Raises:
        ValueError: vocab_size below 257.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=BPE(vocab_size=vocab_size).vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(_bounded_words(texts), trainer)
    return _wrapped(tokenizer, unk_token=None)


def _bounded_words(texts: Iterable[str]) -> Iterator[str]:
    """The texts; one with a word of LONGEST_WORD characters or more is cut there, and there alone.

    The time of training grows with the square of a word's length.
    """
    for text in texts:
        start = 0
        for end in (match.end() for match in LONG_WORD.finditer(text)):
            yield text[start:end]
            start = end
        if start < len(text):
            yield text[start:]


def build_words(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A vocabulary of the words between white space; decoding joins them with spaces.

    Ids follow frequency, the most frequent first as an adaptive softmax needs them, equals by name. Before
    them come <eos> (0, also the bos token) and <unk> (1).

    Args:
        texts: where the words are counted.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.split())
    kept = counts.keys() - {EOS, UNK}
    return word_tokenizer([EOS, UNK, *sorted(kept, key=lambda word: (-counts[word], word))], unk_token=UNK)


def word_tokenizer(words: Sequence[str], unk_token: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of known words between white space.

    Args:
        words: in the order of their ids; <eos>, also the bos token, is among them.
        unk_token: the one among them that stands for all others; None: there are no others.
    """
    ids = {word: index for index, word in enumerate(words)}
    model = models.WordLevel(ids) if unk_token is None else models.WordLevel(ids, unk_token=unk_token)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WHITE_SPACE), "removed")
    return _wrapped(tokenizer, unk_token=unk_token)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer saved by `save_pretrained`, from a local folder and nowhere else.

    Raises:
        FileNotFoundError: the folder has no tokenizer.json.
        ValueError: a file of it is damaged.
    """
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"tokenizer: no tokenizer.json in {folder}")
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # tokenizers raises no narrower one
        raise ValueError(unreadable_tokenizer(folder, error)) from error


def text_encoder(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the tokenizer's Rust part that takes text for text.

    "<eos>" in a text is not the special token there, and nothing is added, cut off or padded.
    """
    encoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    encoder.encode_special_tokens = True
    encoder.no_truncation()
    encoder.no_padding()
    return encoder


def eos_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id of the end-of-text token.

    Raises:
        ValueError: the tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(f"tokenizer {tokenizer.name_or_path!r} must have an eos_token to end each document")
    return int(tokenizer.eos_token_id)


def _wrapped(tokenizer: Tokenizer, unk_token: str | None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=EOS,
        eos_token=EOS,
        unk_token=unk_token,
        clean_up_tokenization_spaces=False,
    )
