"""Tokenizers: what is encoded comes back, ids follow their rule, and training is deterministic."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from wavepos.data import build_words, load_tokenizer, train_bpe
from wavepos.data.tokenizers import LONGEST_WORD, parse_tokenizer, text_encoder

TEXTS = [f"def f{index}(x):\n    return x + {index}  # é, naïve 你好\n" for index in range(100)]
SMALL_BPE = train_bpe(TEXTS, 300)
TEXT = st.text() | st.lists(st.sampled_from(["<eos>", "<", "def", " ", "  ", "\n", "n't", "é", "\x1c", "1"])).map(
    "".join
)


@given(TEXT)
@settings(deadline=None)
def test_bpe_decodes_what_it_encodes(text: str) -> None:
    assert SMALL_BPE.decode(SMALL_BPE.encode(text)) == text
    ids = text_encoder(SMALL_BPE).encode(text, add_special_tokens=False).ids
    assert SMALL_BPE.eos_token_id not in ids
    assert SMALL_BPE.decode(ids) == text


@given(TEXT)
@settings(deadline=None)
def test_words_are_those_that_split_gives(text: str) -> None:
    tokenizer = build_words([text])
    ids = text_encoder(tokenizer).encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == " ".join(text.split())


def test_bpe_has_the_size_asked_for() -> None:
    assert len(SMALL_BPE) == 300
    assert (SMALL_BPE.eos_token_id, SMALL_BPE.bos_token_id) == (0, 0)
    assert len(SMALL_BPE.encode(TEXTS[0])) < len(TEXTS[0].encode())


def test_bpe_is_the_same_in_another_process() -> None:
    trained = f"train_bpe({TEXTS!r}, 300).backend_tokenizer.to_str()"
    code = f"from wavepos.data import train_bpe; print({trained}, end='')"
    path = [entry for entry in sys.path if entry]
    run = [
        sys.executable,
        "-c",
        f"import sys; sys.path[:0] = {path!r}; sys.stdout.reconfigure(encoding='utf-8'); {code}",
    ]
    other = subprocess.run(run, capture_output=True, check=True, encoding="utf-8").stdout
    assert other == SMALL_BPE.backend_tokenizer.to_str()


def test_a_text_without_spaces_does_not_make_training_quadratic() -> None:
    """Words are counted whole up to a bound, and what is longer in parts of that length."""
    word = "".join(random.Random(0).choices("abcdefgh", k=2 * LONGEST_WORD))
    bounded = train_bpe([word, "short words", "\n" * LONGEST_WORD], 300).backend_tokenizer.to_str()
    in_parts = [word[:LONGEST_WORD], word[LONGEST_WORD:], "short words", "\n" * LONGEST_WORD]
    assert bounded == train_bpe(in_parts, 300).backend_tokenizer.to_str()


def test_the_tokenizer_of_ordinary_text_is_that_of_an_unbounded_training() -> None:
    folder = Path(json.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in (*sorted(folder.glob("*.py")), Path(random.__file__))]
    unbounded = Tokenizer(models.BPE())
    unbounded.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    unbounded.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    unbounded.train_from_iterator(texts, trainer)
    assert (
        json.loads(train_bpe(texts, 600).backend_tokenizer.to_str())["model"] == json.loads(unbounded.to_str())["model"]
    )


def test_words_are_ordered_by_frequency_then_name() -> None:
    tokenizer = build_words(["b a c", "c b <unk> d", "c <eos>"])
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == ["<eos>", "<unk>", "c", "b", "a", "d"]
    assert tokenizer.encode("c new <unk>") == [2, 1, 1]


@pytest.mark.parametrize("made", [SMALL_BPE, build_words(TEXTS)], ids=["bpe", "words"])
def test_a_saved_tokenizer_is_the_same(tmp_path: Path, made: Any) -> None:
    made.save_pretrained(str(tmp_path))
    for loaded in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert text_encoder(loaded).to_str() == text_encoder(made).to_str()
        assert (loaded.eos_token, loaded.unk_token) == (made.eos_token, made.unk_token)
        assert loaded.encode(TEXTS[3]) == made.encode(TEXTS[3])


@pytest.mark.parametrize("spec", ["", "bpe", "bpe:", "bpe:4k", "words:3", "file:", "gpt2"])
def test_an_unknown_tokenizer_lists_the_kinds(spec: str) -> None:
    with pytest.raises(ValueError, match=f"one of bpe:VOCAB_SIZE, words, file:DIR; got '{spec}'"):
        parse_tokenizer(spec)


def test_a_vocabulary_too_small() -> None:
    with pytest.raises(ValueError, match="vocab_size of a BPE must be at least 257, got 256"):
        parse_tokenizer("bpe:256")
    with pytest.raises(ValueError, match="vocab_size of a BPE must be at least 257, got 12"):
        train_bpe(TEXTS, 12)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json in"):
        load_tokenizer(tmp_path)
