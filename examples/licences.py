"""The licences of all that wavepos and its extras install, as a Markdown table: `python examples/licences.py`."""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution


def dependencies(name: str, extras: frozenset[str], found: dict[str, Distribution]) -> dict[str, Distribution]:
    """What is installed of a package's dependencies, theirs among them; only the first package's extras count."""
    for requirement in distribution(name).requires or ():
        needed, _, marker = requirement.partition(";")
        asked = re.findall(r"""extra == ["']([\w-]+)["']""", marker)
        if asked and not extras & set(asked):
            continue
        other = re.split(r"[^\w.-]", needed.strip(), maxsplit=1)[0].lower().replace("_", "-")
        if other in found:
            continue
        try:
            found[other] = distribution(other)
        except PackageNotFoundError:  # of another platform
            continue
        dependencies(other, frozenset(), found)
    return found


def licence(package: Distribution) -> str:
    """What its metadata say, in a few words."""
    said = package.metadata
    classified = [entry.split(" :: ")[-1] for entry in said.get_all("Classifier", []) if entry.startswith("License ::")]
    text = " / ".join(said.get_all("License-Expression", classified)) or " ".join(said.get_all("License", ["not said"]))
    return text.splitlines()[0][:60]


def rows(extras: frozenset[str]) -> Iterator[str]:
    yield "| package | version | licence |"
    yield "|---|---|---|"
    found = dependencies("wavepos", extras, {})
    found.pop("wavepos", None)
    for name, package in sorted(found.items()):
        yield f"| {name} | {package.version} | {licence(package)} |"


if __name__ == "__main__":
    print("\n".join(rows(frozenset(sys.argv[1:] or ("lab", "eval", "wavelets")))))
