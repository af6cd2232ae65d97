"""A small model with its tokenizer and a text, as a user has them on disk to begin a run with."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

VOCAB_SIZE = 300


def save_start(folder: Path, model: PreTrainedModel) -> Path:
    """Write the model, a tokenizer of 300 words and text.txt into a folder; returns it."""
    text = "\n".join(f"def f{i}(x):\n    return x * {i} + {i * i}" for i in range(600))
    model.save_pretrained(folder)
    (folder / "text.txt").write_text(text)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=["<eos>"], initial_alphabet=alphabet)
    )
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>").save_pretrained(folder)
    return folder
