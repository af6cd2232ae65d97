"""What every positional method is set to: its own fields, and those that any position may have."""

import functools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from wavepos.positions.temperature import LengthTemperature
from wavepos.positions.terms import Position
from wavepos.positions.typed import LONGEST, TypedConfig, require_between


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionConfig(TypedConfig):
    """What a positional method is set to; it builds the position for query heads of a size and number.

    Subclass it for a method of your own, as a frozen dataclass with slots and keyword-only fields, and hand it to
    `register_position`. What any position may have is a field of every method, and `build` need not know of it:

    Attributes:
        temperature: what q and r are multiplied with at query position m, by name ("log", "llama4") or as an object;
            None: nothing.
        window: keys that a query sees in a model's layer, its own among them: δ < window; None: all before it.
    """

    kind: ClassVar[str] = "position"
    tag: ClassVar[str] = "method"

    method: ClassVar[str]
    """The name that is stored: lower case, words joined by underscores."""
    aliases: ClassVar[tuple[str, ...]] = ()
    """Other names that are understood; case, spaces, hyphens and underscores never matter."""

    temperature: LengthTemperature | None = None
    window: int | None = None

    def __init_subclass__(cls) -> None:
        """Whatever `build` a method defines, what it gives has the temperature and the window of its config."""
        if "build" in vars(cls) and "__dataclass_fields__" not in vars(cls):  # slots=True makes the class a second time
            cls.build = _completed(cls.build)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        TypedConfig.__post_init__(self)  # super() does not know the class that slots=True makes anew
        if self.window is not None:
            try:
                require_between("window", self.window, 1, LONGEST)
            except ValueError as error:
                raise ValueError(f"{self.label()}: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """Its JSON object, the name under "method"; of what any position may have, what it has."""
        shared = ("temperature", "window")
        fields = TypedConfig.to_json(self)
        return {key: value for key, value in fields.items() if key not in shared or value is not None}

    def settings(self) -> str:
        """What it is set to, as `print` of a model shows it: "theta=10000.0"."""
        fields = {key: value for key, value in self.to_json().items() if key != self.tag}
        return ", ".join(f"{key}={value!r}" for key, value in fields.items() if value not in (None, (), False))

    @abstractmethod
    def build(self, *, head_dim: int, num_heads: int) -> Position:
        """The position, for query heads of that size and number; a method defines it for what is its own."""

    @property
    def relative_states_dim(self) -> int | None:
        """E of the relative states that a model projects for it from the hidden state; None: it reads none."""
        return None

    @property
    def reads_gates(self) -> bool:
        """Whether a model projects for it a number per head and key from the hidden state, for `ReadsGates.gates`."""
        return False


def _completed(build: Callable[..., Position]) -> Callable[..., Position]:
    @functools.wraps(build)
    def completed(self: PositionConfig, *, head_dim: int, num_heads: int) -> Position:
        position = build(self, head_dim=head_dim, num_heads=num_heads)
        position.window = self.window
        position.settings = self.settings()
        if self.temperature is not None:
            position.with_temperature(self.temperature, num_heads=num_heads)
        return position

    return completed
