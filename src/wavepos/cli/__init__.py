"""The command line: wavepos demo | study | report | train | eval | harness | generate.

One file for each command; none imports torch before it runs, so that help is there at once.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

import wavepos
from wavepos.cli.command import Command, quiet, told
from wavepos.cli.demo import Demo
from wavepos.cli.eval import Eval
from wavepos.cli.generate import Generate
from wavepos.cli.harness import Harness
from wavepos.cli.report import Report
from wavepos.cli.study import Study
from wavepos.cli.train import Train, train_defaults

DESCRIPTION = (
    "Wavelet positional representations for Transformers: train on short sequences, read long ones. "
    "wavepos --version prints the version, wavepos COMMAND --help the options of a command."
)


def main() -> None:
    """Entry point of the `wavepos` command."""
    quiet()
    arguments = sys.argv[1:]
    if arguments[:1] == ["--version"]:
        print(f"wavepos {wavepos.__version__}")
        return
    told(lambda: _run(parsed(arguments)))


def parsed(arguments: Sequence[str]) -> Command:
    """The command that the words of a command line stand for.

    Raises:
        SystemExit: they ask for help, or stand for none.
        ValueError: a model without the named size.
    """
    train = train_defaults(arguments[1:]) if arguments[:1] == ["train"] else train_defaults(())
    command: Any = tyro.cli(
        Annotated[Demo, tyro.conf.subcommand("demo")]
        | Annotated[Study, tyro.conf.subcommand("study")]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Train, tyro.conf.subcommand("train", default=train)]
        | Annotated[Eval, tyro.conf.subcommand("eval")]
        | Annotated[Harness, tyro.conf.subcommand("harness")]
        | Annotated[Generate, tyro.conf.subcommand("generate")],
        args=arguments,
        prog="wavepos",
        description=DESCRIPTION,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    found: Command = command
    return found


def _run(command: Command) -> None:
    if command.imports:
        from wavepos.positions.user_modules import import_all

        import_all(command.imports)
    command.run()
