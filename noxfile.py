"""The compatibility matrix: the core of the tests over versions of Python, torch and transformers, oldest and newest.

`nox --list` shows the cells; `nox -s "matrix-3.11(torch='2.13.0', transformers='5.16.0')"` runs one. The oldest
versions are the lower bounds of pyproject.toml, the newest those of constraints.txt, with which CI runs all tests.
"""

import re
from pathlib import Path

import nox

PYTHONS = ("3.11", "3.12", "3.13")
TESTS = (
    "tests/positions",
    *(
        f"tests/ops/test_{name}.py"
        for name in ("reference", "checks", "empty", "extremes", "contract", "slots", "strides")
    ),
    *(
        f"tests/models/test_{name}.py"
        for name in ("llama", "llama_saving", "convert", "loading", "baevski_auli", "trainer")
    ),
    "tests/test_runs.py",
)


def versions(package: str) -> tuple[str, str]:
    """The oldest and the newest that is supported."""
    (oldest,) = re.search(rf'"{package}>=([\d.]+)"', Path("pyproject.toml").read_text()).groups()
    (newest,) = re.search(rf"^{package}==(.+)$", Path("constraints.txt").read_text(), re.MULTILINE).groups()
    return oldest + ".0" * (2 - oldest.count(".")), newest


@nox.session(python=PYTHONS)
@nox.parametrize("transformers", versions("transformers"))
@nox.parametrize("torch", versions("torch"))
def matrix(session: nox.Session, torch: str, transformers: str) -> None:
    """The core of the tests with one version of each."""
    session.install(f"torch=={torch}", f"transformers=={transformers}", ".[lab]", "pytest", "hypothesis")
    session.run("python", "-m", "pytest", "-q", "-W", "ignore", *(session.posargs or TESTS))
