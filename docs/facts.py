"""Lists and numbers of the pages that the code knows."""

import contextlib
import io
import os

from docs.results import load
from docs.tables import markdown_table
from wavepos.cli import COMMANDS, parsed
from wavepos.names import CORPORA


def families() -> str:
    """The families of transformers that `convert` takes."""
    from wavepos.models import FAMILIES

    return (
        f"{len(FAMILIES)} families, by their `model_type`: " + ", ".join(f"`{name}`" for name in sorted(FAMILIES)) + "."
    )


def family_checks() -> str:
    """Families by checks: the largest difference of each from what it has to equal."""
    result = load("families")
    families: dict[str, dict[str, float | None]] = result["families"]
    checks = list(next(iter(families.values())))
    rows = [
        [
            f"`{name}`",
            *("–" if found[check] is None else f"{found[check]:.0e}".replace("0e+00", "0") for check in checks),
        ]
        for name, found in families.items()
    ]
    made = result["environment"]
    said = f"`{made['command']}` at commit {made['commit'][:7]}; positions: {'; '.join(result['positions'])}."
    return f"{markdown_table(['', *checks], rows)}\n\n{said}"


def corpora() -> str:
    """What a corpus may be."""
    return "\n".join(f"- `{form}`: {what}" for form, what in CORPORA.items())


def commands() -> str:
    """The help of every command."""
    parts = []
    os.environ["COLUMNS"] = "100"
    for name in COMMANDS:
        text = io.StringIO()
        arguments = [name, "--help"]
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            parsed(arguments)
        parts += [f"**wavepos {name}**", "", "```text", text.getvalue().strip(), "```", ""]
    return "\n".join(parts)
