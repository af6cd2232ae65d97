"""Examples run as they stand."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from wavepos.cli import parsed

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


def test_a_method_and_a_wavelet_of_ones_own_are_trained_saved_loaded_and_evaluated(tmp_path: Path) -> None:
    script = EXAMPLES / "own_position.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 100

    def done(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path, check=check)

    shown = done(str(script), "--out", "run", "--steps", "12").stdout
    assert "whole 256: perplexity" in shown
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["imports"] == [str(script)]
    assert record["config"]["position"]["global"] == {"method": "plateau", "reach": 16}
    evaluate = ("-m", "wavepos.cli", "eval", "run", "--lengths", "64", "--max-tokens", "200")
    evaluate += ("--corpus", f"text:{argparse.__file__}")  # it lies outside of the current directory
    refused = done(*evaluate, check=False)
    assert refused.returncode == 2
    assert f"was trained with --import {script}: method of a position must be one of" in refused.stdout
    assert "got 'plateau'; one of your own is known once what registers it is imported" in refused.stdout
    assert "nonoverlapping" in done(*evaluate, "--import", str(script)).stdout
    train = ("train", "--method", "plateau", "--corpus", f"text:{script}", "--tokenizer", "bpe:300", "--seq-len", "16")
    train += ("--steps", "2", "--batch-tokens", "32", "--out", "other", "--import", str(script))
    done("-m", "wavepos.cli", *train)
    assert json.loads((tmp_path / "other" / "run.json").read_text())["imports"] == [str(script)]


def test_the_licences_of_all_dependencies_are_listed() -> None:
    done = subprocess.run([sys.executable, EXAMPLES / "licences.py"], capture_output=True, text=True, check=True)
    rows = dict(line.strip("| ").split(" | ", 1) for line in done.stdout.splitlines()[2:])
    assert {"torch", "numpy", "transformers", "tokenizers", "safetensors", "pyyaml"} <= set(rows)
    assert "MIT" in rows["filelock"]
    assert "wavepos" not in rows


@pytest.mark.parametrize(
    ("name", "most_lines", "words", "said"),
    [
        (
            "own_model.py",
            80,
            ("--steps", "3", "--method", "alibi"),
            r"alibi: loss \d\.\d+ at 64 bytes, \d\.\d+ read whole",
        ),
        (
            "lora.py",
            60,
            ("--out", "model"),
            r"trains [\d,]+ of [\d,]+ parameters\nloss \d\.\d+ to \d\.\d+\n.+WaveposLlama.+ by \d\.\de(-0[5-9]|\+00)",
        ),
        ("encoder.py", 50, (), r"padding changes the logits by \d\.\de-(0[6-9]|[1-9]\d)|by 0\.0e\+00"),
        (
            "convert_qwen.py",
            50,
            ("--out", "model"),
            r"by \d\.\de(-0[5-9]|\+00)\nWaveposQwen3ForCausalLM with wavelet: 8 tokens",
        ),
    ],
)
def test_a_short_example_runs(name: str, most_lines: int, words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    script = EXAMPLES / name
    assert len(script.read_text(encoding="utf-8").splitlines()) <= most_lines
    command = [sys.executable, str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path, check=True)
    assert re.search(said, done.stdout), done.stdout


def test_the_job_of_slurm_is_a_script_whose_command_is_understood() -> None:
    script = EXAMPLES / "slurm.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=60)
    words = shlex.split(script.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()[-1])
    parsed(words[words.index("wavepos") + 1 :])
