"""Training in several processes: what only the first does, and what all must agree on. Alone, none of it does anything.

The processes are those that `torchrun` or `accelerate launch` starts, joined once a `TrainingArguments` exists.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import distributed

from wavepos.console import is_first_process

T = TypeVar("T")


def in_first(work: Callable[[], T]) -> T:
    """Do the work in the first process while the others wait; its result, or its error, in all of them."""
    if not _joined():
        return work()
    outcome: list[Any] = [None, None]
    if is_first_process():
        try:
            outcome[0] = work()
        except Exception as error:  # every process must fail alike, or the others would wait for ever
            outcome[1] = error
    distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process."""
    if not _joined():
        return flag
    flags = torch.tensor(int(flag), device=device)
    distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
    return bool(flags.item())


def each_process(value: T) -> list[T]:
    """The value of every process, in all of them."""
    if not _joined():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Return when every process is here."""
    if _joined():
        distributed.barrier()


def leave() -> None:
    """Part from the other processes; this one can no longer train with them."""
    if _joined():
        distributed.destroy_process_group()


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()
