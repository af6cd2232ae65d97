"""What stands in JSON becomes a config or a ValueError that says what is wrong, and never anything else."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wavepos import Wavelet
from wavepos.positions import known_positions, parse_position, position_dict, position_fields
from wavepos.positions.rotary import RotaryConfig
from wavepos.positions.rotary_scaling import RotaryScaling
from wavepos.positions.typed import field_types

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 200)
    | st.floats()
    | st.floats(0.5, 64.0)
    | st.sampled_from([1e308, -1e308, 1e-308, 10**400, 2**63, math.inf, math.nan, 0, 0.0, -1])
    | st.text(max_size=5)
    | st.sampled_from(["past", "future", "zeros", "fit", "haar", "db4", "ricker", "linear", "yarn", "unit_peak"])
)
SCALINGS = RotaryScaling.__args__  # type: ignore[attr-defined] # a union has its members there
VALUES = st.recursive(LEAVES, lambda x: st.lists(x, max_size=9) | st.dictionaries(st.text(max_size=5), x, max_size=3))


def objects(config: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of a config, with some of its keys and any values, and now and then a key that it has not."""
    values = VALUES
    if config is RotaryConfig:
        values |= st.one_of([objects(scaling) for scaling in SCALINGS])
    keys = st.sampled_from([*field_types(config), "scaling"]) | st.text(max_size=5)
    return st.dictionaries(keys, values, max_size=6).map(lambda fields: {config.tag: config.name(), **fields})


ANYTHING = st.one_of([objects(config) for config in known_positions()]) | VALUES


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANYTHING)
@example({"method": "rotary", "theta": "x"})
@example({"method": "rotary", "scaling": 5})
@example({"method": "rotary", "scaling": {"rope_type": "linear", "factor": 1e308}})
@example({"method": "rotary", "theta": 1e308, "scaling": {"rope_type": "linear", "factor": 2.0}})
@example({"method": "rotary", "scaling": {"rope_type": "dynamic", "factor": 2.0, "max_position_embeddings": 0}})
@example({"method": "rotary", "scaling": {"rope_type": "longrope", "short_factor": 3, "long_factor": [1], "factor": 2}})
@example({"method": "wavelet", "scales": [None]})
@example({"method": "wavelet", "scales": [1e308] * 8})
@example({"method": "wavelet", "scales": [1e-308] * 8})
@example({"method": "wavelet", "shifts": [1e308], "scales": [1.0] * 16})
@example({"method": "wavelet", "scales": [1e99] * 8, "stretch": 1e6})
@example({"method": "wavelet", "wavelet": 5})
@example({"method": "wavelet", "stretch": None})
@example({"method": "learned_relative", "relative_dim": 1000000000})
@example({"method": "t5", "max_distance": 10**400})
@example({"method": "transformer_xl", "sinusoid_dim": 2.0})
def test_any_json_parses_and_builds_or_raises_a_value_error(data: Any) -> None:
    try:
        config = parse_position(data)
        assert parse_position(json.loads(json.dumps(position_dict(config)))) == config
        with torch.device("meta"):
            position = config.build(head_dim=16, num_heads=2)
    except ValueError:
        return
    if config.relative_states_dim is None and not config.reads_gates and next(position.parameters(), None) is None:
        q = torch.zeros(1, 2, 5, 16)
        terms = position.terms(q, q, q_offset=3)
        for x in (terms.q_BHTD, terms.table, terms.bias_HR):
            assert x is None or torch.isfinite(x).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"method": "rotary", "theta": "x"},
            "position 'rotary': theta must be a finite number or 'trained_length', got 'x'",
        ),
        (
            {"method": "rotary", "theta": math.nan},
            "position 'rotary': theta must be a finite number or 'trained_length', got nan",
        ),
        (
            {"method": "rotary", "theta": True},
            "position 'rotary': theta must be a finite number or 'trained_length', got True",
        ),
        (
            {"method": "rotary", "theta": 1e308},
            r"position 'rotary': theta must lie between 1.0 and 1e\+30, got 1e\+308",
        ),
        ({"method": "rotary", "scaling": 5}, r"scaling must be a rotary scaling \(an object .*yarn.*\) or None, got 5"),
        (
            {"method": "rotary", "scaling": {"rope_type": "dynamic", "factor": 2, "max_position_embeddings": 0}},
            "rotary scaling 'dynamic': max_position_embeddings must lie between 1 and 2147483648, got 0",
        ),
        (
            {"method": "rotary", "scaling": {"rope_type": "yran", "factor": 2}},
            "rope_type of a rotary scaling must be one of .*, got 'yran': did you mean 'yarn'",
        ),
        ({"method": "wavelet", "scales": [None]}, r"scales must be a sequence of finite numbers .* got \[None\]"),
        ({"method": "wavelet", "wavelet": 5}, "position 'wavelet': wavelet must be a text, got 5"),
        ({"method": "wavelet", "stretch": None}, "position 'wavelet': stretch must be a finite number, got None"),
        ({"method": "wavelet", "direction": "pst"}, "must be one of 'past', 'future', got 'pst': did you mean 'past'"),
        ({"method": "wavelet", "strech": 2}, "got the unknown key 'strech': did you mean 'stretch'"),
        (
            {"method": "learned_relative", "relative_dim": 1000000000},
            "position 'learned_relative': relative_dim must lie between 1 and 65536, got 1000000000",
        ),
        ({"method": "t5", "num_buckets": True}, "position 't5': num_buckets must be a whole number, got True"),
        ({"method": "t5", "num_buckets": 8.0}, "position 't5': num_buckets must be a whole number, got 8.0"),
        ({"method": "wavelett"}, "got 'wavelett': did you mean 'wavelet'"),
        ({"method": 5}, "method of a position must be one of nope, .*, got 5"),
        ('{"method":', "position must be a method's name or a JSON object, got"),
        (5, "position must be a method's name, its config or a JSON object, got 5"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named_with_what_is_taken(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_position(config)


def test_a_config_checks_itself_without_json_too() -> None:
    with pytest.raises(
        ValueError, match="position 'rotary': theta must be a finite number or 'trained_length', got 'x'"
    ):
        RotaryConfig(theta="x")  # type: ignore[arg-type]
    assert isinstance(RotaryConfig(theta=np.float32(500.0)).theta, float)  # type: ignore[arg-type]
    assert RotaryConfig(theta=500).theta == 500.0


@pytest.mark.parametrize(
    ("names", "method"),
    [
        (("rope", "RoPE", "ROPE", "rotary", "Rotary"), "rotary"),
        (("alibi", "ALiBi", "AliBi"), "alibi"),
        (("nope", "NoPE"), "nope"),
        (("transformer_xl", "transformer-xl", "Transformer-XL", "TransformerXL", "transformer xl"), "transformer_xl"),
        (("t5", "T5", "T5Bias", "t5_bias"), "t5"),
        (("shaw", "Shaw", "ShawRelative"), "shaw"),
        (("wavelet", "Wavelet", " wavelet "), "wavelet"),
        (("learned_relative", "learned-relative", "LearnedRelative"), "learned_relative"),
        (("kerple", "KERPLE", "Kerple"), "kerple"),
    ],
)
def test_a_method_is_understood_however_it_is_written_and_stored_in_one_way(
    names: tuple[str, ...], method: str
) -> None:
    for name in names:
        for data in (name, {"method": name}, json.dumps({"method": name})):
            assert position_dict(parse_position(data))["method"] == method
            assert position_fields(data) == {"method": method}


def test_given_fields_hold_no_defaults() -> None:
    assert position_fields({"method": "RoPE", "theta": 5e5}) == {"method": "rotary", "theta": 5e5}
    with pytest.raises(ValueError, match="unknown key 'tetha': did you mean 'theta'"):
        position_fields({"method": "RoPE", "tetha": 5e5})


@pytest.mark.parametrize("field", ["scales", "shifts"])
@pytest.mark.parametrize("values", [torch.ones(8), torch.nn.Parameter(torch.ones(8)), torch.tensor(2.0)], ids=type)
def test_tensors_in_a_grid_are_refused_for_they_would_learn_nothing(field: str, values: torch.Tensor) -> None:
    message = f"{field} must be .* got a tensor of shape .*: configs hold numbers, which are not trained; give {field}."
    with pytest.raises(ValueError, match=message):
        Wavelet(64, **{field: values})
    with pytest.raises(ValueError, match=f"{field} must be a sequence of finite numbers"):
        Wavelet(64, **{field: [values.flatten()[0]] * 8})


def test_arrays_serve_as_grids() -> None:
    assert Wavelet(64, scales=2.0 ** np.arange(8)).scales == Wavelet(64).scales  # type: ignore[arg-type]


def test_a_models_print_shows_what_its_positions_are_set_to() -> None:
    position = parse_position({"method": "rotary", "theta": 500.0, "window": 8}).build(head_dim=16, num_heads=2)
    assert "theta=500.0" in repr(position)
    assert "window=8" in repr(position)
    assert "wavelet='haar', scales=(2.0,), direction='past'" in repr(Wavelet(4, "haar", scales=[2]))
