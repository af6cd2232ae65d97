"""Length temperatures: what q and r are multiplied with at position m, so that many keys do not flatten the softmax.

A temperature is a property of any position. It multiplies what stands in softmax_scale · (q_m·k_n + r_m·p(δ)), so the
product with the hidden states and the table alike, and neither a bias b[h,δ] nor a gate.

Shape suffixes: B batch, H query heads, T queries, E width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final, get_args

import torch
from torch import Tensor, nn

from wavepos.positions.typed import LONGEST, TypedConfig, parsed, require_between

MEAN_LOG_START = 0.168
"""s such that s·log(m + 1) is 1 in the mean over the first 1,024 positions: attention begins about as it is without."""
LARGEST_FACTOR = 1e6


class Temperature(nn.Module, ABC):
    """A factor per query position, and per head where it learns."""

    num_heads: int | None = None
    """The query heads H it was made for; None: any."""

    @abstractmethod
    def factors(self, position_T: Tensor, dtype: torch.dtype) -> Tensor:
        """The factor at each position m, [T], or [H,T] where heads differ; of that dtype, float32 or better."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Set every learned parameter to its starting value."""

    def forward(self, x_BHTE: Tensor, offset: int | Tensor) -> Tensor:
        """x times the factor, multiplied in float32 or better, in x's dtype.

        Args:
            x_BHTE: what belongs to queries at positions offset … offset + T − 1.
            offset: position of the first; an int, or an int64 tensor without dimensions.

        Raises:
            ValueError: x has other heads than the temperature was made for, or lies on another device.
        """
        if self.num_heads is not None and x_BHTE.shape[1] != self.num_heads:
            raise ValueError(
                f"temperature {type(self).__name__} was made for num_heads={self.num_heads}, got q with "
                f"{x_BHTE.shape[1]} heads"
            )
        for parameter in self.parameters():
            if parameter.device != x_BHTE.device:
                raise ValueError(
                    f"temperature {type(self).__name__} lies on device {parameter.device} and q on {x_BHTE.device}: "
                    "move the position to q's device"
                )
        dtype = torch.promote_types(x_BHTE.dtype, torch.float32)
        position_T = torch.arange(x_BHTE.shape[2], device=x_BHTE.device) + offset
        return (x_BHTE.to(dtype) * self.factors(position_T, dtype)[..., None]).to(x_BHTE.dtype)


class TemperatureConfig(TypedConfig):
    """How q and r grow with the position."""

    __slots__ = ()
    kind = "length temperature"
    tag = "form"

    form: ClassVar[str]

    @abstractmethod
    def build(self, *, num_heads: int | None) -> Temperature:
        """The temperature, for that many query heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTemperatureConfig(TemperatureConfig):
    """Scalable softmax (SSMax; Nakanishi, 2025), with s learned.

    Attributes:
        start: the value that every s_h begins with.
    """

    form: ClassVar[str] = "log"
    aliases: ClassVar[tuple[str, ...]] = ("ssmax",)
    start: float = MEAN_LOG_START

    def check(self) -> None:
        require_between("start", self.start, -LARGEST_FACTOR, LARGEST_FACTOR)

    def build(self, *, num_heads: int | None) -> "LogTemperature":
        if num_heads is None:
            raise ValueError("num_heads must be given with temperature 'log', which learns a number per head, got None")
        return LogTemperature(num_heads, start=self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama4TemperatureConfig(TemperatureConfig):
    """Llama 4's `attn_temperature_tuning`; the fields have transformers' names.

    Attributes:
        attn_scale: a.
        floor_scale: f, in tokens: before position f − 1 nothing is changed.
    """

    form: ClassVar[str] = "llama4"
    attn_scale: float = 0.1
    floor_scale: int = 8192

    def check(self) -> None:
        require_between("attn_scale", self.attn_scale, 0.0, LARGEST_FACTOR)
        require_between("floor_scale", self.floor_scale, 1, LONGEST)

    def build(self, *, num_heads: int | None) -> "Llama4Temperature":
        return Llama4Temperature(attn_scale=self.attn_scale, floor_scale=self.floor_scale)


LengthTemperature = LogTemperatureConfig | Llama4TemperatureConfig
TemperatureLike = str | Mapping[str, Any] | TemperatureConfig
"""A temperature's name, its JSON object or its config."""


def parse_temperature(data: TemperatureLike) -> TemperatureConfig:
    """The config that a name or a JSON object stands for; a config stands for itself.

    Raises:
        ValueError: no such temperature, an unknown key, or a value of the wrong type or out of its range.
    """
    if isinstance(data, TemperatureConfig):
        return data
    if not isinstance(data, str | Mapping):
        raise ValueError(f"temperature must be a name, a JSON object or a config, got {data!r}")
    config: TemperatureConfig = parsed({"form": data} if isinstance(data, str) else data, get_args(LengthTemperature))
    return config


@final
class LogTemperature(Temperature):
    """s_h·log(m + 1), m + 1 the number of keys that a causal query may see; s learned per head.

    At m = 0 the factor is 0: one key is seen, with weight 1 whatever its score.

    Args:
        num_heads: query heads H.
        start: the value that every s_h begins with; by default 1 / mean log over 1,024 positions.
    """

    def __init__(self, num_heads: int, start: float = MEAN_LOG_START) -> None:
        super().__init__()
        self.num_heads = num_heads
        self._start = start
        self.s_H = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def factors(self, position_T: Tensor, dtype: torch.dtype) -> Tensor:
        return self.s_H.to(dtype)[:, None] * (position_T + 1).to(dtype).log()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.s_H, self._start)


@final
class Llama4Temperature(Temperature):
    """1 + a·log(⌊(m + 1) / f⌋ + 1): a step up each time another f keys are seen. Nothing is learned.

    Args:
        attn_scale: a.
        floor_scale: f, in tokens.
    """

    def __init__(self, attn_scale: float = 0.1, floor_scale: int = 8192) -> None:
        super().__init__()
        self._attn_scale = attn_scale
        self._floor_scale = floor_scale

    def factors(self, position_T: Tensor, dtype: torch.dtype) -> Tensor:
        steps = torch.div(position_T + 1, self._floor_scale, rounding_mode="floor")
        return 1.0 + self._attn_scale * steps.to(dtype).log1p()

    def reset_parameters(self) -> None:
        return None
