"""LoRA by PEFT: low-rank updates of a decoder's linear layers, while what its position learns is trained whole.

The adapters are put into the layers of the model, which keeps its class. A checkpoint holds them and what the position
learns, nothing else; at the end of a run they are merged, so that its model is one like any other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wavepos.names import did_you_mean

FIELDS = ("rank", "alpha", "targets")
OF_POSITIONS = (".position.", ".r_proj.")
"""Parts of the names of what positions learn and read by, in decoders of transformers."""
LEARNED = "learned.safetensors"
"""The file of a checkpoint: adapters and what the position learns."""


def parse_lora(given: Mapping[str, Any]) -> dict[str, Any]:
    """{"rank", "alpha", "targets"} of a mapping that may leave out the last two.

    Args:
        given: rank: of the updates; alpha: they are multiplied by alpha / rank, None: 2 · rank; targets: names of
            linear layers, such as ["q_proj", "v_proj"], None: all in the decoder's layers.

    Raises:
        ValueError: an unknown key or a value that is none.
    """
    unknown = sorted(set(given) - set(FIELDS))
    if unknown or "rank" not in given:
        raise ValueError(
            f"lora takes rank=16, and may take alpha=32 and targets=q_proj,v_proj, "
            f"got {f'{unknown[0]!r}' if unknown else 'no rank'}"
        )
    rank, alpha, targets = given["rank"], given.get("alpha"), given.get("targets")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"lora's rank must be a whole number of at least 1, got {rank!r}")
    alpha = 2.0 * rank if alpha is None else alpha
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0.0 < alpha < float("inf"):
        raise ValueError(f"lora's alpha must be a positive number, got {alpha!r}")
    if targets is not None and (not targets or isinstance(targets, str) or not all(targets)):
        raise ValueError(f"lora's targets must be names of linear layers such as q_proj,v_proj, got {targets!r}")
    return {"rank": rank, "alpha": float(alpha), "targets": None if targets is None else sorted(set(targets))}


def read_lora(words: Sequence[str]) -> dict[str, Any] | None:
    """What words such as "rank=16", "alpha=32" and "targets=q_proj,v_proj" say; None where there are none.

    Raises:
        ValueError: a word without "=", a key twice, or what `parse_lora` refuses.
    """
    if not words:
        return None
    given: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key in given:
            raise ValueError(f"lora takes words such as rank=16, each key once, got {word!r}")
        given[key] = value.split(",") if key == "targets" else _number(value)
    return parse_lora(given)


def check_peft() -> None:
    """Raise ImportError where PEFT is not installed."""
    try:
        import peft  # noqa: F401 - to know that it is there
    except ImportError as error:
        raise ImportError(f"lora needs PEFT: pip install 'wavepos[lora]' ({error})") from error


def with_adapters(model: Any, lora: Mapping[str, Any]) -> Any:
    """The model with adapters in its linear layers; they and what its position learns have gradients, nothing else.

    Args:
        model: a decoder of ours; it is changed.
        lora: what `parse_lora` gave.

    Raises:
        ImportError: no PEFT.
        ValueError: targets that are no linear layers of the decoder's layers.
    """
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=_targets(model, lora["targets"]))
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if any(part in name for part in OF_POSITIONS):
            parameter.requires_grad_(True)
    return model


def save_learned(model: Any, folder: Path) -> None:
    """Write what has gradients into a checkpoint."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    held = {name: x.detach().contiguous() for name, x in _learned(model).items()}
    save_file(held, folder / LEARNED, {"weights": _begun_with(model)})


def load_learned(model: Any, folder: Path) -> None:
    """Read what `save_learned` wrote into a model of the same run.

    Raises:
        ValueError: a parameter that is missing, left over or of another shape; a model that began with other weights.
    """
    import torch
    from safetensors import safe_open

    with safe_open(folder / LEARNED, framework="pt") as file:
        saved, weights = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["weights"]  # noqa: SIM118
    if weights != _begun_with(model):
        raise ValueError(
            f"the weights in {model.name_or_path} are not those that the run began with: put them back, or train anew "
            "in another directory"
        )
    own = _learned(model)
    differing = sorted(set(saved) ^ set(own)) or [name for name in own if own[name].shape != saved[name].shape]
    if differing:
        raise ValueError(f"{folder / LEARNED} does not fit the run's model: {differing[0]} differs")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(saved[name])


def merged(model: Any) -> Any:
    """The model with its adapters added to its weights, and gone."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
    return model


def _begun_with(model: Any) -> str:
    """What tells the weights apart that adapters belong to; the name, where they lie on the hub."""
    from wavepos.models.loading import weights_digest

    path = Path(model.name_or_path)
    return weights_digest(path) if path.is_dir() else str(model.name_or_path)


def _learned(model: Any) -> dict[str, Any]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _targets(model: Any, names: Sequence[str] | None) -> list[str]:
    """Whole names of the linear layers in the decoder's layers, of all or of those that are named."""
    from torch import nn

    found = {
        f"layers.{name}": name.rpartition(".")[2]
        for name, module in model.base_model.layers.named_modules()
        if isinstance(module, nn.Linear) and not any(part in f".{name}." for part in OF_POSITIONS)
    }
    known = sorted(set(found.values()))
    for name in names or ():
        if name not in known:
            raise ValueError(
                f"lora's targets must be some of {', '.join(known)}, got {name!r}{did_you_mean(name, known)}"
            )
    return [whole for whole, name in found.items() if names is None or name in names]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
