"""Installed packages that register methods and wavelets of their own when they are imported."""

import importlib.metadata

GROUP = "wavepos.positions"
"""The group of entry points that name such modules."""

UNKNOWN = "one of your own is known once what registers it is imported (--import MODULE|FILE.py of every command)"
"""What an error adds for a name that nobody has registered."""


def load_entry_points() -> None:
    """Import them; each once, as modules are."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        entry.load()
