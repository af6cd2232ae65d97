"""A family's own rotation as a position of ours, where it can be one."""

from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from wavepos.positions import RotaryConfig, parse_position, position_dict

INTERLEAVED = frozenset({"cohere", "cohere2", "ernie4_5", "glm", "glm4", "helium"})
"""Families that rotate neighbours (0, 1), (2, 3), …; `Rotary` pairs the halves of the head, as the others do."""

_PARTIAL = frozenset({"gpt_neox", "nemotron", "phi", "phi3", "stablelm"})
"""Families that rotate the first dimensions of the head alone, as `partial_rotary_factor` says."""


def own_position(theirs: PreTrainedConfig) -> Any:
    """JSON of the layers' positions with which our model computes what theirs does.

    Raises:
        ValueError: a rotation that `Rotary` does not have.
    """
    if theirs.model_type in INTERLEAVED:
        raise ValueError(
            f"position 'rotary' pairs the halves of a head, and family {theirs.model_type!r} rotates neighbours: give "
            "position='nope' and native_rotation=True, which leave its own rotation in place"
        )
    layers = [_of_layer(theirs, index) for index in range(theirs.num_hidden_layers)]
    return layers[0] if all(one == layers[0] for one in layers) else layers


def _of_layer(theirs: Any, index: int) -> dict[str, Any]:
    rotated = getattr(theirs, "no_rope_layers", None)  # 1 where a layer rotates, 0 where it does not
    if rotated is not None and not rotated[index]:
        return {"method": "nope"}
    parameters, kinds = theirs.rope_parameters, getattr(theirs, "layer_types", None)
    if kinds is not None and kinds[index] in parameters:  # of each type of layer
        parameters = parameters[kinds[index]]
    return position_dict(rotation(theirs, dict(parameters)))


def rotation(theirs: Any, parameters: dict[str, Any]) -> RotaryConfig:
    """θ and scaling of `rope_parameters`.

    Args:
        theirs: the config around them.
        parameters: of one type of layer.
    """
    rope_type, theta = parameters.pop("rope_type", "default"), parameters.pop("rope_theta")
    parameters.pop("type", None)
    part = parameters.pop("partial_rotary_factor", 1.0)
    fields: dict[str, Any] = {"method": "rotary", "theta": float(theta)}
    if rope_type == "proportional":
        fields |= {"partial_rotary_factor": part, "partial_rotary_style": "high_frequencies"}
        rope_type = "linear" if parameters.get("factor", 1.0) != 1.0 else "default"
    elif part != 1.0 and theirs.model_type not in _PARTIAL:
        raise ValueError(
            f"source says that it rotates a part of each head (partial_rotary_factor={part}), and transformers' "
            f"{type(theirs).__name__.removesuffix('Config')} rotates all of it: which is meant cannot be known"
        )
    elif part != 1.0:
        fields["partial_rotary_factor"] = float(part)
    if rope_type != "default":
        fields["scaling"] = {"rope_type": rope_type, **_completed(rope_type, parameters, theirs)}
    parsed = parse_position(fields)
    assert isinstance(parsed, RotaryConfig)
    return parsed


def _completed(rope_type: str, parameters: dict[str, Any], config: Any) -> dict[str, Any]:
    """A scaling's parameters with those that transformers takes from the config around them."""
    if rope_type == "dynamic":
        parameters.setdefault("max_position_embeddings", config.max_position_embeddings)
        parameters.pop("original_max_position_embeddings", None)
    elif rope_type in ("yarn", "longrope"):
        parameters.setdefault("original_max_position_embeddings", config.max_position_embeddings)
        if rope_type == "longrope":
            trained = parameters["original_max_position_embeddings"]
            parameters.setdefault("factor", config.max_position_embeddings / trained)
    return parameters
