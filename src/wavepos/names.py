"""Names that users type, without what they stand for: the command line reads them before torch is imported."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Literal, get_args

POSITIONS: Mapping[str, str] = {
    "nope": "wavepos.positions.nope:NoPEConfig",
    "rotary": "wavepos.positions.rotary:RotaryConfig",
    "alibi": "wavepos.positions.alibi:ALiBiConfig",
    "forget_gate": "wavepos.positions.forget_gate:ForgetGateConfig",
    "cable": "wavepos.positions.cable:CableConfig",
    "kerple": "wavepos.positions.kerple:KerpleConfig",
    "t5": "wavepos.positions.t5_bias:T5BiasConfig",
    "shaw": "wavepos.positions.shaw:ShawRelativeConfig",
    "transformer_xl": "wavepos.positions.transformer_xl:TransformerXLRelativeConfig",
    "wavelet": "wavepos.positions.wavelet:WaveletConfig",
    "learned_relative": "wavepos.positions.learned_relative:LearnedRelativeConfig",
}
"""The positional methods of this package, each with the module and class of its config."""
METHODS = tuple(POSITIONS)

CORPORA: Mapping[str, str] = {
    "stdlib": "the source of the running Python's standard library, split by file",
    "wikitext103[:DIR]": (
        "WikiText-103 through `datasets`, or of DIR/wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens"
    ),
    "wikitext103-plain[:DIR]": "the same, each article as plain text: for models that were trained on plain text",
    "text:PATH": "a UTF-8 file, its last 5% of lines for validation, or a folder of *.txt files, split by file",
    "jsonl:PATH[#FIELD]": "JSON lines with a text in FIELD (text), plain, .gz, .xz or .zst, split by document",
    "hf:[ORG/]NAME[/CONFIG][#COLUMN]": (
        "a data set streamed through `datasets`, or hf:./DIR of a folder, with a text in COLUMN (text), with its own "
        "validation split or split by document"
    ),
    "task:NAME": "questions with known answers, mqar, needles, copy, flipflop or tracking, in words of their own",
}
"""What a corpus may be: the form of its string, and what it is."""

ModelName = Literal["baevski-auli", "llama", "qwen3"]
BaevskiAuliSize = Literal["tiny", "small", "paper", "probe"]
LlamaSize = Literal["tiny", "small", "1b", "7b"]
Qwen3Size = Literal["tiny", "small"]
AnySize = Literal[BaevskiAuliSize, LlamaSize]
SIZES: Mapping[str, tuple[str, ...]] = {
    "baevski-auli": get_args(BaevskiAuliSize),
    "llama": get_args(LlamaSize),
    "qwen3": get_args(Qwen3Size),
}
"""The named sizes of each model."""
StudySize = Literal["cpu", "gpu", "paper"]


def check_size(model: str, size: str) -> None:
    """Raise ValueError unless the model is one of ours and has a size of that name."""
    if model not in SIZES:
        raise ValueError(f"model must be one of {', '.join(SIZES)}, got {model!r}")
    if size not in SIZES[model]:
        raise ValueError(f"size must be one of {', '.join(SIZES[model])} for model {model}, got {size!r}")


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """ ": did you mean …?" for a misspelled name, or nothing."""
    close = get_close_matches(word, list(choices), 1) if isinstance(word, str) else []
    return f": did you mean {close[0]!r}?" if close else ""
