"""From a corpus and a tokenizer to token files, in a cache of folders that are whole or absent."""

import dataclasses
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock
from transformers import PreTrainedTokenizerFast

from wavepos.console import Update, console
from wavepos.data.corpora import open_corpus
from wavepos.data.corpus import Corpus, Split, digest
from wavepos.data.tokenizers import (
    BPE,
    Saved,
    Words,
    build_words,
    eos_id,
    load_tokenizer,
    parse_tokenizer,
    text_encoder,
    train_bpe,
)
from wavepos.data.tokens import BATCH_CHARACTERS, DAMAGED, Blocks, Bound, TokenFile, open_token_file, write_split
from wavepos.storage import MARKER, damage, flush, is_full, mark_complete

T = TypeVar("T")


def default_cache_dir() -> Path:
    """The environment's WAVEPOS_CACHE, or ~/.cache/wavepos."""
    return Path(os.environ.get("WAVEPOS_CACHE") or "~/.cache/wavepos").expanduser()


def cached_folder(
    cache_dir: Path,
    name: str,
    opened: Callable[[Path], T],
    build: Callable[[Path], None],
) -> T:
    """What the folder cache_dir/name holds, built first if it is not there, and anew if it is damaged.

    It is built beside its place, flushed to disk and renamed. Who comes second waits for the first and takes
    its work; what a killed process left is swept by the next that builds the same folder.

    Args:
        cache_dir: where cached folders lie; made if absent.
        name: the folder's name.
        opened: verifies a folder of that name and gives what it holds; OSError or ValueError if it is damaged.
        build: writes the content into the empty folder it is given.

    Raises:
        ValueError: it is damaged and cannot be built.
        OSError: no space is left.
    """
    target = cache_dir / name
    if target.exists():
        with suppress(OSError, ValueError):  # damaged: named below, unless another process mends it meanwhile
            return opened(target)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f".{name}.lock"):
        damaged: str | None = None
        if target.exists():
            try:
                return opened(target)
            except (OSError, ValueError) as error:
                damaged = str(error).replace(f": {DAMAGED}", "")
                told = f"Damaged, and made anew from the corpus: {damaged}"
                console.print(told, markup=False, highlight=False, soft_wrap=True)
        for left_over in cache_dir.glob(f".{name}.*.tmp"):
            shutil.rmtree(left_over, ignore_errors=True)
        temporary = cache_dir / f".{name}.{uuid.uuid4().hex}.tmp"
        temporary.mkdir()
        try:
            build(temporary)
            _flush(temporary)
            if damaged is not None:
                shutil.rmtree(target, ignore_errors=True)
            if not target.exists():
                temporary.replace(target)
                flush(cache_dir)
        except Exception as error:  # tokenizers has no narrower one for a full disk
            if is_full(error):
                raise OSError(
                    f"no space left in {cache_dir}: make room there, or let WAVEPOS_CACHE name another"
                ) from error
            if damaged is None or not isinstance(error, OSError | ValueError):
                raise
            raise ValueError(f"{damaged}; it could not be made anew from the corpus: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return opened(target)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


FORMAT = 1
"""Part of every cache key: raise it when the same input gives other files."""
BPE_CHARACTERS = 20_000_000
MIN_VALID_TOKENS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedData:
    """A corpus ready for training.

    Attributes:
        tokenizer: a transformers fast tokenizer.
        train, valid: the token streams.
    """

    tokenizer: PreTrainedTokenizerFast
    train: TokenFile
    valid: TokenFile

    @property
    def fingerprint(self) -> dict[str, str]:
        """What is trained on, whatever it is called and wherever it lies: digests of both streams and the vocabulary.

        They are of content alone, so that a run goes on with a copy of its data in another place.
        """
        words = sorted(self.tokenizer.get_vocab().items(), key=lambda word: word[1])
        return {
            "train split": self.train.sha256,
            "valid split": self.valid.sha256,
            "tokenizer": digest(words, eos_id(self.tokenizer)),
        }

    def training_set(self, seq_len: int, seed: int, count: int) -> Blocks:
        """The train split in blocks, all of them whatever the seed and the count."""
        return Blocks(self.train, seq_len)

    def validation_set(self, seq_len: int, tokens: int) -> Blocks:
        """The valid split in blocks."""
        return Blocks(self.valid, seq_len)


def prepare(
    corpus: str,
    tokenizer: str = "bpe:4096",
    *,
    cache_dir: Path | None = None,
    max_tokens: int | None = None,
    update: Update | None = None,
) -> PreparedData:
    """Train a tokenizer and tokenise a corpus, or find both in the cache without reading the corpus again.

    Args:
        corpus: as `open_corpus` takes it.
        tokenizer: "bpe:VOCAB_SIZE", trained on the first 20 million characters of the train split; "words",
            those of the train split (of its first max_tokens words); "file:DIR", one that was saved.
        cache_dir: by default the environment's WAVEPOS_CACHE, or ~/.cache/wavepos.
        max_tokens: bound on the train split, at least 3; its last document is cut. The valid split is then
            bounded by a twentieth of it, or by 16,384 tokens if that is more. A stream without end needs it.
        update: told of the characters of the tokenizer's text, then of the tokens of each split.

    Raises:
        ValueError: a spec that is not known, or a corpus that is empty or malformed.
        FileNotFoundError: a file or folder that is not there.
    """
    opened, cache_dir = open_corpus(corpus), cache_dir or default_cache_dir()
    _check_max_tokens(max_tokens)
    trained = _tokenizer(opened, tokenizer, cache_dir, max_tokens, update)
    bounds = (max_tokens, valid_bound(max_tokens))
    splits: tuple[Split, Split] = ("train", "valid")
    train, valid = (
        prepare_split(opened, split, trained, cache_dir=cache_dir, max_tokens=bound, update=update)
        for split, bound in zip(splits, bounds, strict=True)
    )
    return PreparedData(tokenizer=trained, train=train, valid=valid)


def valid_bound(max_tokens: int | None) -> int | None:
    """The bound on a valid split beside a train split of max_tokens."""
    return None if max_tokens is None else max(max_tokens // 20, MIN_VALID_TOKENS)


def prepare_split(
    corpus: str | Corpus,
    split: Split,
    tokenizer: PreTrainedTokenizerFast,
    *,
    cache_dir: Path | None = None,
    max_tokens: int | None = None,
    ended: bool = True,
    update: Update | None = None,
) -> TokenFile:
    """Tokenise one split with a tokenizer at hand, for instance that of a saved model; cached like `prepare`.

    Documents of more than 100,000 characters are tokenised in pieces, cut before a space after a letter or
    digit, which changes no token of the tokenizers of this package.

    Args:
        corpus: as `open_corpus` takes it, or what it gave.
        split: of the corpus.
        tokenizer: a fast tokenizer with an eos_token.
        cache_dir: as `prepare` takes it.
        max_tokens: bound on this split, at least 3; its last document is cut.
        ended: end a document that is cut all the same, as training wants it. Else the file is the first max_tokens
            tokens of the whole one, and its words and bytes are exactly those that its targets make up.
        update: told of the tokens done, of max_tokens.

    Raises:
        ValueError: no such split, no eos_token, or a corpus that is empty or malformed.
        FileNotFoundError: a file or folder that is not there.
    """
    opened = open_corpus(corpus) if isinstance(corpus, str) else corpus
    _check_max_tokens(max_tokens)
    identity = (text_encoder(tokenizer).to_str(), eos_id(tokenizer))
    broken_off = max_tokens is not None and not ended
    key = digest(FORMAT, opened.fingerprint(), split, identity, max_tokens, *(["broken off"] if broken_off else []))

    def build(folder: Path) -> None:
        write_split(folder, opened, split, tokenizer, Bound(max_tokens, ended), update)

    def whole(folder: Path) -> TokenFile:
        tokens = open_token_file(folder)
        if tokens.vocab_size != len(tokenizer) or not (ended or tokens.num_bytes is not None):
            raise ValueError(f"{folder} was not written for this tokenizer, or by an older version: {DAMAGED}")
        return tokens

    tokens = cached_folder(cache_dir or default_cache_dir(), f"{split}-{key}", whole, build)
    return dataclasses.replace(tokens, corpus=opened.spec)


def _check_max_tokens(max_tokens: int | None) -> None:
    if max_tokens is not None and max_tokens < 3:
        raise ValueError(f"max_tokens must be at least 3, got {max_tokens}")


def _tokenizer(
    corpus: Corpus, spec: str, cache_dir: Path, max_tokens: int | None, update: Update | None
) -> PreTrainedTokenizerFast:
    wanted = parse_tokenizer(spec)
    if isinstance(wanted, Saved):
        return load_tokenizer(wanted.folder)
    max_words = max_tokens if isinstance(wanted, Words) else None
    key = digest(FORMAT, corpus.fingerprint(), spec, max_words)

    def build(folder: Path) -> None:
        texts = _reported(corpus.documents("train"), update)
        match wanted:
            case BPE(vocab_size=vocab_size):
                made = train_bpe(_first(texts, BPE_CHARACTERS, len), vocab_size)
            case Words():
                made = build_words(_first(texts, max_words, corpus.count_words))
        made.save_pretrained(str(folder))
        mark_complete(folder, {})

    return cached_folder(cache_dir, f"tokenizer-{key}", _cached_tokenizer, build)


def _cached_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer as it was written; one of an older version, which kept no checksums, gets them."""
    reason = damage(folder)
    if reason is not None:
        raise ValueError(f"{folder}: {reason}: {DAMAGED}")
    if not (folder / "tokenizer_config.json").is_file():
        raise FileNotFoundError(f"{folder}: tokenizer_config.json is missing: {DAMAGED}")
    tokenizer = load_tokenizer(folder)
    if not (folder / MARKER).exists():
        with suppress(OSError):  # a cache that cannot be written to serves all the same
            mark_complete(folder, {})
    return tokenizer


def _reported(texts: Iterable[str], update: Update | None) -> Iterator[str]:
    done = reported = 0
    for text in texts:
        yield text
        done += len(text)
        if update is not None and done - reported >= BATCH_CHARACTERS:
            update(done, None, f"tokenizer: {done:,} characters")
            reported = done


def _first(texts: Iterable[str], amount: int | None, measure: Callable[[str], int]) -> Iterator[str]:
    """Whole texts until they measure the amount; all of them if it is None."""
    measured = 0
    for text in texts:
        yield text
        measured += measure(text)
        if amount is not None and measured >= amount:
            return
