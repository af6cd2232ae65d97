"""Training: schedules, optimizers, and runs that are cut off and go on as if they had not been."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim import SGD
from transformers import AutoModelForCausalLM, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from wavepos.console import Update
from wavepos.data import Blocks, PreparedData, prepare
from wavepos.models import baevski_auli_config
from wavepos.storage import MARKER, mark_complete, marked_facts
from wavepos.training.build import build_model
from wavepos.training.callbacks import RunningLoss
from wavepos.training.checkpoints import whole_checkpoint
from wavepos.training.config import TrainConfig, learning_rate
from wavepos.training.recipes import recipe
from wavepos.training.trainer import optimizer_and_schedule, train

WORDS = ["the", "wave", "of", "a", "word", "is", "near", "and", "the", "word", "of", "a", "wave", "is", "far"]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, size=12)) for _ in range(400)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    return f"text:{tmp_path / 'corpus.txt'}"


def small(corpus: str, **fields: object) -> TrainConfig:
    base = recipe("tiny", corpus=corpus, position="wavelet")
    options: dict = {
        "tokenizer": "bpe:300",
        "seq_len": 16,
        "steps": 12,
        "batch_tokens": 64,
        "warmup_steps": 3,
        "save_every": 4,
        "log_every": 1,
        "precision": "fp32",
    }
    return dataclasses.replace(base, **{**options, **fields})


def prepared(config: TrainConfig, tmp_path: Path) -> PreparedData:
    return prepare(config.corpus, config.tokenizer, cache_dir=tmp_path / "cache")


def test_a_run_leaves_model_record_and_logs_and_is_found_again(corpus: str, tmp_path: Path) -> None:
    config, out = small(corpus), tmp_path / "run"
    data = prepared(config, tmp_path)
    seen: list[tuple[int, int, float | None]] = []
    record = train(config, out, data, lambda *state: seen.append(state))
    assert [step for step, _, _ in seen] == list(range(1, 13))
    assert [step for step, _ in record["losses"]] == list(range(1, 13))
    assert record["losses"][-1][1] < record["losses"][0][1]
    assert json.loads((out / "run.json").read_text())["config"] == json.loads(json.dumps(dataclasses.asdict(config)))
    assert record["environment"]["packages"]["torch"] == torch.__version__
    assert (out / "model" / "model.safetensors").exists()
    assert (out / "model" / "tokenizer.json").exists()
    assert list((out / "tensorboard").iterdir())
    before = (out / "run.json").stat().st_mtime_ns
    assert train(config, out, data) == json.loads(json.dumps(record))
    assert (out / "run.json").stat().st_mtime_ns == before


def test_losses_and_speed_go_to_the_trackers_that_are_named(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, float]] = []

    class Tracker(TrainerCallback):
        def on_log(self, args: TrainingArguments, state: object, control: object, logs: dict, **_: object) -> None:
            assert args.run_name == "run"
            told.append(dict(logs))

    def absent() -> None:
        raise RuntimeError("it must be installed: pip install clearml")

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "trackio", Tracker)
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "clearml", absent)
    config, notes = small(corpus, validate_every=6), []
    data = prepared(config, tmp_path)
    with pytest.raises(
        ValueError, match=r"report_to takes some of .*trackio, wandb, got 'trackoi': did you mean 'trac"
    ):
        train(config, tmp_path / "run", data, report_to=["trackoi"])
    with pytest.raises(ImportError, match=r"report_to='clearml': it must be installed: pip install clearml"):
        train(config, tmp_path / "run", data, report_to=["clearml"])
    assert not (tmp_path / "run").exists()
    train(config, tmp_path / "run", data, lambda step, steps, note="": notes.append(note), ["trackio"])
    assert [entry["loss"] for entry in told if "loss" in entry] == pytest.approx(
        [loss for _, loss in json.loads((tmp_path / "run" / "run.json").read_text())["losses"]]
    )
    speeds = [entry["tokens_per_second"] for entry in told if "tokens_per_second" in entry]
    assert len(speeds) == 11  # of twelve updates, each logged: none before the first
    assert min(speeds) > 0
    assert len([entry for entry in told if "valid_loss" in entry]) == 2
    assert notes[-1].startswith("loss ")
    assert notes[-1].endswith("k tokens/s")


def test_another_config_in_the_same_directory_is_refused(corpus: str, tmp_path: Path) -> None:
    config = small(corpus, steps=2, warmup_steps=1)
    data = prepared(config, tmp_path)
    train(config, tmp_path / "run", data)
    with pytest.raises(ValueError, match=r"holds a run with another config \(learning_rate: 0.002 there, 0.5 here\)"):
        train(dataclasses.replace(config, learning_rate=0.5), tmp_path / "run", data)


def test_validation_logs_the_loss_of_the_valid_split_and_changes_no_weight(corpus: str, tmp_path: Path) -> None:
    config = small(corpus, model="llama", seq_len=16)
    data = prepared(config, tmp_path)
    train(config, tmp_path / "without", data)
    record = train(dataclasses.replace(config, validate_every=5), tmp_path / "with", data)
    assert [step for step, _ in record["valid_losses"]] == [5, 10, 12]
    assert [step for step, _ in record["losses"]] == list(range(1, 13))
    one, other = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("without", "with"))
    assert one == other
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "with" / "model").eval()
    blocks = Blocks(data.valid, 16)
    items = [blocks[index] for index in range(len(blocks))]
    ids, targets = (torch.stack([item[key] for item in items]) for key in ("input_ids", "shift_labels"))
    with torch.no_grad():
        assert record["valid_losses"][-1][1] == pytest.approx(float(model.token_losses(ids, targets).mean()), rel=1e-5)


SCRIPT = """
import sys, json
from pathlib import Path
from wavepos.console import Update
from wavepos.data import prepare
from wavepos.training.config import TrainConfig
from wavepos.training.trainer import train
config = TrainConfig(**json.loads(sys.argv[1]))
data = prepare(config.corpus, config.tokenizer, cache_dir=Path(sys.argv[3]))
def observe(step, steps, note):
    print(step, flush=True)
    if step == int(sys.argv[4]):
        sys.stdin.readline()  # goes on once the signal was sent, however late
train(config, Path(sys.argv[2]), data, observe)
"""


def cut_off(config: TrainConfig, out: Path, cache: Path, after: int, number: int) -> int:
    """Start the run in a process of its own and send it the signal after that update; returns its exit status."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(dataclasses.asdict(config)), str(out), str(cache), str(after)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None and process.stdin is not None
        for line in process.stdout:
            if int(line) == after:
                os.kill(process.pid, number)
                process.stdin.close()
                break
        process.stdout.read()
        return process.wait(timeout=600)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=["kill -9", "Ctrl-C", "SIGTERM"]
)
def test_a_run_that_is_cut_off_goes_on_to_the_same_losses(corpus: str, tmp_path: Path, number: int) -> None:
    config = small(corpus, steps=40, optimizer="nag", learning_rate=0.05, log_every=7)
    data = prepared(config, tmp_path)
    whole = train(config, tmp_path / "whole", data)
    status = cut_off(config, tmp_path / "cut", tmp_path / "cache", after=10, number=number)
    assert status != 0
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["status"] == "started"
    assert whole_checkpoint(tmp_path / "cut" / "checkpoints") is not None
    steps: list[int] = []
    resumed = train(config, tmp_path / "cut", data, lambda step, total, loss: steps.append(step))
    assert steps[0] > 4
    assert resumed["losses"] == whole["losses"]
    assert (tmp_path / "cut/model/model.safetensors").read_bytes() == (
        tmp_path / "whole/model/model.safetensors"
    ).read_bytes()


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def cut_after(update: int) -> Update:
    """A progress with which a run ends as by a crash in that update."""

    def observe(step: float, steps: float | None, note: str = "") -> None:
        if step == update:
            raise RuntimeError("crash")

    return observe


def no_update(step: int, steps: int, loss: float | None) -> None:
    raise AssertionError(f"update {step} was made again")


def test_a_run_at_its_last_checkpoint_is_only_finished(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(corpus, final_learning_rate=1e-3)  # at 0 an update too many would change nothing
    data = prepared(config, tmp_path)
    whole = train(config, tmp_path / "whole", data)

    def full_disk(*arguments: object, **options: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr("wavepos.training.finish._save_model", full_disk)
        train(config, tmp_path / "cut", data)
    resumed = train(config, tmp_path / "cut", data, no_update)
    assert resumed["losses"] == whole["losses"]
    assert resumed["parameters"] == whole["parameters"]
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_signal_in_the_last_update_only_finishes_the_run(corpus: str, tmp_path: Path) -> None:
    config = small(corpus)
    data = prepared(config, tmp_path)
    whole = train(config, tmp_path / "whole", data)

    def stop(step: int, steps: int, loss: float | None) -> None:
        if step == steps - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = train(config, tmp_path / "stopped", data, stop)
    assert (stopped["status"], stopped["losses"]) == ("finished", whole["losses"])
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_signals_are_given_back_when_training_fails(corpus: str, tmp_path: Path) -> None:
    config, before = small(corpus), signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="crash"):
        train(config, tmp_path / "run", prepared(config, tmp_path), cut_after(2))
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("finished", [False, True], ids=["started", "finished"])
def test_a_changed_corpus_is_refused(corpus: str, tmp_path: Path, finished: bool) -> None:
    config, path = small(corpus), Path(corpus.removeprefix("text:"))
    if finished:
        train(config, tmp_path / "run", prepared(config, tmp_path))
    else:
        with pytest.raises(RuntimeError, match="crash"):
            train(config, tmp_path / "run", prepared(config, tmp_path), cut_after(6))
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("wave", "tide"), encoding="utf-8")
    changed = "train split and its valid split and its tokenizer changed since: restore the text that it began with"
    with pytest.raises(ValueError, match=f"holds a run on other data: of corpus .* its {changed}"):
        train(config, tmp_path / "run", prepared(config, tmp_path))
    path.write_text(text, encoding="utf-8")
    assert train(config, tmp_path / "run", prepared(config, tmp_path))["status"] == "finished"


def test_a_run_goes_on_with_its_data_in_another_place(corpus: str, tmp_path: Path) -> None:
    config = small(corpus)
    whole = train(config, tmp_path / "whole", prepared(config, tmp_path))
    with pytest.raises(RuntimeError, match="crash"):
        train(config, tmp_path / "run", prepared(config, tmp_path), cut_after(6))
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copyfile(corpus.removeprefix("text:"), tmp_path / "elsewhere" / "copy.txt")
    moved = dataclasses.replace(config, corpus=f"text:{copy}")
    data = prepare(moved.corpus, moved.tokenizer, cache_dir=tmp_path / "another cache")
    record = train(moved, tmp_path / "run", data)
    assert record["losses"] == whole["losses"]
    assert record["config"]["corpus"] == moved.corpus


def test_a_record_of_an_older_version_is_completed(corpus: str, tmp_path: Path) -> None:
    config = small(corpus)
    data = prepared(config, tmp_path)
    record = json.loads(json.dumps(train(config, tmp_path / "run", data)))
    older = {key: value for key, value in record.items() if key != "data"}
    older["config"] = {key: value for key, value in record["config"].items() if key not in ("sharding", "start_from")}
    older["config"]["position"] = {"method": "wavelet"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(older))
    assert train(config, tmp_path / "run", data, no_update) == record
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"] == data.fingerprint
    del older["config"]["seed"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(older))
    with pytest.raises(ValueError, match=r"another config \(seed: 0 there, 5 here\)"):
        train(dataclasses.replace(config, seed=5), tmp_path / "run", data)


def test_unlogged_losses_go_to_the_processes_that_go_on() -> None:
    saved = {"updates": 3, "sums": [6.0, 12.0]}
    for processes, own in ((2, [6.0, 12.0]), (1, [9.0]), (3, [9.0, 9.0, 9.0])):
        for process in range(processes):
            losses = RunningLoss()
            losses.restore(**saved, process=process, processes=processes)
            assert losses.sums() == [own[process]]
            losses.add(torch.tensor(3.0))
            losses.end_update()
            assert losses.take() == (own[process] + 3.0) / 4
            assert losses.sums() == [0.0]


def test_checkpoints_cut_off_in_the_middle_are_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert whole_checkpoint(tmp_path) is None
    for number in (5, 10, 15):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / "optimizer.pt").write_text("state")
    for number in (5, 10):
        mark_complete(tmp_path / f"checkpoint-{number}", {"seconds": 1.0})
    assert whole_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-15").exists()
    assert "checkpoint-15 was cut off while it was written: removed." in " ".join(capsys.readouterr().out.split())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("optimizer.pt", Path.unlink, "optimizer.pt is missing"),
        ("scheduler.pt", Path.unlink, "scheduler.pt is missing"),
        ("rng_state.pth", Path.unlink, "rng_state.pth is missing"),
        ("trainer_state.json", Path.unlink, "trainer_state.json is missing"),
        ("model.safetensors", cut, "model.safetensors has "),
        ("optimizer.pt", alter, "optimizer.pt is not what was written"),
        (MARKER, cut, f"{MARKER} cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_older_whole_checkpoint_is_taken_where_the_newest_is_damaged(
    corpus: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path], None],
    told: str,
) -> None:
    config, out = small(corpus), tmp_path / "run"
    data = prepared(config, tmp_path)
    whole = train(config, tmp_path / "whole", data)
    with pytest.raises(RuntimeError, match="crash"):
        train(config, out, data, cut_after(10))
    damage(out / "checkpoints" / "checkpoint-8" / name)
    steps: list[int] = []
    resumed = train(config, out, data, lambda step, total, loss: steps.append(step))
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Damaged and removed: checkpoint-8: {told}" in printed
    assert "Going on from checkpoint-4." in printed
    assert steps[0] == 5
    assert resumed["losses"] == whole["losses"]
    assert weights(out) == weights(tmp_path / "whole")


def test_damaged_checkpoints_alone_are_refused(corpus: str, tmp_path: Path) -> None:
    config, out = small(corpus), tmp_path / "run"
    data = prepared(config, tmp_path)
    with pytest.raises(RuntimeError, match="crash"):
        train(config, out, data, cut_after(10))
    for number in (4, 8):
        (out / "checkpoints" / f"checkpoint-{number}" / "optimizer.pt").unlink()
    message = r"every checkpoint in .* is damaged \(checkpoint-8: optimizer.pt is missing; checkpoint-4: .*delete .* to"
    with pytest.raises(ValueError, match=message):
        train(config, out, data, no_update)
    assert len(list((out / "checkpoints").iterdir())) == 2


def test_a_checkpoint_that_holds_something_else_is_one_sentence(corpus: str, tmp_path: Path) -> None:
    config, out = small(corpus), tmp_path / "run"
    data = prepared(config, tmp_path)
    with pytest.raises(RuntimeError, match="crash"):
        train(config, out, data, cut_after(6))
    checkpoint = out / "checkpoints" / "checkpoint-4"
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        kept = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(b"{}")
        mark_complete(checkpoint, marked_facts(checkpoint))
        with pytest.raises(
            ValueError, match=r"checkpoint-4 cannot be gone on from \(.*\): delete it, and the same comm"
        ):
            train(config, out, data, no_update)
        (checkpoint / name).write_bytes(kept)
    mark_complete(checkpoint, marked_facts(checkpoint))
    assert train(config, out, data)["status"] == "finished"


def test_a_checkpoint_marked_before_lists_were_kept_needs_its_states(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-4"
    folder.mkdir()
    names = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
    for name in names:
        (folder / name).touch()
    (folder / MARKER).write_text('{"step": 4, "seconds": 1.0}')
    assert whole_checkpoint(tmp_path) == folder
    (folder / "scheduler.pt").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-4: scheduler\.pt is missing"):
        whole_checkpoint(tmp_path)


def test_the_papers_schedule() -> None:
    config = recipe("paper", corpus="wikitext103", position="wavelet")
    assert learning_rate(config, 0) == 1e-7
    assert learning_rate(config, 8_000) == pytest.approx(0.5, rel=1e-6)
    assert learning_rate(config, 16_000) == pytest.approx(1.0)
    assert learning_rate(config, 16_000 + 135_000) == pytest.approx(0.50005)
    assert learning_rate(config, 286_000) == pytest.approx(1e-4)
    assert (config.gradient_clip, config.optimizer, config.steps) == (0.1, "nag", 286_000)
    assert config.micro_batch(8) == (18, 1)
    assert config.micro_batch(1) == (18, 8)


def test_nag_is_fairseqs() -> None:
    """fairseq's update, written out, with a learning rate that changes at every step."""
    rng = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(5, generator=rng, dtype=torch.float64))
    theirs, buffer, old_lr = parameter.detach().clone(), torch.zeros(5, dtype=torch.float64), None
    optimizer = SGD([parameter], lr=1.0, momentum=0.99, nesterov=True)
    for step in range(8):
        lr = 0.1 + 0.05 * step
        gradient = torch.randn(5, generator=rng, dtype=torch.float64)
        correct = 1.0 if old_lr is None else lr / old_lr
        theirs += 0.99 * 0.99 * correct * buffer - (1.0 + 0.99) * lr * gradient
        buffer = 0.99 * correct * buffer - lr * gradient
        old_lr = lr
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = gradient
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), theirs)


def test_weight_decay_spares_embeddings_norms_biases_and_positions() -> None:
    config = dataclasses.replace(recipe("tiny", corpus="stdlib", position="transformer_xl"), weight_decay=0.1)
    model = build_model(config, 300)
    optimizer, _ = optimizer_and_schedule(config, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    assert decayed == {f"layers.{layer}.{part}.weight" for layer in range(4) for part in ("qkv", "out", "up", "down")}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be positive and finite, got -1.0"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, nag, got 'sgd'"),
        ({"warmup_steps": 13}, "warmup_steps must lie between 0 and steps=12, got 13"),
        ({"size": "huge"}, "size must be one of tiny, small, paper, probe for model baevski-auli, got 'huge'"),
        ({"position": {"method": "wavelet", "scale": 1}}, "unknown key 'scale'"),
    ],
    ids=str,
)
def test_wrong_configs_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small("stdlib", **fields)


def test_a_batch_that_cannot_be_divided_is_named() -> None:
    with pytest.raises(ValueError, match="batch_tokens=64, 3 devices, micro-batch 21, seq_len=16"):
        small("stdlib").micro_batch(3)


def test_a_corpus_shorter_than_a_block_is_named(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("only a few words\nand a line\n", encoding="utf-8")
    config = small(f"text:{tmp_path / 'short.txt'}", seq_len=128, batch_tokens=256)
    with pytest.raises(ValueError, match=r"seq_len=128 needs at least 129 tokens for one block"):
        train(config, tmp_path / "run", prepared(config, tmp_path))


def test_sizes_have_their_names() -> None:
    with pytest.raises(ValueError, match="size must be one of tiny, small, paper"):
        baevski_auli_config("huge", 300, "nope")  # type: ignore[arg-type]
