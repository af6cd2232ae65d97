"""A mother wavelet of a user's own works wherever ours do: in attention, in both families, in files, by name."""

import doctest
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_llama import tokens
from small_models import small
from torch import Tensor
from transformers import AutoModelForCausalLM

from wavepos import Wavelet, attention, register_wavelet, wavelets
from wavepos.testing import Case, assert_within
from wavepos.wavelets import MotherWavelet, mother_wavelet


class Triangle(MotherWavelet):
    """ψ(u) = max(0, 1 − |u|)."""

    name = "triangle"  # type: ignore[assignment]

    def evaluate(self, x: Tensor, scale: Any) -> Tensor:
        return (1.0 - (x / scale).abs()).clamp_min(0.0)

    def support(self, scale: float, tolerance: float) -> tuple[float, float]:
        return -scale, scale


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wavelets, "_registered", {})


def test_a_registered_wavelet_is_known_by_its_name() -> None:
    assert register_wavelet("triangle", Triangle) is Triangle
    assert isinstance(mother_wavelet("triangle"), Triangle)
    by_name, own = Wavelet(16, "triangle", scales=(2.0, 8.0)), Wavelet(16, Triangle(), scales=(2.0, 8.0))
    assert torch.equal(by_name.table(40), own.table(40))
    q, k, v = torch.randn(3, 1, 4, 40, 16)
    assert torch.equal(attention(q, k, v, position=by_name), attention(q, k, v, position=own))
    for backend in ("banded", "reference"):
        assert_within(by_name, Case(num_queries=60, num_keys=60), backend)


def test_an_instance_with_settings_is_registered_as_it_is() -> None:
    class Shifted(Triangle):
        name = "shifted"  # type: ignore[assignment]

        def __init__(self, by: float) -> None:
            self.by = by

    made = register_wavelet("shifted", Shifted(2.0))
    assert mother_wavelet("shifted") is made
    assert made.by == 2.0


@pytest.mark.parametrize("family", ["llama", "baevski-auli"])
def test_a_saved_model_is_loaded_once_it_is_registered(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_wavelet("triangle", Triangle)
    model, x = small(family, {"method": "wavelet", "wavelet": "triangle"}), tokens()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["position"]["wavelet"] == "triangle"
    wavelets._registered.clear()
    with pytest.raises(
        ValueError, match=r"got 'triangle'.*; one of your own is known once what registers it is imported"
    ):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    register_wavelet("triangle", Triangle)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(x).logits, model(x).logits)


def test_the_nearest_name_is_one_of_the_registered_too() -> None:
    register_wavelet("triangle", Triangle)
    with pytest.raises(
        ValueError, match=r"true_morlet, triangle, or a discrete .*got 'triangel': did you mean 'triangle'"
    ):
        mother_wavelet("triangel")


def test_a_class_defined_anew_takes_the_formers_place() -> None:
    register_wavelet("triangle", Triangle)
    newer = type("Triangle", (Triangle,), {"__module__": Triangle.__module__, "__qualname__": Triangle.__qualname__})
    register_wavelet("triangle", newer)
    assert type(mother_wavelet("triangle")) is newer


def _named(name: str) -> type[MotherWavelet]:
    return type("Other", (Triangle,), {"name": name})


@pytest.mark.parametrize(
    ("name", "wavelet", "error", "message"),
    [
        ("ricker", _named("ricker"), ValueError, "the name 'ricker' of Other is another wavelet's already"),
        ("db4", _named("db4"), ValueError, "the name 'db4' of Other is another wavelet's already"),
        ("dmey", _named("dmey"), ValueError, "the name 'dmey' of Other is another wavelet's already"),
        ("triangle", _named("triangle"), ValueError, "the name 'triangle' of Other is another wavelet's already"),
        ("other", Triangle, ValueError, "the wavelet's own name must be 'other', which configs store, got 'triangle'"),
        ("My Wave", Triangle, ValueError, "must be lower-case letters, digits and underscores, got 'My Wave'"),
        ("triangle", dict, TypeError, "wavelet must be a MotherWavelet or its class, got <class 'dict'>"),
        ("triangle", MotherWavelet, TypeError, "abstract"),
    ],
)
def test_what_cannot_be_registered_is_named(name: str, wavelet: Any, error: type[Exception], message: str) -> None:
    register_wavelet("triangle", Triangle)
    with pytest.raises(error, match=message):
        register_wavelet(name, wavelet)
    assert list(wavelets._registered) == ["triangle"]


def test_names_that_only_begin_like_a_family_of_pywavelets_are_free() -> None:
    register_wavelet("symmetric", _named("symmetric"))
    assert mother_wavelet("symmetric").name == "symmetric"


def test_the_example_of_register_wavelet_runs() -> None:
    (example,) = (
        found for found in doctest.DocTestFinder().find(register_wavelet, "register_wavelet") if found.examples
    )
    assert doctest.DocTestRunner().run(example).failed == 0
