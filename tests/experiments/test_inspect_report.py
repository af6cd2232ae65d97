"""`wavepos inspect` on runs and on saved models, with tables, figures, JSON and a page."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from wavepos.data import open_corpus
from wavepos.data.tokenizers import train_bpe
from wavepos.experiments.exhibits import write_exhibit
from wavepos.experiments.inspect_report import inspected, opened
from wavepos.experiments.text_page import write_text_page
from wavepos.models import BaevskiAuliConfig, BaevskiAuliForCausalLM
from wavepos.positions.alibi import alibi_slopes

RECENCY = {"method": "wavelet", "query_bias": "recency"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("\n\n".join(f"The {n}th line of {n * n} words and no more." for n in range(400)))
    return f"text:{text}"


@pytest.fixture(autouse=True)
def beside_the_corpus(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files elsewhere are read by name only."""
    monkeypatch.chdir(Path(corpus.partition(":")[2]).parent)


def saved(folder: Path, corpus: str, position: Any = "wavelet", run: bool = True) -> Path:
    """A run's folder with an untrained model, or the model's folder alone."""
    tokenizer = train_bpe(open_corpus(corpus).documents("train"), 300)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    config = BaevskiAuliConfig(vocab_size=len(tokenizer), cutoffs=(), position=position, **sizes)
    place = folder / "model" if run else folder
    BaevskiAuliForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    if run:
        record = {"status": "finished", "config": {"corpus": corpus, "seq_len": 16, "position": config.position}}
        (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_a_recency_start_is_shown_beside_alibis_slopes(corpus: str, tmp_path: Path) -> None:
    run = saved(tmp_path / "a-run", corpus, RECENCY)
    _, shown = inspected(opened(run), None, None, 2)
    page, text, kept, *written = write_exhibit("inspect", shown, tmp_path / "out")
    data = json.loads(kept.read_text())["data"]
    assert (data["length"], data["texts"]) == (64, 2)  # 4 times L_train
    assert [one["position"] for one in data["layers"]] == ["wavelet", "wavelet"]
    at = data["distances"].index(8)
    for layer in data["layers"]:
        assert layer["own"][0][at] == pytest.approx(-8 * alibi_slopes(4)[0], abs=0.5)
        assert sum(layer["mass"][0]) == pytest.approx(1.0)
    names = {path.stem for path in written}
    assert names == {"preferences", "distances", "beyond", "gradient", "windows"}
    assert len(written) == 2 * len(names)
    assert page.read_text().count("<figcaption>") == len(names)
    assert "a-run (L_train 16), 2 texts of 64 tokens" in text.read_text()
    row = next(line for line in text.read_text().splitlines() if line.startswith("| 1.1 |"))
    own = data["layers"][0]["own"][0][data["distances"].index(16)]
    assert row.strip("| ").split(" | ")[3] == f"{own:+.2f}".replace("-", "−")
    figure = shown.figures["preferences"][0]
    drawn = figure.axes[0].lines[1].get_ydata()
    assert list(drawn) == pytest.approx(data["layers"][0]["own"][0])


def test_a_saved_model_without_a_run_is_read_on_a_corpus_that_is_named(corpus: str, tmp_path: Path) -> None:
    layers = {"local": {"method": "nope", "window": 8}, "global": "cable", "every": 2}
    model = saved(tmp_path / "saved", corpus, layers, run=False)
    found, shown = inspected(opened(model), corpus, 40, 1)
    assert (found.length, found.texts) == (40, 1)
    json.dumps(shown.data, allow_nan=False)
    local, wide = shown.data["layers"]
    assert local["own"][0][-1] is None
    assert local["gate"] is None
    assert wide["own"][0][1] == pytest.approx(-math.log(2.0))
    assert "windows" not in shown.figures
    assert any(line.startswith("| 1.1 |") and line.endswith(" −∞ |") for line in shown.lines)
    assert "Gates: tokens in which a head forgets half" in "\n".join(shown.lines)


def test_the_page_of_a_text_is_written_whole(corpus: str, tmp_path: Path) -> None:
    model = opened(saved(tmp_path / "run", corpus))
    page = write_text_page(model, "The 3th line <b>of</b> words. " * 50, None, None, tmp_path / "out")
    assert page == tmp_path / "out" / "attention.html"
    text = page.read_text()
    data = json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])
    assert len(data["tokens"]) == 128
    assert data["tokens"][0] == "<eos>"
    assert "".join(data["tokens"][1:]).startswith("The 3th line <b>of</b>")
    (tmp_path / "file.txt").write_text("The line.")
    again = write_text_page(model, None, tmp_path / "file.txt", 5, tmp_path / "out")
    assert len(json.loads(again.read_text().partition('json">')[2].partition("</script>")[0])["tokens"]) <= 5


def test_wrong_input_is_refused(corpus: str, tmp_path: Path) -> None:
    model = opened(saved(tmp_path / "run", corpus))
    with pytest.raises(ValueError, match=r"texts × length must be at most the [\d,]+ tokens of the validation split"):
        model.texts(None, 1_000_000, 2)
    with pytest.raises(ValueError, match="texts must be at least 1, got 0"):
        model.texts(None, None, 0)
    with pytest.raises(ValueError, match="length must be at least 4, got 3"):
        model.texts(None, 3, 1)
    with pytest.raises(ValueError, match="white space alone"):
        write_text_page(model, " \n", None, None, tmp_path)
    with pytest.raises(ValueError, match=r"length must lie between 2 and \d+, the tokens that a page has room for"):
        write_text_page(model, "x", None, 100_000, tmp_path)
    with pytest.raises(FileNotFoundError, match="directory of a run of `wavepos train`"):
        opened(tmp_path)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=99, **sizes)).save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match="inspect looks into models of wavepos, got LlamaForCausalLM"):
        opened(tmp_path / "llama")
