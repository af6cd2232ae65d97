"""What `tests/test_distributed.py` starts twice under torchrun: training, sharding and tensor parallelism on gloo.

The folder given holds what one process left there; what these two find goes beside it, for one process to compare.
"""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState
from torch import Tensor, distributed
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

import wavepos.training.arguments as arguments_module
from wavepos.data import prepare
from wavepos.models import WaveposLlamaForCausalLM
from wavepos.training.config import TrainConfig
from wavepos.training.recipes import recipe
from wavepos.training.trainer import train

STEPS, CUT = 16, 6
SHARDED_STEPS = 5
TENSOR_PARALLEL = ("nope", "rotary", "wavelet")
PER_HEAD: dict[str, dict[str, Any]] = {
    "alibi": {"method": "alibi"},
    "recency": {"method": "wavelet", "query_bias": "recency"},
}


def run_config(corpus: str, micro_batch_tokens: int | None = None) -> TrainConfig:
    """A Llama on a text of a few more blocks than updates fill, so that it meets several epochs."""
    base = recipe("tiny", model="llama", corpus=corpus, position="wavelet")
    options: dict[str, Any] = {"tokenizer": "bpe:300", "seq_len": 16, "steps": STEPS, "batch_tokens": 64}
    options |= {"learning_rate": 1e-3, "warmup_steps": 3, "save_every": 4, "log_every": 1, "precision": "fp32"}
    return dataclasses.replace(base, **options, micro_batch_tokens=micro_batch_tokens)


def cut_in(update: int) -> Callable[[int, int, float | None], None]:
    """An observer by which Ctrl-C comes when that update begins, in the process that observes and in no other."""

    def observe(step: int, steps: int, loss: float | None) -> None:
        if step == update - 1:
            os.kill(os.getpid(), signal.SIGINT)

    return observe


def batches(vocab_size: int) -> Tensor:
    """Tokens of some updates, each time the same to be learned by heart, int64 [updates, rows, tokens]."""
    ids = torch.randint(vocab_size, (1, 4, 24), generator=torch.Generator().manual_seed(3))
    return ids.expand(SHARDED_STEPS, -1, -1)


def steps(model: torch.nn.Module, tokens: Tensor) -> list[Tensor]:
    """The loss before each update."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for ids in tokens:
        loss = model(input_ids=ids, labels=ids).loss
        losses.append(loss.detach())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses


def _train(folder: Path) -> None:
    corpus = f"text:{folder / 'corpus.txt'}"
    data = prepare(corpus, "bpe:300", cache_dir=folder / "cache-of-two")  # both at once
    train(run_config(corpus), folder / "two", data)
    try:
        train(run_config(corpus), folder / "two-then-one", data, cut_in(CUT))
    except KeyboardInterrupt:
        (folder / f"stopped-{distributed.get_rank()}").touch()
    train(run_config(corpus), folder / "one-then-two", data)


def _train_sharded(folder: Path) -> None:
    """Trainer's FSDP2, which accelerate keeps for accelerators: it is told that this is one."""
    AcceleratorState._reset_state(True)
    prepare_backend, set_device = PartialState._prepare_backend, PartialState.set_device
    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_XPU)
    PartialState.set_device = lambda state: setattr(state, "device", torch.device("cpu"))
    arguments_module._check_devices = lambda: None
    corpus = f"text:{folder / 'corpus.txt'}"
    data = prepare(corpus, "bpe:300", cache_dir=folder / "cache-of-two")
    config = dataclasses.replace(run_config(corpus), sharding="fsdp", gradient_checkpointing=True)
    try:
        train(config, folder / "fsdp", data, cut_in(CUT))
    except KeyboardInterrupt:
        train(config, folder / "fsdp", data)
    PartialState._prepare_backend, PartialState.set_device = prepare_backend, set_device


def _shard(folder: Path) -> dict[str, Any]:
    rank = distributed.get_rank()
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "recency")
    full = {name: weight.clone() for name, weight in model.state_dict().items()} if rank == 0 else {}
    with torch.no_grad():  # the weights below are what is loaded, not what stood here
        for parameter in model.parameters():
            parameter.zero_()
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, cpu_offload=True)
    set_model_state_dict(model, full, options=options)
    losses = steps(model.train(), batches(model.config.vocab_size)[:, 2 * rank : 2 * rank + 2])
    mean = torch.stack(losses)
    distributed.all_reduce(mean)
    weights = get_model_state_dict(model, options=options)
    if rank == 0:
        WaveposLlamaForCausalLM(model.config).save_pretrained(folder / "sharded", state_dict=weights)
    held = sum(parameter.to_local().numel() for parameter in model.parameters())
    return {"losses": (mean / 2).tolist(), "held": held}


def _tensor_parallel(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    ids = batches(64)[0]
    for name in (*TENSOR_PARALLEL, *PER_HEAD):
        model = AutoModelForCausalLM.from_pretrained(folder / name, tp_plan="auto").eval()
        try:
            with torch.no_grad():
                found[name] = model(ids).logits.tolist()
        except ValueError as error:
            found[name] = str(error)
        if name == "wavelet":
            found["generated"] = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0).tolist()
    return found


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    _train(folder)
    found = {"shard": _shard(folder), "tensor_parallel": _tensor_parallel(folder)}
    _train_sharded(folder)
    (folder / f"found-{distributed.get_rank()}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
