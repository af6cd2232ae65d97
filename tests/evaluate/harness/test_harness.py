"""lm-eval on small models: its figures against direct computations, and what it must not do in silence."""

import json
import math
import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from wavepos.cli import main
from wavepos.data import open_corpus, train_bpe
from wavepos.evaluate import passkey
from wavepos.models.baevski_auli import BaevskiAuliConfig, BaevskiAuliForCausalLM

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'wavepos[eval]'")

import lm_eval.tasks
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from wavepos.evaluate.harness.plan import HarnessConfig
from wavepos.evaluate.harness.run import harness, results_table
from wavepos.evaluate.harness.step import TASK_FILES

TRAINED_LEN = 64
NEEDLE_TEXT = """A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you
about the number afterwards. One of the special magic numbers for is: What is the special magic number for mentioned
in the provided text? The special magic number for mentioned in the provided text is"""


@dataclass(frozen=True, slots=True)
class Small:
    """A model's folder, and what is in it."""

    path: Path
    model: Any
    tokenizer: Any


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Texts of 20 to 300 words."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    for index in range(100):
        words = rng.choice(["wave", "near", "far", "sky", "é", "12"], size=rng.integers(20, 300))
        (folder / f"{index}.txt").write_text(" ".join(words), encoding="utf-8")
    return f"text:{folder}"


@pytest.fixture(scope="module", params=["baevski-auli", "llama"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A model with random weights and a BPE; the Llama's max_position_embeddings are 64."""
    texts = [passkey.passkey_prompt("10293847560", 20, 0.5), NEEDLE_TEXT, "wave near far sky"] * 3
    tokenizer = train_bpe(texts, vocab_size=600)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    if request.param == "llama":
        config = LlamaConfig(**sizes, intermediate_size=64, max_position_embeddings=TRAINED_LEN)
        model: Any = LlamaForCausalLM(config)
    else:
        model = BaevskiAuliForCausalLM(BaevskiAuliConfig(**sizes, intermediate_size=64, cutoffs=()))
    path = tmp_path_factory.mktemp(request.param)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # far from uniform predictions
    model.eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Small(path, model, tokenizer)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)


def values(record: dict[str, Any]) -> dict[tuple[str, int, str, float | None], float]:
    return {(e["task"], e["length"], e["metric"], e["depth"]): e["value"] for e in record["results"]}


@torch.no_grad()
def direct_nats(small: Small, text: str, window: int) -> float:
    """−log p of a text: blocks of `window` targets, the last with as much context as a window holds."""
    stream = [small.tokenizer.bos_token_id, *small.tokenizer(text).input_ids]
    nats = 0.0
    for start in range(0, len(stream) - 1, window):
        end = min(start + window, len(stream) - 1)
        first = max(0, end - window)
        logits = small.model(torch.tensor([stream[first:end]])).logits[0].double().log_softmax(-1)
        targets = torch.tensor(stream[start + 1 : end + 1])
        nats -= float(logits[start - first :].gather(1, targets[:, None]).sum())
    return nats


@pytest.mark.usefixtures("offline")
def test_perplexity_is_that_of_windows_beyond_the_trained_length(small: Small, corpus: str, tmp_path: Path) -> None:
    config = HarnessConfig(
        tasks=("long_text_perplexity",), max_length=200, lengths=(48, 200), batch_size=3, corpus=corpus
    )
    record = harness(small.path, config, tmp_path / "out.json")
    valid = list(open_corpus(corpus).documents("valid"))
    texts = [text for text in valid if len(small.tokenizer(text).input_ids) >= 200]
    assert 1 < len(texts) < len(valid)
    found = values(record)
    for length in (48, 200):
        nats = sum(direct_nats(small, text, length) for text in texts)
        words = sum(len(re.split(r"\s+", text)) for text in texts)
        num_bytes = sum(len(text.encode()) for text in texts)
        for metric, expected in (
            ("word_perplexity", math.exp(nats / words)),
            ("byte_perplexity", math.exp(nats / num_bytes)),
            ("bits_per_byte", nats / num_bytes / math.log(2)),
        ):
            assert found["long_text_perplexity", length, metric, None] == pytest.approx(expected, rel=1e-4)
    bits = [found["long_text_perplexity", length, "bits_per_byte", None] for length in (48, 200)]
    assert abs(bits[0] - bits[1]) > 1e-3
    assert {entry["documents"] for entry in record["results"]} == {len(texts)}
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["finished"]
    assert written["results"] == record["results"]
    assert written["environment"]["packages"]["lm_eval"]


def test_texts_are_limited_and_too_short_ones_refused(small: Small, corpus: str, tmp_path: Path) -> None:
    tasks = ("long_text_perplexity",)
    record = harness(small.path, HarnessConfig(tasks=tasks, max_length=48, limit=2, corpus=corpus), tmp_path / "o.json")
    assert record["results"][0]["documents"] == 2
    with pytest.raises(ValueError, match=r"no text of .* has 9000 tokens"):
        harness(small.path, HarnessConfig(tasks=tasks, max_length=9000, corpus=corpus), tmp_path / "o.json")


def test_passkeys_fill_their_length_at_every_depth(small: Small) -> None:
    def count(text: str) -> int:
        return len(small.tokenizer(text).input_ids)

    questions = list(passkey.passkeys(count, (256, 700), seed=3))
    sentence = max(count(" " + sentence) for sentence in passkey.FILLER)
    assert len(questions) == 2 * passkey.KEYS * len(passkey.DEPTHS)
    for question in questions:
        assert question.tokens == count(question.prompt) + passkey.ANSWER_TOKENS
        assert question.length - 2 * sentence - 8 <= question.tokens <= question.length
        assert count(f" {question.key}.") <= passkey.ANSWER_TOKENS
        before, _, after = question.prompt.partition(f"\nThe pass key is {question.key}. Remember it.")
        share = before.count(". ") / (before.count(". ") + after.count(". "))
        assert share == pytest.approx(question.depth, abs=0.15)
    keys = [[question.key for question in questions if question.length == length] for length in (256, 700)]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == passkey.KEYS
    again = [question.key for question in passkey.passkeys(count, (256,), seed=4)]
    assert again != keys[0]
    with pytest.raises(ValueError, match=r"lengths of passkey_retrieval must be at least \d+, .* got 40"):
        list(passkey.passkeys(count, (40,), seed=0))


def test_the_tasks_file_leaves_the_answer_its_room() -> None:
    text = (TASK_FILES / "passkey_retrieval.yaml").read_text(encoding="utf-8")
    assert f"max_gen_toks: {passkey.ANSWER_TOKENS}\n" in text


@pytest.mark.parametrize("right", [True, False])
def test_a_passkey_found_scores_one_and_a_wrong_one_none(
    right: bool, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's generate is replaced: it answers with the number it reads, or with that number backwards."""
    widths = []

    def generate(self: Any, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        widths.append(input_ids.shape[1])
        answers = []
        for row in input_ids:
            (key,) = set(re.findall(r"\d+", small.tokenizer.decode(row)))
            text = f" {key if right else key[::-1]}."
            answers.append(small.tokenizer(text).input_ids)
        longest = max(map(len, answers))
        padded = [answer + [small.tokenizer.eos_token_id] * (longest - len(answer)) for answer in answers]
        return torch.cat([input_ids, torch.tensor(padded)], dim=1)

    monkeypatch.setattr(type(small.model), "generate", generate)
    config = HarnessConfig(tasks=("passkey_retrieval",), max_length=400, lengths=(300, 400), limit=10, batch_size=4)
    record = harness(small.path, config, tmp_path / "out.json")
    found = values(record)
    for length in (300, 400):
        for depth in (None, *passkey.DEPTHS):
            assert found["passkey_retrieval", length, "exact_match", depth] == (1.0 if right else 0.0)
    assert 360 < max(widths) <= 400 - passkey.ANSWER_TOKENS
    assert results_table(record).caption is None


def test_padding_changes_no_answer(small: Small) -> None:
    prompts = [passkey.passkey_prompt("54321", count, 0.5) for count in (0, 3, 9, 20)]
    settings = {"until": [], "max_gen_toks": 8, "do_sample": False}
    answers = []
    for batch_size in (1, 4):
        model = AutoModelForCausalLM.from_pretrained(small.path).eval()
        lm = HFLM(pretrained=model, backend="causal", tokenizer=small.tokenizer, max_length=400, batch_size=batch_size)
        requests = [
            Instance(request_type="generate_until", doc={}, arguments=(prompt, settings), idx=0) for prompt in prompts
        ]
        answers.append(lm.generate_until(requests))
    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 1


@pytest.mark.usefixtures("offline")
def test_needles_and_the_console(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wonderwords", reason="RULER's packages are not installed: pip install 'wavepos[eval]'")
    tasks = "niah_single_1,passkey_retrieval"
    options = ["--max-length", "600", "--lengths", "600", "--limit", "2", "--out", str(tmp_path / "o.json")]
    monkeypatch.setattr(sys, "argv", ["wavepos", "harness", str(small.path), "--tasks", tasks, *options])
    monkeypatch.setenv("COLUMNS", "100")
    main()
    captured = capsys.readouterr()
    assert "requests" not in captured.err  # lm-eval's bars
    printed = " ".join(captured.out.split())
    assert "niah_single_1 600 string_match_all 0 0 2" in printed
    assert "Inputs of niah_single_1 at 600 lost their beginning: they need --max-length 6" in printed
    record = json.loads((tmp_path / "o.json").read_text())
    (needle,) = (entry for entry in record["results"] if entry["task"] == "niah_single_1")
    assert (needle["length"], needle["value"], needle["documents"]) == (600, 0.0, 2)
    assert needle["longest_input"] > 600
    with pytest.raises(ValueError, match="lengths must leave niah_single_1 room for its text and answer, got 60"):
        harness(small.path, HarnessConfig(tasks=("niah_single_1",), max_length=60), tmp_path / "o.json")
    (tmp_path / "o.json").unlink()

    made = passkey.passkeys

    def no_room(_: Any, lengths: list[int], seed: int) -> Any:
        if 300 in lengths:
            raise ValueError(f"no room at {lengths[0]}, seed {seed}")
        return made(lambda text: len(text.split()), lengths, seed)

    config = HarnessConfig(tasks=("passkey_retrieval",), lengths=(600, 300), max_length=600)
    monkeypatch.setattr(passkey, "passkeys", no_room)
    with pytest.raises(ValueError, match="no room at 300"):
        harness(small.path, config, tmp_path / "o.json")
    assert not (tmp_path / "o.json").exists()  # nothing was measured before the length was refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_length": 0}, r"max_length must be at least 1, got 0: .* max_position_embeddings"),
        ({"lengths": (65,)}, "lengths must lie between 1 and max_length=64, got 65"),
        ({"lengths": ()}, "lengths must lie between 1 and max_length=64, got 0"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"tasks": ()}, "tasks must name at least one task"),
        ({"tasks": ("a", "a")}, "each once, got 'a,a'"),
        ({"tasks": ("niah_single_2",)}, "tasks must not hold 'niah_single_2': lm-eval downloads its texts"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HarnessConfig(**({"tasks": ("passkey_retrieval",), "max_length": 64} | fields))


def test_wrong_paths_and_tasks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = HarnessConfig(tasks=("passkey_retrieval",), max_length=64)
    with pytest.raises(FileNotFoundError, match=r"path must be the directory of a run .* found neither in"):
        harness(tmp_path / "nowhere", config)
    (tmp_path / "run.json").write_text('{"status": "started"}')
    with pytest.raises(ValueError, match="is not finished"):
        harness(tmp_path, config)
    (tmp_path / "run.json").write_text('{"status": "finished"}')
    with pytest.raises(ValueError, match="got 'passkeys_retrieval'; close to it: passkey_retrieval"):
        harness(tmp_path, HarnessConfig(tasks=("passkeys_retrieval",), max_length=64))
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError, match=r"needs lm-eval: pip install 'wavepos\[eval\]'"):
        harness(tmp_path, config)


def test_a_download_that_fails_is_named(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Distant:
        all_tasks = ("distant",)

        def __init__(self, **_: Any) -> None: ...

        def load(self, names: list[str]) -> None:
            raise ConnectionError("no network")

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", Distant)
    with pytest.raises(ValueError, match="tasks hold 'distant', which needs a download that failed: no network"):
        harness(small.path, HarnessConfig(tasks=("distant",), max_length=64), tmp_path / "o.json")


def test_max_length_must_be_given(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["wavepos", "harness", "run"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "--max-length" in capsys.readouterr().err
