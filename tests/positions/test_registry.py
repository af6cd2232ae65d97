"""A method of a user's own works wherever ours do: in attention, in both families of models, in files, by name."""

import doctest
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from wavepos import attention
from wavepos.models import (
    BaevskiAuliConfig,
    BaevskiAuliForCausalLM,
    WaveposLlamaConfig,
    WaveposLlamaForCausalLM,
)
from wavepos.positions import (
    METHODS,
    Position,
    PositionConfig,
    ScoreTerms,
    known_positions,
    parse_position,
    position_dict,
    register_position,
    registry,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepConfig(PositionConfig):
    """A learned penalty from a displacement on."""

    method: ClassVar[str] = "step"
    aliases: ClassVar[tuple[str, ...]] = ("stairs",)
    start: int = 4
    height: float = 1.0

    def check(self) -> None:
        if self.start < 1:
            raise ValueError(f"start must be at least 1, got {self.start}")

    def build(self, *, head_dim: int, num_heads: int) -> "Step":
        return Step(num_heads, self)


class Step(Position):
    """b[h,δ] = −height_h for δ ≥ start."""

    per_head = True

    def __init__(self, num_heads: int, config: StepConfig) -> None:
        super().__init__()
        self.config = config
        self.height_H = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        beyond = torch.arange(self.config.start + 1, device=q_BHTD.device) >= self.config.start
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, bias_HR=-self.height_H[:, None] * beyond, tail="clamp")

    def reset_parameters(self) -> None:
        nn.init.constant_(self.height_H, self.config.height)


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other modules of this process have registered is not known during a test."""
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def step() -> type[StepConfig]:
    """The method, known during a test."""
    return register_position(StepConfig)


def test_a_registered_method_is_parsed_like_ours(step: type[StepConfig]) -> None:
    assert parse_position("Step") == parse_position("stairs") == StepConfig()
    config = parse_position({"method": "STEP", "start": 7})
    assert json.loads(json.dumps(position_dict(config))) == {"method": "step", "start": 7, "height": 1.0}
    assert parse_position(position_dict(config)) == config
    with pytest.raises(ValueError, match="position 'step': start must be a whole number, got 'x'"):
        parse_position({"method": "step", "start": "x"})
    with pytest.raises(ValueError, match="position 'step': start must be at least 1, got 0"):
        parse_position({"method": "step", "start": 0})
    with pytest.raises(ValueError, match=r"one of nope, .*, learned_relative, step, got 'steps': did you mean 'step'"):
        parse_position("steps")


def test_a_method_is_unknown_until_it_is_registered() -> None:
    with pytest.raises(ValueError, match=f"must be one of {', '.join(METHODS)}, got 'step'"):
        parse_position("step")


def test_every_backend_that_serves_its_terms_computes_it(step: type[StepConfig]) -> None:
    position = parse_position({"method": "step", "height": 2.0}).build(head_dim=16, num_heads=4)
    q, k, v = torch.randn(3, 2, 4, 50, 16)
    scores = q @ k.mT / 4.0
    delta = torch.arange(50)[:, None] - torch.arange(50)
    expected = (scores - 2.0 * (delta >= 4)).masked_fill(delta < 0, -torch.inf).softmax(-1) @ v
    for backend in ("banded", "reference"):
        torch.testing.assert_close(attention(q, k, v, position=position, backend=backend), expected)


def test_a_method_of_ones_own_has_the_fields_that_any_position_has(step: type[StepConfig]) -> None:
    config = parse_position({"method": "step", "window": 3, "temperature": "log"})
    position = config.build(head_dim=16, num_heads=4)
    assert position.window == 3
    assert [name for name, _ in position.named_parameters()] == ["height_H", "temperature.s_H"]
    assert parse_position(position_dict(config)) == config
    bare = StepConfig().build(head_dim=16, num_heads=4)
    assert (bare.window, bare.temperature) == (None, None)


FAMILIES: list[tuple[type[Any], type[Any], dict[str, Any]]] = [
    (BaevskiAuliConfig, BaevskiAuliForCausalLM, {"intermediate_size": 64, "cutoffs": ()}),
    (WaveposLlamaConfig, WaveposLlamaForCausalLM, {"intermediate_size": 64}),
]


@pytest.mark.parametrize(("config", "model", "sizes"), FAMILIES, ids=["baevski-auli", "llama"])
def test_a_model_trains_saves_and_reloads_with_it(
    config: type[Any], model: type[Any], sizes: dict[str, Any], step: type[StepConfig], tmp_path: Path
) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **sizes}
    torch.manual_seed(0)
    built = model(config(**sizes, position={"method": "Stairs", "start": 3}))
    assert sum(isinstance(module, Step) for module in built.modules()) == 2
    ids = torch.randint(50, (2, 12))
    built(input_ids=ids, labels=ids).loss.backward()
    grads = [parameter.grad for name, parameter in built.named_parameters() if name.endswith("height_H")]
    assert len(grads) == 2
    assert all(grad is not None and bool(grad.any()) for grad in grads)
    built.eval().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["position"]
    assert stored == {"method": "step", "start": 3, "height": 1.0}
    registry._registered.clear()
    with pytest.raises(ValueError, match="got 'step'"):
        model.from_pretrained(tmp_path)
    register_position(StepConfig)
    again = model.from_pretrained(tmp_path).eval()
    assert torch.equal(again(input_ids=ids).logits, built(input_ids=ids).logits)


def test_a_name_that_is_taken_is_refused(step: type[StepConfig]) -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class OtherConfig(PositionConfig):
        method: ClassVar[str] = "stairs"

        def build(self, *, head_dim: int, num_heads: int) -> Position:
            raise NotImplementedError

    @dataclass(frozen=True, slots=True, kw_only=True)
    class MineConfig(OtherConfig):
        method: ClassVar[str] = "rope"

    with pytest.raises(ValueError, match="OtherConfig has the name 'stairs', which StepConfig has already"):
        register_position(OtherConfig)
    with pytest.raises(ValueError, match="MineConfig has the name 'rope', which RotaryConfig has already"):
        register_position(MineConfig)
    assert register_position(StepConfig) is StepConfig
    assert known_positions().count(StepConfig) == 1


def _without_build() -> type:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(PositionConfig):
        method: ClassVar[str] = "mine"

    return Config


def _not_frozen() -> type:
    @dataclass(slots=True, kw_only=True)
    class Config(PositionConfig):
        method: ClassVar[str] = "mine"

        def build(self, *, head_dim: int, num_heads: int) -> Position:
            raise NotImplementedError

    return Config


def _no_dataclass() -> type:
    class Config(PositionConfig):
        method: ClassVar[str] = "mine"

    return Config


def _without_method() -> type:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(PositionConfig):
        rate: float = 1.0

    return Config


def _method_in_capitals() -> type:
    return dataclass(frozen=True)(type("Config", (_without_method(),), {"method": "My Method"}))


def _with_a_tensor() -> type:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(PositionConfig):
        method: ClassVar[str] = "mine"
        values: Tensor | None = None

    return Config


def _with_post_init() -> type:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(PositionConfig):
        method: ClassVar[str] = "mine"

        def __post_init__(self) -> None:
            raise NotImplementedError

        def build(self, *, head_dim: int, num_heads: int) -> Position:
            raise NotImplementedError

    return Config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_without_build, "Config must define build"),
        (_not_frozen, "cannot inherit non-frozen dataclass from a frozen one"),
        (_no_dataclass, "Config must be a dataclass"),
        (_without_method, "Config.method must be lower-case letters, digits and underscores, got None"),
        (_method_in_capitals, "Config.method must be lower-case .*, got 'My Method'"),
        (_with_a_tensor, r"Config.values: a config's field cannot be annotated with .*Tensor"),
        (_with_post_init, "Config must define check\\(\\) in place of __post_init__"),
        (lambda: dict, "must be a class that extends PositionConfig, got <class 'dict'>"),
        (lambda: StepConfig(), "must be a class that extends PositionConfig, got StepConfig"),
    ],
)
def test_a_malformed_class_is_refused(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        register_position(make())
    assert [config.method for config in known_positions()] == list(METHODS)


PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from wavepos import ALiBi
from wavepos.positions import Position, PositionConfig, register_position

@register_position
@dataclass(frozen=True, slots=True, kw_only=True)
class MineConfig(PositionConfig):
    method: ClassVar[str] = "mine"

    def build(self, *, head_dim: int, num_heads: int) -> Position:
        return ALiBi(num_heads)
"""


@pytest.mark.parametrize("way", ["module", "file", "entry point"])
def test_the_command_line_finds_a_method_that_a_module_registers(way: str, tmp_path: Path) -> None:
    (tmp_path / "my_method.py").write_text(PLUGIN)
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(registry.__file__).parents[2]}", "PATH": "", "HOME": str(tmp_path)}
    named = {"module": ("--import", "my_method"), "file": ("--import", "my_method.py")}.get(way, ())
    if way == "entry point":
        info = tmp_path / "my_method-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-method\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[wavepos.positions]\nmine = my_method\n")
    command = [sys.executable, "-m", "wavepos.cli", "train", "--method", "Mine", "--dry-run", *named]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"mine"' in done.stdout or "'mine'" in done.stdout


def test_the_example_of_register_position_runs(step: type[StepConfig]) -> None:
    (example,) = (
        found for found in doctest.DocTestFinder().find(register_position, "register_position") if found.examples
    )
    assert doctest.DocTestRunner().run(example).failed == 0
