"""What Trainer lacks for runs that are cut off: checkpoints known to be whole, a clean stop on Ctrl-C, progress."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from wavepos.data import Blocks
from wavepos.provenance import write_json
from wavepos.training_processes import any_process, wait_for_all

MARKER = "complete.json"


def complete_checkpoint(directory: Path) -> str | None:
    """The newest checkpoint that was written to its end; those cut off in the middle of writing are removed."""
    found: list[tuple[int, Path]] = []
    for path in directory.glob("checkpoint-*"):
        if (path / MARKER).exists():
            found.append((int(path.name.rpartition("-")[2]), path))
        else:
            shutil.rmtree(path)
    return str(max(found)[1]) if found else None


class CompleteCheckpoints(TrainerCallback):  # type: ignore[misc] # transformers is untyped here
    """Marks each checkpoint once all of it is on disk, and carries the seconds trained so far across restarts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.seconds = 0.0
        self._since = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        marker = self.directory / f"checkpoint-{state.global_step}" / MARKER
        self.seconds = json.loads(marker.read_text())["seconds"] if marker.exists() else 0.0
        self._since = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        wait_for_all()  # each process writes a part
        if state.is_world_process_zero:
            marker = self.directory / f"checkpoint-{state.global_step}" / MARKER
            write_json(marker, {"step": state.global_step, "seconds": self.seconds})


class StopOnSignal(TrainerCallback):  # type: ignore[misc] # as above
    """On Ctrl-C or SIGTERM to any process: all finish the update, save, stop. A second signal ends it at once."""

    def __init__(self) -> None:
        self.requested = False
        self._signalled = False
        self._former: dict[int, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only
        for number in (signal.SIGINT, signal.SIGTERM):
            self._former[number] = signal.signal(number, self._request)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.requested = any_process(self._signalled, args.device)  # or some would go on and wait for the others
        if self.requested and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}


class Validation(TrainerCallback):  # type: ignore[misc] # as above
    """Logs the mean loss on the first blocks of the valid split as "valid_loss"; draws no random number.

    Every process reads the same blocks, so that shards of a model are gathered by all of them.

    Args:
        blocks: of the valid split.
        num_tokens: targets read, at most, and at least one block.
        every: updates from one validation to the next; the last update is followed by one.
        precision: dtype of matrix products, as in training; None: float32.
        log: Trainer's own `log`.
    """

    def __init__(
        self,
        blocks: Blocks,
        num_tokens: int,
        every: int,
        precision: torch.dtype | None,
        log: Callable[[dict[str, float]], None],
    ) -> None:
        count = min(len(blocks), max(1, num_tokens // blocks.seq_len))
        self._loader = DataLoader(Subset(blocks, range(count)), batch_size=max(1, 8192 // blocks.seq_len))
        self._every, self._precision, self._log = every, precision, log

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self._every and state.global_step < state.max_steps:
            return
        model: nn.Module = kwargs["model"]
        model.eval()
        nats, tokens = 0.0, 0
        device = args.device
        with torch.no_grad(), torch.autocast(device.type, self._precision, enabled=self._precision is not None):
            for batch in self._loader:
                targets = batch["shift_labels"].to(device)
                loss = model(input_ids=batch["input_ids"].to(device), shift_labels=targets).loss
                nats, tokens = nats + float(loss) * targets.numel(), tokens + targets.numel()
        model.train()
        self._log({"valid_loss": nats / tokens})


class Observer(TrainerCallback):  # type: ignore[misc] # as above
    """Tells a function of each update: (update, updates, last logged loss)."""

    def __init__(self, observe: Callable[[int, int, float | None], None] | None) -> None:
        self._observe = observe

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._observe is not None and state.is_world_process_zero:
            logged = [entry["loss"] for entry in state.log_history[-3:] if "loss" in entry]
            self._observe(state.global_step, state.max_steps, logged[-1] if logged else None)
