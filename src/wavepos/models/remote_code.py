"""Saved directories that tools load without importing wavepos: a `modeling_wavepos.py` beside the weights.

With trust_remote_code=True transformers follows config.json's `auto_map` to that file. It imports the installed
package instead of carrying a copy of it: attention and positions are two dozen modules with operators of their own, and
a copy would stay at the state of the day it was saved. Where wavepos is not installed transformers says so and names
the command that installs it.
"""

from collections.abc import Mapping
from pathlib import Path


def write_remote_code(directory: Path, names: Mapping[str, str]) -> dict[str, str]:
    """Put modeling_wavepos.py into the directory.

    Args:
        directory: of the model.
        names: of our classes in `wavepos.models`, by the names of transformers' Auto classes.

    Returns:
        config.json's `auto_map`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / ".modeling_wavepos.py"
    imported = "".join(f"    {name},\n" for name in sorted(names.values()))
    code = f'"""Loads this model with the installed package wavepos."""\n\nfrom wavepos.models import (\n{imported})\n'
    temporary.write_text(code, encoding="utf-8")
    temporary.replace(directory / "modeling_wavepos.py")
    return {auto: f"modeling_wavepos.{name}" for auto, name in names.items()}
