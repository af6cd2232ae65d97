"""Training that runs out of memory or disk, or into a checkpoint that cannot be read, says what would do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

from wavepos.console import first_line, is_out_of_memory
from wavepos.storage import is_full
from wavepos.training.config import TrainConfig


@contextmanager
def explained(
    config: TrainConfig, out: Path, devices: int, checkpoint: Path | None, is_reading: Callable[[], bool]
) -> Iterator[None]:
    """Turn the failures of training that users can mend into one sentence each, with the original error as cause.

    Args:
        config: the run.
        out: its directory.
        devices: that train together.
        checkpoint: that the run goes on from.
        is_reading: whether the checkpoint is being read.

    Raises:
        MemoryError: it ran out of memory.
        OSError: the disk is full.
        ValueError: the checkpoint cannot be read.
    """
    try:
        yield
    except FloatingPointError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError(_memory_advice(config, devices)) from error
        if is_full(error):
            raise OSError(
                f"no space left for {out}: make room there, then the same command goes on from the last checkpoint"
            ) from error
        if checkpoint is None or not is_reading():
            raise
        reason = f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, UnpicklingError):
            reason = "a file holds more than tensors and numbers, which is never loaded"
        raise ValueError(
            f"{checkpoint} cannot be gone on from ({reason}): delete it, and the same command goes on from the one "
            f"before, or begins anew"
        ) from error


def _memory_advice(config: TrainConfig, devices: int) -> str:
    blocks, _ = config.micro_batch(devices)
    smaller = [f"--micro-batch-tokens {blocks // 2 * config.seq_len}"] if blocks > 1 and blocks % 2 == 0 else []
    checkpointing = [] if config.gradient_checkpointing else ["--gradient-checkpointing"]
    hints = [*smaller, *checkpointing, "a shorter --seq-len or a smaller --size"]
    return (
        f"out of memory, with {blocks * config.seq_len:,} tokens in one pass on each device: give "
        f"{' or '.join(hints)}; --dry-run plans the memory"
    )
