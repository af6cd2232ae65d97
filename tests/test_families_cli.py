"""Commands on runs and saved models of decoders other than Llama."""

import json
from pathlib import Path

import pytest
from small_families import positioned, small_model
from small_start import VOCAB_SIZE, save_start

from wavepos import cli

RECENCY = {"method": "wavelet", "query_bias": "recency"}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["wavepos", *arguments])
    cli.main()


@pytest.mark.parametrize("family", ["qwen3", "mistral", "gemma"])
def test_a_saved_model_is_inspected_generated_from_and_evaluated(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = positioned(family, RECENCY, vocab_size=VOCAB_SIZE)
    path, text = save_start(tmp_path / "model", model), f"text:{tmp_path / 'model' / 'text.txt'}"
    run(monkeypatch, "generate", str(path), "--max-new-tokens", "3", "--prompt", "def")
    run(monkeypatch, "inspect", str(path), "--corpus", text, "--length", "24", "--texts", "1", "--out", str(tmp_path))
    assert len(json.loads((tmp_path / "report.json").read_text())["data"]["layers"]) == 2
    item = {"input": "x?", "context": "def f(x)", "answers": ["x"], "length": 2, "dataset": "qasper", "language": "en"}
    item |= {"all_classes": None, "_id": "0"}
    (tmp_path / "qasper.jsonl").write_text(json.dumps(item) + "\n")
    asked = ["--max-length", "20", "--tasks", "qasper", "--data", str(tmp_path), "--out", str(tmp_path / "longbench")]
    run(monkeypatch, "longbench", str(path), *asked)
    assert json.loads((tmp_path / "longbench" / "longbench.json").read_text())["tasks"]["qasper"]["items"] == 1
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'wavepos[eval]'")
    asked = ["--tasks", "long_text_perplexity", "--corpus", text, "--lengths", "16", "--max-length", "16"]
    run(monkeypatch, "harness", str(path), *asked, "--limit", "1", "--out", str(tmp_path / "harness.json"))
    assert json.loads((tmp_path / "harness.json").read_text())["finished"]
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        run(monkeypatch, "eval", str(path))
    assert "wavepos harness --tasks long_text_perplexity" in capsys.readouterr().out


def test_a_familys_own_rotation_stays_or_goes_as_the_command_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_start(tmp_path / "start", small_model("cohere", vocab_size=VOCAB_SIZE))
    common = ["--model", "llama", "--corpus", f"text:{path / 'text.txt'}", "--seq-len", "16", "--batch-tokens", "32"]
    common += ["--steps", "1", "--precision", "fp32", "--method", "alibi"]
    found = []
    start = path
    for name, flags in (
        ("kept", ["--native-rotation", "True"]),
        ("saved", []),
        ("dropped", ["--native-rotation", "False"]),
    ):
        run(monkeypatch, "train", *common, *flags, "--start-from", str(start), "--out", str(tmp_path / name))
        start = tmp_path / name / "model"
        found.append(json.loads((start / "config.json").read_text())["native_rotation"])
    assert found == [True, True, False]
    read = ["--corpus", f"text:{path / 'text.txt'}", "--lengths", "16", "--max-tokens", "50"]
    run(monkeypatch, "eval", str(tmp_path / "kept"), *read)
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        run(monkeypatch, "train", *common, "--native-rotation", "True", "--dry-run")
    assert (
        "native_rotation has no effect in WaveposLlamaConfig: position='rotary' is a Llama's own"
        in capsys.readouterr().out
    )
