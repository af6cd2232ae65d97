"""`wavepos` and `python -m wavepos`: the command, or what to install for it beside the core."""

import sys


def main() -> None:
    """Entry point of the `wavepos` command."""
    try:
        from wavepos.cli import main as command
    except ModuleNotFoundError as error:
        print(f"Error: the command needs {error.name}: pip install 'wavepos[lab]'", file=sys.stderr)
        sys.exit(2)
    command()


if __name__ == "__main__":
    main()
