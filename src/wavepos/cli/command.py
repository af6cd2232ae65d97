"""What all commands share: their options, and how a mistake is told."""

import os
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union

import tyro
from rich.markup import escape
from tyro.conf import arg

from wavepos.console import console, first_line, has_no_threads, is_first_process, is_out_of_memory
from wavepos.names import CORPORA, METHODS

CORPUS_HELP = " | ".join(CORPORA)
Read = TypeVar("Read")
TEXTS = ("--prompt", "--text")
"""Options whose value may be empty."""
METHOD_HELP = f"{', '.join(METHODS)}, one of your own (see --import)"
JSON_HELP = (
    """or JSON such as '{"method": "rotary", "theta": 5e5}'. Any method takes "temperature": "log" (SSMax) or """
    """"llama4", and "window": tokens. Layers may differ: a list with one for each, or '{"local": {"method": """
    """"rotary", "window": 512}, "global": "nope", "every": 4}', where layers 4, 8, … are global."""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(ABC):
    """A command: its fields are its options."""

    imports: Annotated[
        tuple[str, ...], arg(name="import", metavar="MODULE|FILE.py ...", help_behavior_hint="(optional)")
    ] = ()
    """Modules or Python files to import first, which register positional methods of your own."""

    @property
    def imported(self) -> tuple[str, ...]:
        """The same for processes that stand in another directory."""
        return tuple(str(Path(name).resolve()) if name.endswith(".py") else name for name in self.imports)

    @abstractmethod
    def run(self) -> None:
        """Do it."""


def read_command(
    arguments: Sequence[str],
    commands: Mapping[str, type[Read]],
    defaults: Mapping[str, Read],
    *,
    prog: str,
    description: str,
) -> Read:
    """The command that the first word names, with its options; each is a parser of its own, as its errors and help say.

    Args:
        arguments: words of a command line.
        commands: name to class.
        defaults: name to what stands where the words say nothing, where that is not the class's own.
        prog: how the program is called.
        description: of the program.

    Raises:
        SystemExit: help is asked for, or the words stand for no command.
        ValueError: a word is empty.
    """
    check_empty(arguments)
    name, *rest = arguments or [""]
    found: Read
    if name in commands:
        given = {"default": defaults[name]} if name in defaults else {}
        found = tyro.cli(commands[name], args=rest, prog=f"{prog} {name}", **given)
    else:
        every: Any = tuple(Annotated[command, tyro.conf.subcommand(name)] for name, command in commands.items())
        found = tyro.cli(Union[every], args=arguments, prog=prog, description=description)  # noqa: UP007 - of a tuple
    return found


def check_empty(arguments: Sequence[str]) -> None:
    """Refuse empty words, which a shell makes of a variable that is not set; as a path they would mean the current
    directory.

    Raises:
        ValueError: one that is not the value of an option that takes a text.
    """
    for before, word in zip(("", *arguments), arguments, strict=False):
        if word == "":
            option = before
        elif word.startswith("--") and word.find("=") == len(word) - 1:
            option = word.removesuffix("=")
        else:
            continue
        if option not in TEXTS:
            place = option if option.startswith("--") else "an argument"
            raise ValueError(f"{place} must not be empty, got '': the current directory is '.'")


def check_unicode(name: str, text: str) -> None:
    """Refuse half of a surrogate pair, which is what Python makes of a byte of a command line that is no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} must be Unicode text, got {text[error.start]!r} at character {error.start}, half of a surrogate "
            "pair: give it in the terminal's encoding, UTF-8"
        ) from error


def told(run: Callable[[], None]) -> None:
    """Do what a command does; an error is one line and exit status 2, Ctrl-C status 130.

    The environment variable WAVEPOS_TRACEBACK shows where an error comes from.
    """
    try:
        run()
    except KeyboardInterrupt as stop:
        if is_first_process():
            console.print(f"[yellow]Interrupted.[/] {stop or ''} The same command goes on from there.")
        sys.exit(130)
    except (ValueError, OSError, ImportError, MemoryError, FloatingPointError) as error:
        _end(str(error) or type(error).__name__)
    except BaseException as error:  # a panic of Rust is no Exception
        if not is_out_of_memory(error) and not has_no_threads(error):
            raise
        _end(f"memory or threads are used up: {first_line(error)}")


def _end(sentence: str) -> None:
    """Tell the error that is being handled, and exit; or raise it where its place is asked for."""
    if os.environ.get("WAVEPOS_TRACEBACK"):
        raise
    try:
        console.print(f"[bold red]Error:[/] {escape(sentence)}", highlight=False, soft_wrap=True, emoji=False)
    except MemoryError:  # rich needs some too
        os.write(2, f"Error: {sentence}\n".encode(errors="replace"))
    sys.exit(2)


def quiet() -> None:
    """Leave the console to our own progress."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
