"""A process of its own for one task: `python -m wavepos.experiments.worker`, with the task as a line on its input.

Its input stays open while the study lives; when it ends (Ctrl-C, kill -9 of the study), the worker saves and stops.
"""

import os
import signal
import sys
import threading

from wavepos.console import progress
from wavepos.experiments.tasks import Busy, perform, task_from_json

BUSY, FAILED, INTERRUPTED = 75, 1, 130
"""Exit statuses."""


def main() -> int:
    """Read the task, do it, and say by the exit status how it went."""
    task = task_from_json(sys.stdin.readline())
    threading.Thread(target=_stop_with_the_study, daemon=True).start()
    try:
        with progress(task.title) as update:
            perform(task, update)
    except Busy:
        return BUSY
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # written into the run directory by perform
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return FAILED
    return 0


def _stop_with_the_study() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
