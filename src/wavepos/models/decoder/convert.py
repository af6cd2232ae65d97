"""A trained decoder's weights in our family of it, with its own rotation or another positional method."""

import logging
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from wavepos.models.decoder.families import FAMILIES, family_config, family_models
from wavepos.models.decoder.rotation import own_position
from wavepos.models.llama.model import WaveposLlamaForCausalLM
from wavepos.models.loading import check_loaded, readable, saved_config
from wavepos.positions import LayersLike, RotaryConfig, layers_fields
from wavepos.positions.layers import with_each_field

logger = logging.getLogger(__name__)

_LEARNED = "adds learned absolute positions to its embeddings, which would stay beside any position"
_INSIDE = "computes its positions inside attention code that asks for no attention function"
_UNSERVED = {
    **dict.fromkeys(("gpt2", "opt", "gpt_neo", "gpt_bigcode", "biogpt", "openai-gpt", "xglm"), _LEARNED),
    **dict.fromkeys(("bloom", "mpt", "falcon", "gptj", "codegen"), _INSIDE),
    "gpt_oss": "has attention sinks, which wavepos.attention does not serve",
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3"), "has keys wider than its values, which wavepos.attention does not serve"
    ),
}


def convert(
    source: str | Path | PreTrainedModel,
    position: LayersLike = "wavelet",
    *,
    native_rotation: bool = False,
    dtype: torch.dtype | str = "auto",
) -> Any:
    """A decoder's weights with another positional method; what was changed is logged as a warning.

    With "rotary", where `Rotary` has the family's rotation, and with "nope" and native_rotation=True everywhere, the
    model computes what theirs does. With anything else its attention has lost the positions that it was trained with,
    or got others beside them: train it on (docs/convert.md).

    Args:
        source: directory or hub name of a checkpoint of one of `FAMILIES`, or such a model.
        position: a method's name or JSON object, or a list or pattern of layers; a "rotary" without θ and scaling takes
            the family's, in the layers that rotate.
        native_rotation: keep the family's own rotation beside the position.
        dtype: of the weights, where source is a path; "auto": as they are saved.

    Returns:
        The causal language model `Wavepos<family>ForCausalLM`; learned parameters of the method hold their starting
        values.

    Raises:
        ValueError: no family that is served, or something in it that is not; weights that do not fit.
    """
    loading: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    if isinstance(source, PreTrainedModel):
        path, theirs = None, source.config
        loading |= {"state_dict": dict(source.state_dict()), "dtype": source.dtype}
    else:
        path, theirs = str(source), saved_config(source)
        loading["dtype"] = dtype
    config = converted_config(theirs, position, native_rotation=native_rotation)
    causal_lm = family_models(theirs.model_type)["AutoModelForCausalLM"]
    with nullcontext() if path is None else readable(path):
        model, info = causal_lm.from_pretrained(path, config=config, **loading)
    if isinstance(source, PreTrainedModel):
        model.generation_config = source.generation_config
    new = sorted(info["missing_keys"])
    name = path or type(source).__name__
    check_loaded(info, name, new={key for key in new if ".position." in key or ".r_proj." in key})
    logger.warning(_changes(name, theirs, config, len(model.state_dict()) - len(new), new))
    return model


def from_llama(
    source: str | Path | PreTrainedModel,
    position: LayersLike = "wavelet",
    *,
    dtype: torch.dtype | str = "auto",
) -> WaveposLlamaForCausalLM:
    """`convert` for a Llama: its weights with another positional method; what was changed is logged as a warning.

    With "rotary" the model computes what the Llama computes. With any other method its attention has lost the
    positions it was trained with: train it on (docs/convert.md).

    Args:
        source: directory or hub name of a Llama checkpoint, or a `LlamaForCausalLM`.
        position: a method's name or JSON object, or a list or pattern of layers; a "rotary" without θ and scaling takes
            the Llama's.
        dtype: of the weights, where source is a path; "auto": as they are saved.

    Returns:
        The model; learned parameters of the method hold their starting values.

    Raises:
        ValueError: no Llama, a rotation that is not served, or weights that do not fit.
    """
    given: Any = source
    own = isinstance(source, PreTrainedModel)
    theirs = given.config if own else saved_config(given)
    if theirs.model_type != "llama":
        raise ValueError(
            f"source must be a model of type 'llama', got {theirs.model_type!r}; wavepos.models.convert takes others"
        )
    return cast(WaveposLlamaForCausalLM, convert(source, position, dtype=dtype))


def converted_config(theirs: PreTrainedConfig, position: LayersLike, *, native_rotation: bool = False) -> Any:
    """The config of our family with the fields of one of theirs.

    Raises:
        ValueError: no family that is served, or something in it that is not.
    """
    check_family(theirs.model_type)

    def with_theirs(layers: Any) -> Any:
        if isinstance(layers, list) or "method" not in layers:
            return with_each_field(layers, lambda one: _one_of(theirs) | one if _bare(one) else one)
        if not _bare(layers) or native_rotation:
            return layers
        return with_each_field(own_position(theirs), lambda own: own | {**layers, "method": own["method"]})

    return family_config(theirs.model_type).of(theirs, with_theirs(layers_fields(position)), native_rotation)


def check_family(family: str) -> None:
    """Raise ValueError unless models of that model_type are served; it says why and what would do."""
    if family in FAMILIES:
        return
    if family.startswith("wavepos_"):
        raise ValueError(
            f"source is of family {family!r} already: from_pretrained(source, position=…) of its class changes its "
            "position"
        )
    if family in _UNSERVED:
        raise ValueError(
            f"source of type {family!r} is not served: it {_UNSERVED[family]}. Train one of the families "
            f"{', '.join(FAMILIES)}, or call wavepos.attention in that code (docs/own_model.md)"
        )
    near = get_close_matches(family, FAMILIES, n=1, cutoff=0.75)
    raise ValueError(
        f"source must be a decoder of one of the families {', '.join(FAMILIES)}, got type {family!r}"
        f"{f', nearest is {near[0]!r}' if near else ''}"
    )


def _bare(fields: dict[str, Any]) -> bool:
    """Whether a layer is a rotation without θ and scaling."""
    return fields["method"] == RotaryConfig.method and not set(fields) - {"method", "temperature", "window"}


def _one_of(theirs: PreTrainedConfig) -> dict[str, Any]:
    """The family's rotation, of the layers that rotate; ValueError where they differ."""
    own = own_position(theirs)
    rotations = {str(one): one for one in (own if isinstance(own, list) else [own]) if one["method"] != "nope"}
    if len(rotations) > 1:
        raise ValueError(
            f"the layers of this {theirs.model_type} rotate differently: give each layer's theta in position, "
            "or position='rotary' for all"
        )
    return dict(next(iter(rotations.values())))


def _changes(name: str, theirs: Any, config: Any, taken: int, new: list[str]) -> str:
    kept = config.native_rotation
    told = f"convert: {taken} tensors of {name} taken over; position: {theirs.rope_parameters} -> {config.position}"
    told += " beside its own rotation" * kept
    told += f"; starting values: {', '.join(new[:3])}{' …' if len(new) > 3 else ''}" if new else ""
    if _same(theirs, config):
        return f"{told}; nothing else changed"
    return f"{told}; the weights were trained with other positions: train on before use"


def _same(theirs: PreTrainedConfig, config: Any) -> bool:
    """Whether the position is the one that the weights were trained with."""
    if config.native_rotation:
        return bool(config.position == {"method": "nope"})
    try:
        return bool(config.position == own_position(theirs))
    except ValueError:
        return False
