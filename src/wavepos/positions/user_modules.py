"""Modules and Python files of a user's own, imported because a command or a study names them."""

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def import_all(names: Iterable[str]) -> None:
    """Import what registers methods.

    Args:
        names: modules, as `import` takes them, or paths of files that end in .py.

    Raises:
        ImportError: no such module.
        FileNotFoundError: no such file.
    """
    for name in names:
        load_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)


def load_file(path: Path) -> Any:
    """The module in a Python file, run once in a process.

    Raises:
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    name = f"wavepos_study_{path.resolve().stem}"
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return known
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
