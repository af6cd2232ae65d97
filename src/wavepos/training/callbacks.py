"""What Trainer lacks for runs that are cut off: checkpoints known to be whole, a clean stop on Ctrl-C, progress."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from wavepos.console import Update
from wavepos.data import TrainingSet
from wavepos.training.checkpoints import mark_complete, marked_facts
from wavepos.training.processes import any_process, each_process, wait_for_all


class RunningLoss:
    """The losses of this process since the last logged mean, kept across restarts."""

    def __init__(self) -> None:
        self.updates = 0
        self._sum: Tensor | float = 0.0

    def add(self, loss: Tensor) -> None:
        """Add the loss of a micro-batch, divided by the micro-batches of an update; it stays on its device."""
        self._sum = self._sum + loss.detach()

    def take(self) -> float:
        """The mean over updates and processes; begins anew."""
        sums, updates = self.sums(), self.updates
        self.updates, self._sum = 0, 0.0
        return sum(sums) / len(sums) / updates

    def sums(self) -> list[float]:
        """The sum of each process."""
        return each_process(float(self._sum))

    def restore(self, updates: int, sums: list[float], process: int, processes: int) -> None:
        """Go on from what was saved; another number of processes shares its mean."""
        self.updates = updates
        own = sums[process] if len(sums) == processes else sum(sums) / len(sums)
        self._sum = torch.tensor(own)


class Speed:
    """Tokens per second between two logged losses, with all that lies between: data, checkpoints, validation.

    Args:
        batch_tokens: of an update, over all devices.
    """

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens = batch_tokens
        self._last: tuple[int, float] | None = None

    def since_last(self, step: int) -> dict[str, float]:
        """{"tokens_per_second": …} since the last call; nothing at the first, and after no update."""
        last, self._last = self._last, (step, time.monotonic())
        if last is None or step == last[0]:
            return {}
        return {"tokens_per_second": round((step - last[0]) * self._batch_tokens / (self._last[1] - last[1]))}


class CompleteCheckpoints(TrainerCallback):  # type: ignore[misc] # transformers is untyped here
    """Marks each checkpoint once all of it is on disk; carries seconds and unlogged losses across restarts."""

    def __init__(self, directory: Path, losses: RunningLoss) -> None:
        self.directory = directory
        self._losses = losses
        self._seconds = 0.0
        self._since = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        facts = marked_facts(self.directory / f"checkpoint-{state.global_step}")
        self._seconds = facts.get("seconds", 0.0)
        if "unlogged" in facts:
            self._losses.restore(**facts["unlogged"], process=args.process_index, processes=args.world_size)
        self._since = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._losses.updates += 1
        now = time.monotonic()
        self._seconds, self._since = self._seconds + now - self._since, now

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        unlogged = {"updates": self._losses.updates, "sums": self._losses.sums()}
        wait_for_all()  # each process writes a part
        if state.is_world_process_zero:
            facts = {"step": state.global_step, "seconds": self._seconds, "unlogged": unlogged}
            mark_complete(self.directory / f"checkpoint-{state.global_step}", facts)


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

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        self.restore()

    def restore(self) -> None:
        """Give the signals back to those who had them before."""
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
        blocks: TrainingSet,
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
        asked = control.should_log
        self._log({"valid_loss": nats / tokens})
        control.should_log = asked  # Trainer takes any log for that of the training's loss


class TellProgress(TrainerCallback):  # type: ignore[misc] # as above
    """Tells of each update, with the last logged loss and the speed up to it."""

    def __init__(self, update: Update | None) -> None:
        self._update = update

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._update is not None and state.is_world_process_zero:
            logged = next((entry for entry in reversed(state.log_history) if "loss" in entry), None)
            self._update(state.global_step, state.max_steps, "" if logged is None else _told(logged))


def _told(logged: dict[str, float]) -> str:
    speed = logged.get("tokens_per_second")
    return f"loss {logged['loss']:.3f}" + ("" if speed is None else f", {speed / 1000:.1f}k tokens/s")


def trackers_by_name(names: Sequence[str]) -> list[TrainerCallback]:
    """The callbacks of trackers that Trainer serves.

    Raises:
        ValueError: a name that Trainer does not know.
        ImportError: its package is not installed.
    """
    served = sorted(set(INTEGRATION_TO_CALLBACK) - {"tensorboard"})  # which every run directory has
    trackers = []
    for name in names:
        if name not in served:
            near = get_close_matches(name, served, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"report_to takes some of {', '.join(served)}, got {name!r}{hint}")
        try:
            trackers.append(INTEGRATION_TO_CALLBACK[name]())
        except (RuntimeError, ImportError) as error:  # its package is not installed
            raise ImportError(f"report_to={name!r}: {error}") from error
    return trackers
