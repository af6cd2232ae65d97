"""The kinds of corpora, opened by one string."""

from wavepos.data.corpus import Corpus
from wavepos.data.files import open_jsonl, open_text
from wavepos.data.hub import open_hub
from wavepos.data.stdlib import open_stdlib
from wavepos.data.wikitext import open_wikitext103

KINDS = "stdlib, wikitext103, wikitext103:DIR, text:PATH, jsonl:PATH[#FIELD], hf:[ORG/]NAME[/CONFIG][#COLUMN]"


def open_corpus(spec: str) -> Corpus:
    """The corpus that a string stands for; no text is read yet.

    Args:
        spec: one of

            - "stdlib": the source of the running Python's standard library, split by file.
            - "wikitext103": WikiText-103 through `datasets`; "wikitext103:DIR": of DIR/wiki.train.tokens,
              wiki.valid.tokens and wiki.test.tokens.
            - "text:PATH": a UTF-8 file, its last 5% of lines for validation, or a folder of *.txt files,
              split by file.
            - "jsonl:PATH" or "jsonl:PATH#FIELD": JSON lines, plain, .gz, .xz or .zst, split by document.
            - "hf:NAME", "hf:ORG/NAME", "hf:ORG/NAME/CONFIG", "hf:./DIR" or "hf:/DIR", each with "#COLUMN" if
              the text is not in "text": a data set streamed through `datasets`, with its own validation split
              or split by document.

    Raises:
        ValueError: another kind, or a folder without text files.
        FileNotFoundError: no such file or folder.
    """
    kind, colon, rest = spec.partition(":")
    match kind, bool(colon), bool(rest):
        case "stdlib", False, _:
            return open_stdlib(spec)
        case ("wikitext103", False, _) | ("wikitext103", True, True):
            return open_wikitext103(spec, rest)
        case "text", _, True:
            return open_text(spec, rest)
        case "jsonl", _, True:
            return open_jsonl(spec, rest)
        case "hf", _, True:
            return open_hub(spec, rest)
        case _:
            raise ValueError(f"corpus must be one of {KINDS}; got {spec!r}")
