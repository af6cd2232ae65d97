"""A small round of `python -m tests.faults`, which CONTRIBUTING.md describes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(os.name != "posix", reason="faults are signals and limits of POSIX")
def test_a_run_survives_a_kill_a_full_disk_little_memory_a_second_process_and_a_read_only_folder() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    command = [sys.executable, "-m", "tests.faults", "--kills", "1", "--commands", "train"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    faults = 5 if sys.platform == "linux" else 4
    assert done.stdout.splitlines()[-1] == f"{faults} of {faults} faults survived"
