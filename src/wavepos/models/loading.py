"""Loading a saved model whole: a weight that is missing, left over or of another shape is an error, not a log line."""

import hashlib
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from wavepos.positions import LayersLike

_SAMPLES, _SAMPLE_BYTES = 64, 2**14


def default_device() -> str:
    """CUDA if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(
    source: str | Path,
    *,
    position: LayersLike | None = None,
    native_rotation: bool | None = None,
    dtype: torch.dtype | str = "auto",
    local_files_only: bool = False,
) -> PreTrainedModel:
    """A saved causal language model, ours or another of transformers', in evaluation mode on the CPU.

    transformers gives weights that a directory lacks random values and says so in a log. Code that lies in the
    directory is not run.

    Args:
        source: directory or hub name of the model.
        position: another position, or other keys of the saved one; learned parameters that only it has start anew.
        native_rotation: whether a decoder's own rotation stays; None: as it was saved.
        dtype: of the weights; "auto": as they are saved.
        local_files_only: take no file from the hub.

    Raises:
        ValueError: weights that do not fit the directory's own config.
        OSError: no model there.
    """
    files: dict[str, Any] = {"local_files_only": local_files_only, "trust_remote_code": False}
    saved = AutoConfig.from_pretrained(source, **files)
    given = {"position": position, "native_rotation": native_rotation}
    given = {name: value for name, value in given.items() if value is not None}
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
    return model


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
