"""A run ends at the first loss, or weight, that is not finite, and no checkpoint is written from one."""

import math
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from wavepos.data import Blocks, TrainingSet
from wavepos.training.checkpoints import newest_marked
from wavepos.training.config import TrainConfig
from wavepos.training.processes import any_process, each_process

INDEX = "index"
"""Key of an item's place in its training set."""
MOST_HELD, MOST_NAMED = 1024, 8
"""Losses held back at most, and items named at most."""


@final
class Numbered(Dataset[dict[str, Tensor]]):
    """A training set whose items also hold their place in it, int64 [], as "index"."""

    def __init__(self, items: TrainingSet) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {**self._items[index], INDEX: torch.tensor(index)}


class Divergence(TrainerCallback):  # type: ignore[misc] # transformers is untyped here
    """Raises FloatingPointError for a loss that is not finite, before it is logged or a checkpoint is written.

    One process on a CPU looks at every update. Elsewhere a look would wait for the device: there it is taken where a
    loss is logged or a checkpoint is due, and still names the first update that was not finite. Weights are looked at
    where a checkpoint is due.

    Args:
        config: the run.
        directory: of its checkpoints.
        items: what is trained on.
    """

    def __init__(self, config: TrainConfig, directory: Path, items: TrainingSet) -> None:
        self._config, self._directory = config, directory
        kind = "blocks" if isinstance(items, Blocks) else "examples"
        self._kind = f"{kind} of {config.seq_len} tokens of corpus {config.corpus!r}"
        self._held: list[tuple[Tensor, Tensor]] = []
        self._ends: list[int] = []

    def add(self, loss: Tensor, indices: Tensor) -> None:
        """Hold back the loss of a micro-batch, and the places of its items; both stay on their device."""
        self._held.append((loss.detach(), indices))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._ends.append(len(self._held))
        at_once = args.device.type == "cpu" and args.world_size == 1
        if not (at_once or control.should_log or control.should_save or len(self._held) >= MOST_HELD):
            return
        found = self._not_finite(state.global_step)
        if any_process(found is not None, args.device):
            update, told = min(each for each in each_process(found) if each is not None)
            raise self._error(f"the loss of update {update:,} of {self._config.steps:,} is {told}")
        self._held, self._ends = [], []
        if control.should_save and any_process(not _finite(kwargs["model"]), args.device):
            raise self._error(f"weights are not finite after update {state.global_step:,} of {self._config.steps:,}")

    def check_validation(self, loss: float, update: int) -> None:
        """Refuse a loss on the valid split that is not finite."""
        if not math.isfinite(loss):
            raise self._error(f"the loss on the valid split after update {update:,} is {loss}")

    def _not_finite(self, update: int) -> tuple[int, str] | None:
        """The first update whose loss is not finite here, and what to say of it."""
        losses = torch.stack([loss for loss, _ in self._held]).tolist()
        for number, loss in enumerate(losses):
            if not math.isfinite(loss):
                behind = sum(end > number for end in self._ends) - 1
                return update - behind, f"{loss}, read from {self._named(self._held[number][1].tolist())}"
        return None

    def _named(self, indices: list[int]) -> str:
        named = ", ".join(map(str, sorted(indices)[:MOST_NAMED]))
        more = f" and {len(indices) - MOST_NAMED} more" if len(indices) > MOST_NAMED else ""
        return f"{named}{more} of the {self._kind}"

    def _error(self, what: str) -> FloatingPointError:
        return diverged(what, self._config, self._directory)


def diverged(what: str, config: TrainConfig, directory: Path) -> FloatingPointError:
    """The error of a run that diverged.

    Args:
        what: a sentence that says what is not finite.
        config: the run.
        directory: of its checkpoints.
    """
    last = newest_marked(directory)
    good = "no checkpoint was written before" if last is None else f"the last good checkpoint is {last}"
    return FloatingPointError(
        f"training diverged: {what}; {good}. Give a lower learning_rate (now {config.learning_rate:g}), a longer "
        f"warm-up (now {config.warmup_steps:,}) or a smaller gradient_clip (now {config.gradient_clip:g}), in another "
        f"directory"
    )


def _finite(model: nn.Module) -> bool:
    parts = (p.to_local() if isinstance(p, DTensor) else p for p in model.parameters())
    return bool(torch.stack([part.detach().isfinite().all() for part in parts]).all())
