"""Examples run as they stand."""

import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_a_study_of_ones_own_is_run_and_reported(tmp_path: Path) -> None:
    script = EXAMPLES / "my_study.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 30
    command = [sys.executable, "-m", "wavepos.cli", "study", str(script), "--out", "runs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path, check=True)
    assert "3 runs, 0 of them found trained" in done.stdout
    result = json.loads((tmp_path / "runs" / "reports" / "my-study" / "report.json").read_text())
    assert len(result["outcomes"]) == 3
    assert not result["failures"]
    again = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path, check=True)
    assert "3 runs, 3 of them found trained, 0 to work on" in again.stdout


def test_trainer_and_our_class_are_enough(tmp_path: Path) -> None:
    script = EXAMPLES / "trainer_llama.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 30
    command = [sys.executable, str(script), "--out", "model"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path, check=True)
    assert "'loss'" in done.stdout
    assert "\ndef " in done.stdout
    assert json.loads((tmp_path / "model" / "config.json").read_text())["position"]["method"] == "wavelet"
