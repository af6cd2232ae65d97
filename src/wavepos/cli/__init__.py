"""The command line: wavepos demo | study | report | train | eval | harness | longbench | inspect | generate.

One file for each command; none imports torch before it runs, so that help is there at once.
"""

import sys
from collections.abc import Mapping, Sequence

import wavepos
from wavepos.cli.command import Command, quiet, read_command, told
from wavepos.cli.demo import Demo
from wavepos.cli.eval import Eval
from wavepos.cli.generate import Generate
from wavepos.cli.harness import Harness
from wavepos.cli.inspect import Inspect
from wavepos.cli.longbench import LongBench
from wavepos.cli.report import Report
from wavepos.cli.study import Study
from wavepos.cli.train import Train, train_defaults

COMMANDS: Mapping[str, type[Command]] = {
    "demo": Demo,
    "study": Study,
    "report": Report,
    "train": Train,
    "eval": Eval,
    "harness": Harness,
    "longbench": LongBench,
    "inspect": Inspect,
    "generate": Generate,
}
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
    defaults = {"train": train_defaults(arguments[1:])} if arguments[:1] == ["train"] else {}
    return read_command(arguments, COMMANDS, defaults, prog="wavepos", description=DESCRIPTION)


def _run(command: Command) -> None:
    if command.imports:
        from wavepos.positions.user_modules import import_all

        import_all(command.imports)
    command.run()
