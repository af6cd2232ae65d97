"""Every family that `convert` takes through the tests' gate, as numbers: results/families.json.

`python -m tests.families` from the root of the checkout; the site shows the table. Small random weights, float32, CPU.
"""

import argparse
import logging
import sys
from pathlib import Path

import torch
import transformers

from wavepos.console import console
from wavepos.models import FAMILIES
from wavepos.runs import environment
from wavepos.storage import write_json

sys.path.insert(0, str(Path(__file__).parent / "helpers"))
from family_checks import RECENCY, measured

POSITIONS = {"Wavelet": "wavelet", "Wavelet, recency start": RECENCY, "ALiBi": "alibi", "Forget gate": "forget_gate"}


def main() -> None:
    """Measure, and write what was found after each family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES, metavar="FAMILY")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # convert says what it changed, each time
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    result = {"title": __doc__.splitlines()[0], "environment": environment(), "positions": list(POSITIONS)}
    families: dict[str, dict[str, float | None]] = {}
    for family in given.families:
        families[family] = measured(family, POSITIONS)
        told = " · ".join(
            f"{name} {'–' if value is None else f'{value:.0e}'}" for name, value in families[family].items()
        )
        console.print(f"{family}: {told}")
        write_json(given.out / "families.json", {**result, "families": families})


if __name__ == "__main__":
    main()
