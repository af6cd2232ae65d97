"""LongBench: scores with known numbers, prompts cut in the middle, known answers, records that last."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from wavepos.data import open_corpus
from wavepos.data.tokenizers import train_bpe
from wavepos.evaluate.longbench import qa_f1, rouge_l
from wavepos.evaluate.longbench import run as longbench_run
from wavepos.evaluate.longbench.reading import Reader
from wavepos.evaluate.longbench.run import LongBenchConfig, longbench, read_records
from wavepos.evaluate.longbench.tasks import NAMES, Item, longbench_tasks, read_items
from wavepos.experiments.longbench_report import compared, result_folder, results_table
from wavepos.experiments.published import TABLE5
from wavepos.models import BaevskiAuliConfig, BaevskiAuliForCausalLM
from wavepos.models.loading import weights_digest


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("The Eiffel Tower, in Paris.", "Eiffel Tower", 2 / 3),
        ("an answer", "the answer", 1.0),
        ("a a b b c", "a b c c", 2 / 3),
        ("", "x", 0.0),
        ("the", "a", 0.0),
        ("It's Don’t", "its don’t", 1.0),
    ],
)
def test_f1_counts_words_as_multisets_without_case_punctuation_and_articles(
    prediction: str, gold: str, expected: float
) -> None:
    assert qa_f1(prediction, gold) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("The cat sat. The dog ran away.", "The dog ran away. The cat sat on the mat.", 0.7999999952),
        ("a b c a b c", "a b c", 0.999999995),
        ("", "x", 0.0),
        ("...", "x", 0.0),
        ("x", "...", 0.0),
        # computed by the package rouge 1.0.1: which longest common subsequence is taken shows in these
        ("b a. b", "a b. a", 0.999999995),
        ("b a b b. a", "a b a", 0.999999995),
        ("c a b d", "a c d b. b", 0.49999999500000003),
        (" . x", "x", 0.6666666622222223),
    ],
)
def test_rouge_l_is_the_f_of_the_package_rouge(prediction: str, gold: str, expected: float) -> None:
    assert rouge_l(prediction, gold) == pytest.approx(expected, abs=1e-12)


def test_the_nine_tasks_have_longbenchs_prompts_answer_lengths_and_scores() -> None:
    tasks = longbench_tasks()
    assert [task.name for task in tasks] == list(NAMES)
    assert [task.title for task in tasks] == list(TABLE5)
    assert [task.answer_tokens for task in tasks] == [128, 128, 64, 32, 32, 32, 32, 128, 512]
    assert [task.metric for task in tasks] == [one.metric for one in TABLE5.values()]
    assert [task.name for task in tasks if task.first_line] == ["triviaqa", "samsum"]
    assert [task.name for task in tasks if task.ends_at_newline] == ["samsum"]
    assert all("{context}" in task.prompt and "{input}" in task.prompt for task in tasks)
    asked = tasks[2].prompt.format(context="{x}", input="Who?")
    assert asked.startswith("Read the following text and answer briefly.\n\n{x}\n\nNow, answer")
    assert asked.endswith("Question: Who?\nAnswer:")


def test_the_best_of_the_right_answers_counts_and_only_the_first_line_where_longbench_takes_it() -> None:
    hotpot, trivia = longbench_tasks(("hotpotqa", "triviaqa"))
    assert hotpot.score("Eiffel Tower", ["Big Ben", "The Eiffel Tower"]) == 1.0
    assert hotpot.score("Paris\nQuestion", ["Paris"]) == pytest.approx(2 / 3)
    assert trivia.score("\n\nParis\nQuestion", ["Paris"]) == 1.0
    samsum = longbench_tasks(("samsum",))[0]
    assert samsum.score("x y\nz", ["x y"]) == pytest.approx(0.999999995)


def test_unknown_tasks_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"tasks must be of narrativeqa, .* got 'hotpot'; did you mean 'hotpotqa'"):
        longbench_tasks(("hotpot",))
    with pytest.raises(ValueError, match="each once, got 'qasper,qasper'"):
        longbench_tasks(("qasper,qasper",))
    with pytest.raises(ValueError, match="max_length must be at least 2, got 1"):
        LongBenchConfig(max_length=1)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        LongBenchConfig(max_length=8, limit=0)


def line(**fields: Any) -> str:
    return json.dumps({"context": "The sky is blue.", "input": "What is blue?", "answers": ["the sky"], **fields})


def test_items_come_from_a_folder_its_data_and_the_zip(tmp_path: Path) -> None:
    task = longbench_tasks(("qasper",))[0]
    text = f"{line(length=7)}\n\n{line(answers=['a', 'b'])}\n"
    (tmp_path / "qasper.jsonl").write_text(text)
    items = read_items(task, tmp_path)
    assert [item.answers for item in items] == [("the sky",), ("a", "b")]
    assert [item.words for item in items] == [7, None]
    inner = tmp_path / "other" / "data"
    inner.mkdir(parents=True)
    (inner / "qasper.jsonl").write_text(text)
    assert read_items(task, tmp_path / "other") == items
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/qasper.jsonl", text)
    assert read_items(task, tmp_path / "data.zip") == items


def test_the_hubs_file_is_read_where_no_data_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/qasper.jsonl", line())
    asked = []

    def download(repo: str, name: str, repo_type: str) -> str:
        asked.append((repo, name, repo_type))
        return str(tmp_path / "data.zip")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert len(read_items(longbench_tasks(("qasper",))[0], None)) == 1
    assert asked == [("THUDM/LongBench", "data.zip", "dataset")]

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no network\nand more lines")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(FileNotFoundError, match=r"does not give THUDM/LongBench/data.zip: no network$"):
        read_items(longbench_tasks(("qasper",))[0], None)


def test_data_that_are_none_are_refused_with_file_and_line(tmp_path: Path) -> None:
    task = longbench_tasks(("qasper",))[0]
    with pytest.raises(FileNotFoundError, match=r"data must be a folder that holds qasper.jsonl"):
        read_items(task, tmp_path)
    path = tmp_path / "qasper.jsonl"
    for text, message in (
        (f"{line()}\nnot JSON", r"qasper.jsonl, line 2: no JSON object with context, input and answers"),
        ('{"context": "x", "answers": ["y"]}', r"line 1: no JSON object .*KeyError\('input'\)"),
        (line(answers=[]), "answers a list of at least one"),
        (line(answers="x"), "answers a list of at least one"),
        ("\n", "holds no items"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_items(task, tmp_path)
    with pytest.raises(ValueError, match=r"folder or LongBench's data.zip, got the file"):
        read_items(task, path)


WORDS = "one two three four five six seven eight nine ten sky blue red answer question story"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of ours with a tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    text = folder / "text.txt"
    text.write_text("\n".join(f"{WORDS} {n}" for n in range(200)))
    tokenizer = train_bpe(open_corpus(f"text:{text}").documents("train"), 300)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    config = BaevskiAuliConfig(vocab_size=len(tokenizer), cutoffs=(), position="alibi", **sizes)
    BaevskiAuliForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("qasper", "samsum"):
        items = [line(context=f"{WORDS} {n}. " * 3, length=50 + n, answers=[f"blue {n}"]) for n in range(3)]
        (folder / f"{name}.jsonl").write_text("\n".join(items) + "\n")
    return folder


class Says:
    """A model that answers with given tokens whatever it reads, and gives every token the same probability."""

    def __init__(self, tokens: list[int], vocab: int) -> None:
        self.tokens, self.vocab = tokens, vocab
        self.generation_config = GenerationConfig()
        self.asked: list[dict[str, Any]] = []
        self.read: list[list[int]] = []

    def generate(self, ids: torch.Tensor, **options: Any) -> torch.Tensor:
        self.asked.append({"ids": ids[0].tolist(), **options})
        return torch.cat([ids, torch.tensor([self.tokens])], dim=1)

    def __call__(self, ids: torch.Tensor, use_cache: bool, logits_to_keep: int) -> Any:
        self.read.append(ids[0].tolist())
        return type("Output", (), {"logits": torch.zeros(1, logits_to_keep, self.vocab)})


def test_long_prompts_lose_their_middle_and_the_gold_answer_costs_the_same_tokens_both_ways(saved: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(saved)
    task, samsum = longbench_tasks(("qasper", "samsum"))
    item = Item(context=WORDS * 50, input="Which?", answers=("sky blue",))
    model = Says(tokenizer(" sky blue").input_ids, len(tokenizer))
    reader = Reader(model, tokenizer, 101)
    whole = task.prompt.format(context=item.context, input=item.input)
    ids = tokenizer(whole).input_ids
    prompt, cut = reader.prompt(task, item)
    assert cut
    assert prompt == tokenizer.decode(ids[:50]) + tokenizer.decode(ids[-50:])
    assert Reader(model, tokenizer, len(ids)).prompt(task, item) == (whole, False)
    assert reader.answer(task, prompt) == " sky blue"
    assert task.score(" sky blue", item.answers) == 1.0
    asked = model.asked[0]
    assert asked["ids"] == tokenizer(prompt).input_ids
    assert (asked["max_new_tokens"], asked["num_beams"], asked["do_sample"]) == (128, 1, False)
    assert "min_length" not in asked
    reader.answer(samsum, "x")
    newline = tokenizer.encode("\n")[-1]
    assert model.asked[1]["eos_token_id"] == [tokenizer.eos_token_id, newline]
    assert model.asked[1]["min_length"] == len(tokenizer("x").input_ids) + 1
    gold = reader.gold_loss(task, item)
    assert gold is not None
    answer = tokenizer(" sky blue").input_ids
    assert gold.tokens == len(answer)
    expected = len(answer) * torch.log(torch.tensor(float(len(tokenizer)))).item()
    assert gold.with_context == gold.without_context == pytest.approx(expected, rel=1e-6)
    given, alone = model.read
    assert given[-len(answer) + 1 :] == alone[-len(answer) + 1 :] == answer[:-1]
    assert len(given) <= 101 + len(answer)
    assert tokenizer.decode(alone[: -len(answer) + 1]).startswith(task.prompt[:30])
    assert WORDS not in tokenizer.decode(alone)
    assert reader.gold_loss(task, Item(context="x", input="y", answers=(" ",))) is None


def test_the_gold_loss_is_the_models_own_and_the_same_for_any_family(saved: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(saved)
    task = longbench_tasks(("triviaqa",))[0]
    item = Item(context=WORDS, input="Question: x\nAnswer:\n", answers=("red", "blue"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()
    for model in (AutoModelForCausalLM.from_pretrained(saved).eval(), llama):
        gold = Reader(model, tokenizer, 1000).gold_loss(task, item)
        text, _ = Reader(model, tokenizer, 1000).prompt(task, item)
        ids = torch.tensor([tokenizer(text + "red").input_ids])  # the prompt ends in white space: no space is added
        start = len(tokenizer(text.rstrip()).input_ids)
        with torch.no_grad():
            logp = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[start - 1 :]
        assert gold is not None
        assert gold.tokens == len(logp)
        assert gold.with_context == pytest.approx(-float(logp.sum()), rel=1e-5)
        assert gold.with_context != gold.without_context


def test_a_run_writes_scores_losses_and_a_record_of_each_item(saved: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = []
    config = LongBenchConfig(max_length=64, tasks=("qasper,samsum",), data=data, limit=2)
    result = longbench(saved, config, out, lambda done, total, note="": told.append((done, total, note)))
    assert told[-1] == (4, 4, "SAMSum: 2 of 2")
    kept = json.loads((out / "longbench.json").read_text())
    assert kept["finished"]
    assert kept["tasks"] == result["tasks"]
    for name in ("qasper", "samsum"):
        one, records = kept["tasks"][name], read_records(out, name)
        assert (one["items"], one["of"], one["truncated"], one["mean_words"]) == (2, 3, 2, 51.0)
        assert one["score"] == round(50 * sum(record["score"] for record in records), 2)
        tokens = sum(record["gold"]["tokens"] for record in records)
        nats = sum(record["gold"]["with_context"] for record in records)
        assert one["loss_with_context"] == pytest.approx(nats / tokens)
        assert [record["answers"] for record in records] == [["blue 0"], ["blue 1"]]
    samsum = read_records(out, "samsum")
    assert all(record["prediction"].count("\n") <= 1 for record in samsum)
    assert results_table(result).row_count == 2


def test_any_saved_model_of_transformers_answers(saved: Path, data: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(saved)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    config = LongBenchConfig(max_length=32, tasks=("samsum",), data=data, limit=1)
    result = longbench(tmp_path / "llama", config)
    assert result["path"] == tmp_path / "llama" / "longbench-32" / "longbench.json"
    (record,) = read_records(tmp_path / "llama" / "longbench-32", "samsum")
    assert record["truncated"]
    assert result["tasks"]["samsum"]["loss_with_context"] == record["gold"]["with_context"] / record["gold"]["tokens"]
    assert result["settings"]["weights"] == weights_digest(tmp_path / "llama") != weights_digest(saved)


def test_a_command_that_was_killed_goes_on_and_torn_lines_are_answered_again(
    saved: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LongBenchConfig(max_length=64, tasks=("qasper",), data=data)
    whole = longbench(saved, config, tmp_path / "whole")["tasks"]
    out = tmp_path / "cut"
    real, calls = longbench_run._record, []

    def killed(reader: Any, task: Any, index: int, item: Any) -> Any:
        if index == 2:
            raise KeyboardInterrupt
        return real(reader, task, index, item)

    monkeypatch.setattr(longbench_run, "_record", killed)
    with pytest.raises(KeyboardInterrupt):
        longbench(saved, config, out)
    assert not json.loads((out / "longbench.json").read_text())["finished"]
    with pytest.raises(ValueError, match="is not finished"):
        result_folder(out)
    path = out / "qasper.jsonl"
    assert len(read_records(out, "qasper")) == 2
    path.write_text(path.read_text()[:-20])

    def counted(reader: Any, task: Any, index: int, item: Any) -> Any:
        calls.append(index)
        return real(reader, task, index, item)

    monkeypatch.setattr(longbench_run, "_record", counted)
    assert longbench(saved, config, out)["tasks"] == whole
    assert calls == [1, 2]
    assert read_records(out, "qasper") == read_records(tmp_path / "whole", "qasper")


def test_records_of_another_length_or_other_data_are_refused(saved: Path, data: Path, tmp_path: Path) -> None:
    config = LongBenchConfig(max_length=64, tasks=("qasper",), data=data)
    longbench(saved, config, tmp_path / "out")
    with pytest.raises(ValueError, match=r"another max_length \(64 there, 32 here\)"):
        longbench(saved, LongBenchConfig(max_length=32, tasks=("qasper",), data=data), tmp_path / "out")
    (data / "qasper.jsonl").write_text(line(context="other") + "\n")
    with pytest.raises(ValueError, match="records of other items than the data"):
        longbench(saved, config, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="directory of a run of `wavepos train`"):
        longbench(tmp_path, config)


def result(folder: Path, scores: list[float], losses: list[float], item: str = "i") -> Path:
    folder.mkdir(parents=True)
    records = [
        {
            "item": f"{item}{n}",
            "score": score,
            "gold": {"tokens": 2, "with_context": 2 * loss, "without_context": 2 * loss + 1.0 + n},
        }
        for n, (score, loss) in enumerate(zip(scores, losses, strict=True))
    ]
    (folder / "qasper.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    kept = {"settings": {"max_length": 64}, "finished": True, "tasks": {"qasper": {"title": "Qasper"}}}
    (folder / "longbench.json").write_text(json.dumps(kept))
    return folder


def test_figure_11_is_the_difference_of_two_models_item_by_item(tmp_path: Path) -> None:
    first = result(tmp_path / "a" / "longbench-64", [1.0, 0.5, 0.0], [2.0, 3.0, 4.0])
    second = result(tmp_path / "b" / "longbench-64", [0.5, 0.0, 0.1], [2.5, 3.5, 4.5])
    shown = compared(first.parent, second)
    task = shown.data["tasks"][0]
    assert (task["a"], task["b"]) == pytest.approx((50.0, 20.0))
    assert task["score"]["mean"] == pytest.approx(30.0)
    assert task["loss"] == {"mean": -0.5, "half_width": 0.0, "count": 3}
    assert task["gain"]["mean"] == 0.0
    row = next(one for one in shown.lines if one.startswith("| Qasper (3)"))
    assert "| 50.00 | 20.00 | +30.000±" in row
    assert "**−0.500±0.000**" in row
    assert row.endswith("| rope |")
    bar = shown.figures["figure11"][0].axes[0].patches[0]
    assert bar.get_width() == pytest.approx(30.0)


def test_results_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first = result(tmp_path / "a" / "longbench-64", [1.0], [2.0])
    other = result(tmp_path / "b" / "longbench-64", [1.0], [2.0], item="j")
    with pytest.raises(ValueError, match="results on the same items, got others of qasper"):
        compared(first, other)
    result(tmp_path / "a" / "longbench-128", [1.0], [2.0])
    with pytest.raises(ValueError, match=r"holds several results \(longbench-128, longbench-64\): --max-length"):
        compared(tmp_path / "a", other)
    with pytest.raises(FileNotFoundError, match="none in"):
        compared(tmp_path / "c", other)
