"""What a result file says of where it came from, and how files are written so that a crash loses nothing."""

import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("wavepos", "torch", "triton", "transformers", "accelerate", "tokenizers", "lm_eval", "numpy", "PyWavelets")


def environment() -> dict[str, Any]:
    """Command, commit, versions and hardware of this process, for a result's JSON."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that the path holds either the old or the whole new content, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically: a temporary file beside it, flushed to disk, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree this runs from, with "+changes" if it is not clean; None outside a checkout."""
    root = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None or git("ls-files", "--error-unmatch", __file__) is None:
        return None
    return f"{commit}+changes" if git("status", "--porcelain", "--untracked-files=no") else commit
