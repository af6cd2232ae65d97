"""Positions of layers: one for all, one for each, or a pattern; in and out of JSON, joined with saved ones."""

import json
from typing import Any

import pytest

from wavepos.positions import layer_configs, layers_fields, layers_json, parse_layers, parse_position
from wavepos.positions.layers import LayerPattern, distinct_configs, merged
from wavepos.positions.rotary import RotaryConfig

LOCAL = {"method": "wavelet", "window": 512}
PATTERN = {"local": LOCAL, "global": "nope", "every": 4}


@pytest.mark.parametrize("given", ["RoPE", LOCAL, ["rope", LOCAL], PATTERN, [PATTERN["local"]]], ids=str)
def test_json_goes_in_and_out(given: Any) -> None:
    parsed = parse_layers(given)
    for again in (layers_json(parsed), json.loads(json.dumps(layers_json(parsed))), json.dumps(layers_json(parsed))):
        assert parse_layers(again) == parsed
    assert parse_layers(parsed if not isinstance(parsed, tuple) else list(parsed)) == parsed


def test_every_fourth_layer_is_global_as_in_transformers_layer_types() -> None:
    methods = [config.method for config in layer_configs(parse_layers(PATTERN), 9)]
    assert methods == ["nope" if (i + 1) % 4 == 0 else "wavelet" for i in range(9)]
    assert [i + 1 for i, method in enumerate(methods) if method == "nope"] == [4, 8]
    assert [c.window for c in distinct_configs(parse_layers(PATTERN))] == [512, None]


def test_a_list_has_one_for_each_layer() -> None:
    parsed = parse_layers(["rope", "nope"])
    assert [config.method for config in layer_configs(parsed, 2)] == ["rotary", "nope"]
    with pytest.raises(ValueError, match="position must hold a method for each of 3 layers, got 2"):
        layer_configs(parsed, 3)


def test_given_keys_hold_no_defaults() -> None:
    assert layers_fields(PATTERN) == {"local": LOCAL, "global": {"method": "nope"}, "every": 4}
    assert layers_fields('["RoPE"]') == [{"method": "rotary"}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "must hold a method for each layer, got an empty list"),
        ({"local": "rope", "every": 2}, "has the keys local, global and every, got none named 'global'"),
        ({"local": "rope", "global": "nope"}, "got none named 'every'"),
        ({**PATTERN, "offset": 1}, "got the unknown key 'offset'"),
        ({**PATTERN, "every": 0}, "every of a pattern of layers must be a whole number of at least 1, got 0"),
        ({**PATTERN, "every": True}, "at least 1, got True"),
        ({**PATTERN, "local": "ropee"}, "got 'ropee': did you mean 'rope'|got 'ropee'"),
        (["rope", {"method": "wavelet", "windw": 3}], "unknown key 'windw': did you mean 'window'"),
        (["rope", ["nope"]], "position must be a method's name, its config or a JSON object, got"),
        ("[1", "position must be a method's name or JSON, got"),
    ],
    ids=str,
)
def test_what_is_none_is_named(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_layers(given)


def test_one_position_is_no_pattern() -> None:
    with pytest.raises(ValueError, match="position must be one method here, got a pattern, which models and runs take"):
        parse_position(PATTERN)


ROPE, WIDE = {"method": "rotary", "theta": 1e4}, {"method": "wavelet", "stretch": 1.0, "window": 8}


@pytest.mark.parametrize(
    ("saved", "given", "expected"),
    [
        (ROPE, {"method": "rotary", "theta": 5e5}, {"method": "rotary", "theta": 5e5}),
        (ROPE, "nope", {"method": "nope"}),
        (None, "nope", {"method": "nope"}),
        (ROPE, ["nope", "rope"], [{"method": "nope"}, {"method": "rotary"}]),
        (
            {"local": WIDE, "global": {"method": "nope"}, "every": 2},
            {"method": "wavelet", "stretch": 4},
            {"local": {**WIDE, "stretch": 4}, "global": {"method": "nope"}, "every": 2},
        ),
        (
            [WIDE, ROPE, WIDE],
            {"method": "wavelet", "stretch": 4},
            [{**WIDE, "stretch": 4}, ROPE, {**WIDE, "stretch": 4}],
        ),
        ([WIDE, ROPE], "alibi", {"method": "alibi"}),
        ([WIDE, ROPE], PATTERN, layers_fields(PATTERN)),
        ({"method": "gone", "x": 1}, "nope", {"method": "nope"}),
    ],
    ids=str,
)
def test_given_keys_are_joined_with_saved_ones(saved: Any, given: Any, expected: Any) -> None:
    assert merged(saved, given) == expected


def test_a_config_stands_for_all_its_keys() -> None:
    saved = {"method": "rotary", "theta": 5e5, "window": 8, "temperature": {"form": "log", "start": 0.3}}
    assert parse_layers(merged(saved, RotaryConfig(theta=2e4))) == RotaryConfig(theta=2e4)


def test_a_pattern_keeps_its_parts() -> None:
    assert parse_layers(PATTERN) == LayerPattern(
        local_layers=parse_position(LOCAL), global_layers=parse_position("nope"), every=4
    )
