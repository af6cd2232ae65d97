"""Examples run as they stand."""

import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_trainer_and_our_class_are_enough(tmp_path: Path) -> None:
    script = EXAMPLES / "trainer_llama.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 30
    command = [sys.executable, str(script), "--out", "model"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=True)
    assert "'loss'" in done.stdout
    assert "\ndef " in done.stdout
    assert json.loads((tmp_path / "model" / "config.json").read_text())["position"]["method"] == "wavelet"
