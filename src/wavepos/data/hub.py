"""Data sets of the hub."""

from typing import Any


def load_dataset(spec: str, path: str, config: str | None, **options: Any) -> Any:
    """`datasets.load_dataset`, imported on first use.

    Raises:
        ImportError: the package is missing.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"corpus {spec!r} needs the package datasets: pip install wavepos[lab]") from error
    return datasets.load_dataset(path, config, **options)
