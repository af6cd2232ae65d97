"""Tokenizers: byte-level BPE trained on the corpus, its words, or one saved before."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

EOS = "<eos>"
UNKNOWN = "<unk>"
SPECS = "bpe:SIZE, words, file:DIR"
SMALLEST_BPE = 257  # the bytes and <eos>


def make_tokenizer(spec: str, texts: Iterable[str]) -> Any:
    """The tokenizer of a spec, trained on the texts where it has to be.

    Args:
        spec: "bpe:SIZE" (byte-level BPE of that many entries), "words", or "file:DIR" (saved before).
        texts: training documents.

    Raises:
        ValueError: an unknown spec, or a saved tokenizer without an end-of-text token.
    """
    kind, _, rest = spec.partition(":")
    match kind:
        case "bpe" if rest.isdigit() and int(rest) >= SMALLEST_BPE:
            return train_bpe(texts, int(rest))
        case "words" if not rest:
            return build_words(texts)
        case "file" if rest:
            if not Path(rest).exists():
                raise FileNotFoundError(f"tokenizer {spec}: no such directory: {rest}")
            tokenizer = AutoTokenizer.from_pretrained(rest)
            if tokenizer.eos_token_id is None:
                raise ValueError(f"tokenizer {spec} has no end-of-text token")
            return tokenizer
        case _:
            raise ValueError(f"tokenizer must be one of {SPECS} with SIZE at least {SMALLEST_BPE}, got {spec!r}")


def train_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE; any text is encoded without loss."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrapped(tokenizer, eos_token=EOS, bos_token=EOS)


def build_words(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Every word that white space separates, the most frequent first, as the adaptive softmax needs them."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.split())
    for special in (EOS, UNKNOWN):
        counts.setdefault(special, 0)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(ordered)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(tokenizer, eos_token=EOS, bos_token=EOS, unk_token=UNKNOWN)


def _wrapped(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, add_prefix_space=False, **special
    )
