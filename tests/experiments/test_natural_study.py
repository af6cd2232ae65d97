"""Study natural: losses kept beside each run, the evaluator, tables and figures with every seed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from wavepos.data import open_corpus
from wavepos.data.tokenizers import train_bpe
from wavepos.evaluate.natural_text import NaturalLosses, NaturalPlan
from wavepos.experiments import natural_study
from wavepos.experiments.catalogue import Execution, run_study
from wavepos.experiments.exhibits import TrainedRun, trained_seeds, write_exhibit
from wavepos.experiments.natural_report import Evaluator, NaturalTexts, Probed, shown_probes
from wavepos.experiments.natural_study import losses_of, probed_texts, read_losses
from wavepos.experiments.study import StudyOptions
from wavepos.models import BaevskiAuliConfig, BaevskiAuliForCausalLM

TIMES, TAIL, LENGTH = 8, 10, 8


def silent(done: float, total: float | None, note: str = "", /) -> None:
    return None


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    rng = np.random.default_rng(0)
    words = ["wave", "near", "far", "and", "of", "the", "<b>"]
    path.write_text("\n".join(json.dumps({"text": " ".join(rng.choice(words, size=200))}) for _ in range(40)))
    return f"jsonl:{path}"


@pytest.fixture(scope="module")
def root(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained models in the places of runs."""
    folder = tmp_path_factory.mktemp("runs")
    tokenizer = train_bpe(open_corpus(text).documents("train"), 280)
    for name, method, seed in (("a", "rotary", 0), ("b", "rotary", 1), ("c", "alibi", 0)):
        sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
        torch.manual_seed(seed)
        config = BaevskiAuliConfig(vocab_size=len(tokenizer), cutoffs=(), position=method, **sizes)
        BaevskiAuliForCausalLM(config).save_pretrained(folder / name / "model")
        tokenizer.save_pretrained(folder / name / "model")
        (folder / name / "run.json").write_text(json.dumps({"status": "finished", "config": {}}))
    return folder


@pytest.fixture
def found(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[TrainedRun]:
    """What the study takes for table1's finished runs."""

    def run(name: str, folder: str, seed: int, train_len: int = LENGTH, read_with: Any = None) -> TrainedRun:
        return TrainedRun(name=name, seed=seed, folder=root / folder, train_len=train_len, read_with=read_with)

    runs = [
        run("RoPE", "a", 0),
        run("RoPE", "b", 1),
        run("ALiBi", "c", 0),
        run("RoPE, read otherwise", "a", 0, read_with={"method": "rotary", "theta": 100.0}),
        run("ALiBi, longer", "c", 0, train_len=2 * LENGTH),
    ]
    monkeypatch.setattr(natural_study, "trained_seeds", lambda options, root: runs)
    return runs


@pytest.fixture
def texts(text: str) -> NaturalTexts:
    return NaturalTexts(corpus=text, documents=3, times=TIMES, tail=TAIL)


def test_every_seed_of_every_method_is_probed_and_shown(
    found: list[TrainedRun], root: Path, texts: NaturalTexts, tmp_path: Path
) -> None:
    told: list[tuple[float, float | None, str]] = []
    shown = probed_texts(StudyOptions(), root, texts, lambda done, total, note="": told.append((done, total, note)))
    assert told[-1][:2] == (4.0, 4)
    assert told[-1][2].startswith("RoPE, read otherwise, seed 0: ")
    page, markdown, kept, *written = write_exhibit("natural", shown, tmp_path)
    data = json.loads(kept.read_text())["data"]
    assert data["windows"] == [8, 16, 32, 64]
    assert data["contexts"] == [2, 4, 8, 16, 32, 54]
    assert list(data["methods"]) == ["RoPE", "ALiBi", "RoPE, read otherwise"]
    assert data["methods"]["RoPE"]["seeds"] == [0, 1]
    assert data["methods"]["RoPE"]["runs"] == ["a", "b"]
    for one in data["methods"].values():
        for seed in range(len(one["seeds"])):
            assert sum(b["tokens"] for b in one["by_distance"][seed]) == 3 * 32
            assert len(one["by_window"][seed]) == 4
            assert len(one["by_context"][seed]) == 6
    theirs = data["methods"]["RoPE, read otherwise"]["by_window"][0]
    assert theirs != data["methods"]["RoPE"]["by_window"][0]  # the same run, read with another position
    best = max(
        (one["by_window"][i][0] - one["by_window"][i][-1], name, i)
        for name, one in data["methods"].items()
        for i in range(len(one["seeds"]))
    )
    assert data["evaluator"]["name"] == f"{best[1]}, seed {data['methods'][best[1]]['seeds'][best[2]]}"
    lines = markdown.read_text()
    values = [math.exp(one[0]) for one in data["methods"]["RoPE"]["by_window"]]
    assert f"({min(values):.2f}–{max(values):.2f})" in lines
    assert "Left out: 1 runs with L_train 16." in lines
    assert {path.stem for path in written} == {"distance", "context", "window"}
    assert page.read_text().count("<figcaption>") == 3
    axis = shown.figures["context"][0].axes[0]
    dots = [line for line in axis.lines if line.get_linestyle() == "None" and len(line.get_xdata()) == 6]
    assert len(dots) == 2  # RoPE's seeds; methods of one seed are their line


def test_losses_are_read_once_and_found_again(
    found: list[TrainedRun], root: Path, texts: NaturalTexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = probed_texts(StudyOptions(), root, texts, silent)
    kept = sorted((root / "a" / "natural").glob("*.npz"))
    assert len(kept) == 2 * 3  # of three documents, as trained and read otherwise
    kept[0].unlink()
    real, read = natural_study.natural_losses, []

    def counted(*given: Any, **named: Any) -> NaturalLosses:
        read.append(len(given[1]))
        return real(*given, **named)

    monkeypatch.setattr(natural_study, "natural_losses", counted)
    assert probed_texts(StudyOptions(), root, texts, silent).data == first.data
    assert read == [1]


def test_any_model_with_the_same_tokens_says_which_tokens_are_key(
    found: list[TrainedRun], root: Path, texts: NaturalTexts, tmp_path: Path
) -> None:
    given = probed_texts(StudyOptions(evaluator=root / "c"), root, texts, silent)
    assert given.data["evaluator"]["name"] == "c"
    assert given.data["methods"]["ALiBi"]["is_evaluator"] == [True]
    other = train_bpe(open_corpus(texts.corpus).documents("train"), 265)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(other), **sizes)).save_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"evaluator .* must have the tokenizer of the models that are read"):
        probed_texts(StudyOptions(evaluator=tmp_path), root, texts, silent)


def test_models_of_transformers_give_the_losses_of_their_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20, **sizes)).eval()
    model.save_pretrained(tmp_path)
    documents = list(np.random.default_rng(0).integers(0, 20, size=(2, 33)))
    losses = read_losses(tmp_path, None, documents, NaturalPlan(train_len=8, times=4, tail=4))
    ids = torch.tensor(documents[1][None])
    with torch.no_grad():
        expected = model(ids, labels=ids).loss
        every = losses_of(model)(ids[:, :-1], ids[:, 1:])
    assert float(every.mean()) == pytest.approx(float(expected), rel=1e-5)
    assert np.allclose(losses.by_window[-1, 1], every[0, 16:], atol=1e-5)


def test_without_runs_or_with_another_study_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reads finished runs of table1, and .* holds none"):
        run_study("natural", StudyOptions(), Execution(out=tmp_path))
    with pytest.raises(ValueError, match="evaluator goes with study 'natural', which study 'figures' is not"):
        run_study("figures", StudyOptions(evaluator=tmp_path), Execution(out=tmp_path))
    assert trained_seeds(StudyOptions(), tmp_path) == []


def probed(name: str, seed: int, losses: NaturalLosses) -> Probed:
    return Probed(run=TrainedRun(name=name, seed=seed, folder=Path(name), train_len=8, read_with=None), losses=losses)


def test_the_tables_hold_means_and_ranges_over_seeds_and_no_perplexity_without_key_tokens(
    texts: NaturalTexts,
) -> None:
    plan = texts.plan(8)
    documents = [np.arange(65) % 20] * 2

    def known(offset: float) -> NaturalLosses:
        by_window = np.stack([np.full((2, 32), 3.0 + offset - 0.5 * i, dtype=np.float32) for i in range(4)])
        return NaturalLosses(by_window=by_window, by_context=np.full((6, 2, TAIL), 2.0 + offset, dtype=np.float32))

    runs = [probed("ALiBi", seed, known(0.5 * seed)) for seed in range(2)]
    keys = np.zeros((2, 32), dtype=bool)
    shown = shown_probes(texts, plan, documents, runs, Evaluator(name="x", run=None, keys=keys, gained=~keys), [])
    lines = list(shown.lines)
    gain = next(line for line in lines if line.startswith("| ALiBi (2) |"))
    assert gain == "| ALiBi (2) | 1.500 (1.500–1.500) |"  # every token stood 20 back
    assert any("stood 16–31 back" in line for line in lines)
    assert "| tokens | 64 |" in lines
    assert any("2.250 (2.000–2.500)" in line for line in lines)
    plain, key, gained = (line for line in lines if line.startswith("| ALiBi (2) |") and line.count("|") == 6)
    assert plain.startswith(f"| ALiBi (2) | {math.exp(3.25):.2f} ({math.exp(3.0):.2f}–{math.exp(3.5):.2f}) |")
    assert key == "| ALiBi (2) | – | – | – | – |"
    assert gained == plain
    assert len(shown.figures["window"][0].axes) == 2  # of key tokens there are none
    assert shown.figures["distance"][0].axes[1].lines[0].get_ydata() == pytest.approx([1.5])
