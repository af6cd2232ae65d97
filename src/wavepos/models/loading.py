"""Loading a saved model whole: a weight that is missing, left over or of another shape is an error, not a log line."""

import hashlib
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from wavepos.console import first_line
from wavepos.positions import LayersLike
from wavepos.storage import MARKER, damage, unreadable_tokenizer

RESTORE = "restore it from a copy, or train or save the model anew"
ASKS_FOR_CODE = "trust_remote_code=True"
"""In what transformers says of a directory with code of its own."""
_SAMPLES, _SAMPLE_BYTES = 64, 2**14


def default_device() -> str:
    """CUDA if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def checked_device(name: str | None) -> str:
    """The name of a device, `default_device` for none.

    Raises:
        ValueError: torch has none of that name here.
    """
    name = name or default_device()
    try:
        torch.empty(0, device=name)
    except Exception as error:  # RuntimeError, AssertionError, NotImplementedError
        said = first_line(error) or type(error).__name__
        raise ValueError(f"device must be one that torch has here, such as cpu, got {name!r} ({said})") from error
    return name


def load_model(
    source: str | Path,
    *,
    position: LayersLike | None = None,
    native_rotation: bool | None = None,
    dtype: torch.dtype | str = "auto",
    local_files_only: bool = False,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A saved causal language model, ours or another of transformers', in evaluation mode on the CPU.

    transformers gives weights that a directory lacks random values and says so in a log.

    Args:
        source: directory or hub name of the model.
        position: another position, or other keys of the saved one; learned parameters that only it has start anew.
        native_rotation: whether a decoder's own rotation stays; None: as it was saved.
        dtype: of the weights; "auto": as they are saved.
        local_files_only: take no file from the hub.
        trust_remote_code: run code that lies in the directory, where its config names some and wavepos and
            transformers have no class of their own for it.

    Raises:
        ValueError: a file is damaged, weights do not fit the directory's own config or are not finite, or code is not
            trusted.
        OSError: no model there.
    """
    files: dict[str, Any] = {"local_files_only": local_files_only, "trust_remote_code": trust_remote_code}
    given = {"position": position, "native_rotation": native_rotation}
    given = {name: value for name, value in given.items() if value is not None}
    with readable(source):
        saved = AutoConfig.from_pretrained(source, **files)
        config = AutoConfig.from_pretrained(source, **given, **files) if given else saved
        model, info = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **files
        )
    new: set[str] = set()
    left: set[str] = set()
    if position is not None:
        with torch.device("meta"):
            before = set(type(model)(saved).state_dict())
        new, left = set(model.state_dict()) - before, before - set(model.state_dict())
    check_loaded(info, source, new=new, left=left)
    for name, weights in model.named_parameters():
        if not bool(weights.isfinite().all()):
            raise ValueError(f"{source} holds weights that are not finite, {name}: {RESTORE}")
    return model


def saved_config(source: str | Path, **changes: Any) -> Any:
    """The config of a saved model, with changes; code that lies beside it is not run.

    Raises:
        ValueError: it needs code of its own.
        OSError: no model there.
    """
    with untrusted_code_is_named(source):
        return AutoConfig.from_pretrained(source, trust_remote_code=False, **changes)


def load_saved_tokenizer(directory: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer that lies beside a saved model, from its directory and nowhere else.

    Raises:
        ValueError: there is none, a file of it is damaged, or it asks for code that is not trusted.
    """
    with untrusted_code_is_named(directory):
        try:
            return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=trust_remote_code)
        except Exception as error:  # transformers and tokenizers raise many kinds
            if ASKS_FOR_CODE in str(error):
                raise
            raise ValueError(unreadable_tokenizer(Path(directory), error)) from error


@contextmanager
def untrusted_code_is_named(source: str | Path) -> Iterator[None]:
    """Say in one sentence that a directory asks for code of its own; transformers says it in three lines."""
    try:
        yield
    except ValueError as error:
        if ASKS_FOR_CODE not in str(error):
            raise
        raise ValueError(
            f"{source} asks to run code of its own (auto_map in its config), which is not run unasked: read it, and "
            "give trust_remote_code=True, or --trust-remote-code where the command has it"
        ) from error


@contextmanager
def readable(source: str | Path) -> Iterator[None]:
    """Verify a directory that lists its files, and name what cannot be read of any.

    Raises:
        ValueError: a file is damaged, holds no model, or asks for code that is not trusted.
    """
    folder = Path(source)
    if folder.is_dir():
        reason = damage(folder)
        if reason is not None:
            meant = f" (if it was changed and is meant, delete {MARKER})" if (folder / MARKER).exists() else ""
            raise ValueError(f"{folder} is damaged: {reason}: {RESTORE}{meant}")
    try:
        with untrusted_code_is_named(source):
            yield
    except (ValueError, ImportError, MemoryError):
        raise
    except Exception as error:  # of safetensors, transformers, and whatever a config of anything leads to
        if not folder.is_dir():
            raise
        raise ValueError(f"{_unreadable(folder)} ({type(error).__name__}: {first_line(error)}): {RESTORE}") from error


def _unreadable(folder: Path) -> str:
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except Exception:  # safetensors' own error is no subclass of any other
            return f"{path} cannot be read"
    return f"{folder} holds no model that can be loaded"


def weights_digest(directory: Path) -> str:
    """What tells one saved model from another, in no time: its weight files' names, sizes and 64 even samples of each.

    Files of up to 1 MiB are read whole.
    """
    found = hashlib.sha256()
    for path in sorted(file for kind in ("*.safetensors", "*.bin") for file in directory.glob(kind)):
        size = path.stat().st_size
        found.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for index in range(_SAMPLES):
                file.seek(size * index // _SAMPLES)
                found.update(file.read(_SAMPLE_BYTES))
    return found.hexdigest()[:16]


def check_loaded(
    info: dict[str, Any], source: str | Path, *, new: Set[str] = frozenset(), left: Set[str] = frozenset()
) -> None:
    """Refuse a model of which transformers filled a part itself.

    Args:
        info: what `from_pretrained` gives with output_loading_info=True and ignore_mismatched_sizes=True.
        source: what was loaded, for the message.
        new: weights that the source need not have.
        left: weights of the source that the model need not take.

    Raises:
        ValueError: a weight is missing, left over or of another shape; it names the first.
    """
    for key, theirs, ours in sorted(info["mismatched_keys"]):
        raise ValueError(f"{source} holds {key} of shape {tuple(theirs)}, its config asks for {tuple(ours)}")
    missing, unexpected = set(info["missing_keys"]) - new, set(info["unexpected_keys"]) - left
    if missing:
        raise ValueError(f"{source} lacks weights that its config asks for: {_named(missing)}")
    if unexpected:
        raise ValueError(f"{source} holds weights that its config has no place for: {_named(unexpected)}")


def _named(keys: Iterable[str]) -> str:
    first, *rest = sorted(keys)
    return f"{first} and {len(rest)} more" if rest else first
