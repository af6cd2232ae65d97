"""Two processes on gloo give what one gives: through Trainer, sharded, and with the heads divided."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from two_processes import CUT, PER_HEAD, STEPS, TENSOR_PARALLEL, batches, cut_in, run_config, steps

from wavepos.data import Blocks, PreparedData, prepare
from wavepos.models import WaveposLlamaConfig, WaveposLlamaForCausalLM
from wavepos.training.checkpoints import whole_checkpoint
from wavepos.training.trainer import train

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compares processes on CPUs, one of them this one")

WORDS = ["the", "wave", "of", "a", "word", "is", "near", "and", "the", "word", "of", "a", "wave", "is", "far"]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def prepared(folder: Path) -> PreparedData:
    return prepare(f"text:{folder / 'corpus.txt'}", "bpe:300", cache_dir=folder / "cache")


def losses(folder: Path) -> list[float]:
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert [step for step, _ in record["losses"]] == list(range(1, STEPS + 1))
    return [loss for _, loss in record["losses"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process did, then two, in one folder."""
    folder = tmp_path_factory.mktemp("two")
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, size=12)) for _ in range(40)]
    (folder / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    data, config = prepared(folder), run_config(f"text:{folder / 'corpus.txt'}")
    assert len(Blocks(data.train, 16)) % 4 != 0
    assert len(Blocks(data.train, 16)) < 4 * STEPS
    train(config, folder / "one", data)
    with pytest.raises(KeyboardInterrupt, match=f"stopped after update {CUT} of {STEPS}"):
        train(config, folder / "one-then-two", data, cut_in(CUT))
    torch.manual_seed(0)
    for name, position in {**{name: {"method": name} for name in TENSOR_PARALLEL}, **PER_HEAD}.items():
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = WaveposLlamaConfig(vocab_size=64, num_key_value_heads=2, position=position, **sizes)
        WaveposLlamaForCausalLM(model).save_pretrained(folder / name)
    script = Path(__file__).parents[1] / "helpers" / "two_processes.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [*TORCHRUN, str(script), str(folder)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def found(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_log_the_losses_of_one(folder: Path) -> None:
    np.testing.assert_allclose(losses(folder / "two"), losses(folder / "one"), rtol=0, atol=1e-5)


def test_accumulated_gradients_are_those_of_the_whole_batch(folder: Path) -> None:
    config = run_config(f"text:{folder / 'corpus.txt'}", micro_batch_tokens=16)
    train(config, folder / "accumulated", prepared(folder))
    np.testing.assert_allclose(losses(folder / "accumulated"), losses(folder / "one"), rtol=0, atol=1e-5)


def test_a_signal_to_one_process_stops_both_at_the_same_update(folder: Path) -> None:
    assert (folder / "stopped-0").exists()
    assert (folder / "stopped-1").exists()
    checkpoint = whole_checkpoint(folder / "two-then-one" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.name == f"checkpoint-{CUT}"


def test_a_run_of_two_processes_goes_on_in_one(folder: Path) -> None:
    seen: list[int] = []
    config = run_config(f"text:{folder / 'corpus.txt'}")
    train(config, folder / "two-then-one", prepared(folder), lambda step, _, __: seen.append(step))
    assert seen[0] == CUT + 1
    np.testing.assert_allclose(losses(folder / "two-then-one"), losses(folder / "one"), rtol=0, atol=1e-5)


def test_a_run_of_one_process_goes_on_in_two(folder: Path) -> None:
    np.testing.assert_allclose(losses(folder / "one-then-two"), losses(folder / "one"), rtol=0, atol=1e-5)


def test_trainers_shards_learn_what_one_process_does(folder: Path) -> None:
    np.testing.assert_allclose(losses(folder / "fsdp"), losses(folder / "one"), rtol=0, atol=1e-5)
    ours, whole = (AutoModelForCausalLM.from_pretrained(folder / run / "model").state_dict() for run in ("fsdp", "one"))
    for name, weight in whole.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-3, msg=name)


def test_only_the_first_process_writes(folder: Path) -> None:
    assert len(list((folder / "two" / "tensorboard").iterdir())) == 1
    assert sorted(path.name for path in (folder / "two").iterdir()) == ["model", "run.json", "tensorboard"]


def test_a_sharded_model_learns_what_a_whole_one_does(folder: Path, found: list[dict[str, Any]]) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder / "recency").train()
    whole = torch.stack(steps(model, batches(model.config.vocab_size))).tolist()
    assert whole[-1] < whole[0]
    for rank in found:
        np.testing.assert_allclose(rank["shard"]["losses"], whole, rtol=0, atol=1e-5)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(rank["shard"]["held"] for rank in found) == total
    assert max(rank["shard"]["held"] for rank in found) < 0.6 * total


def test_weights_of_a_sharded_model_load_in_one_process(folder: Path) -> None:
    sharded = AutoModelForCausalLM.from_pretrained(folder / "sharded")
    whole = AutoModelForCausalLM.from_pretrained(folder / "recency").train()
    steps(whole, batches(whole.config.vocab_size))
    theirs = sharded.state_dict()
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(theirs[name], weight, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", TENSOR_PARALLEL)
def test_divided_heads_give_the_logits_of_whole_ones(name: str, folder: Path, found: list[dict[str, Any]]) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder / name).eval()
    ids = batches(64)[0]
    with torch.no_grad():
        expected = model(ids).logits
    for rank in found:
        torch.testing.assert_close(torch.tensor(rank["tensor_parallel"][name]), expected, rtol=0, atol=1e-5)
    if name == "wavelet":
        written = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0).tolist()
        assert [rank["tensor_parallel"]["generated"] for rank in found] == [written, written]


@pytest.mark.parametrize("name", PER_HEAD)
def test_methods_with_heads_of_their_own_refuse_to_be_divided(name: str, found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert (
            "tensor parallelism is served for methods that are the same for every head"
            in (rank["tensor_parallel"][name])
        )
