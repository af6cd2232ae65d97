"""RoPE: rotary position embedding (Su et al., 2021; Eq. 6)."""

import functools
import json
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from wavepos.positions.config import PositionConfig
from wavepos.positions.rotary_scaling import (
    LARGEST_THETA,
    DynamicNTKScaling,
    LinearScaling,
    LongRopeScaling,
    RotaryScaling,
    inverse_frequencies,
)
from wavepos.positions.tables import TableCache
from wavepos.positions.terms import Position, ScoreTerms, at_least_float32, require_fit, require_positive_int
from wavepos.positions.typed import LONGEST, parsed, require_between

PartialStyle = Literal["first_dims", "high_frequencies"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryConfig(PositionConfig):
    """Base and scaling of the frequencies, and the part of the head that is rotated.

    Attributes:
        theta: base of the frequencies θ^(−2i/D); "trained_length": L_train, as `trained_length` says.
        scaling: how the frequencies are stretched for sequences longer than in training; None: not at all.
        partial_rotary_factor: the part of the head that is rotated, above 0.
        partial_rotary_style: which part, as `Rotary` says.
        trained_length: L_train in tokens, with theta="trained_length".
    """

    method: ClassVar[str] = "rotary"
    aliases: ClassVar[tuple[str, ...]] = ("rope",)
    theta: float | Literal["trained_length"] = 10000.0
    scaling: RotaryScaling | None = None
    partial_rotary_factor: float = 1.0
    partial_rotary_style: PartialStyle = "first_dims"
    trained_length: int | None = None

    def check(self) -> None:
        if (self.theta == "trained_length") != (self.trained_length is not None):
            raise ValueError(
                f"trained_length goes with theta='trained_length' and is needed there, got theta={self.theta!r} and "
                f"trained_length={self.trained_length}"
            )
        if self.trained_length is not None:
            require_between("trained_length", self.trained_length, 2, LONGEST)
        if not self.base > 1.0:
            raise ValueError(f"theta must be more than 1, got {self.theta}")
        require_between("theta", self.base, 1.0, LARGEST_THETA)
        if not 0.0 < self.partial_rotary_factor <= 1.0:
            raise ValueError(
                f"partial_rotary_factor must be above 0 and at most 1, got {self.partial_rotary_factor!r}; method "
                "'nope' rotates nothing"
            )
        if self.partial_rotary_style == "high_frequencies" and not isinstance(self.scaling, LinearScaling | None):
            raise ValueError(
                "scaling must be linear or None with partial_rotary_style='high_frequencies', for the others are made "
                f"for a whole set of frequencies, got {self.scaling.rope_type!r}"
            )

    @property
    def base(self) -> float:
        """θ as a number."""
        return float(self.theta if self.trained_length is None else self.trained_length)

    @property
    def follows_length(self) -> bool:
        """Whether the frequencies depend on the number of keys."""
        return isinstance(self.scaling, (DynamicNTKScaling, LongRopeScaling))

    def build(self, *, head_dim: int, num_heads: int) -> "Rotary":
        return Rotary(
            head_dim,
            theta=self.theta,
            scaling=self.scaling,
            partial_rotary_factor=self.partial_rotary_factor,
            partial_rotary_style=self.partial_rotary_style,
            trained_length=self.trained_length,
        )


@final
class Rotary(Position):
    """q and k rotated by the angles m·θ_i and n·θ_i, in transformers' Llama layout (first and second half paired).

    Frequencies and angles are float64, cos and sin are rounded to float32: an entry is off by at most 6e-8, at position
    one million too. With dynamic-NTK and LongRoPE the frequencies follow the number of keys S; keys are rotated anew at
    each call, never kept rotated.

    Deviates from transformers' Llama, whose frequencies and angles are float32: its angles are off by 1.4e-4 rad at
    position 4,096, 2e-3 at 65,536 and 0.05 at a million (D = 128, θ = 10,000), and so far its rotation is from this.

    Args:
        head_dim: D, even.
        theta: base of the frequencies; "trained_length": that of `trained_length`.
        scaling: a `LinearScaling`, `DynamicNTKScaling`, `YarnScaling`, `LongRopeScaling` or `Llama3Scaling`.
        partial_rotary_factor: p, the part of the head that is rotated, above 0; 1: all of it.
        partial_rotary_style: "first_dims" (GPT-NeoX, Phi): the first R = ⌊p·D⌋ dimensions, as a head of size R would
            be, R even; the others stay as they are. "high_frequencies" (p-RoPE, Barbero et al., 2024; transformers'
            "proportional"): of the D/2 frequencies of the whole head the ⌊p·D/2⌋ highest, the other pairs stay as they
            are; with linear scaling or none.
        trained_length: L_train in tokens, with theta="trained_length".

    Raises:
        ValueError: a head_dim, a part of it or a scaling that do not go together, or any argument out of its range.
    """

    needs_table = False
    rotates = True

    def __init__(
        self,
        head_dim: int,
        theta: float | Literal["trained_length"] = 10000.0,
        scaling: RotaryScaling | None = None,
        partial_rotary_factor: float = 1.0,
        partial_rotary_style: PartialStyle = "first_dims",
        trained_length: int | None = None,
    ) -> None:
        super().__init__()
        require_positive_int("head_dim", head_dim)
        if head_dim % 2:
            raise ValueError(f"head_dim must be even for Rotary, got {head_dim}")
        self.config = RotaryConfig(
            theta=theta,
            scaling=scaling,
            partial_rotary_factor=partial_rotary_factor,
            partial_rotary_style=partial_rotary_style,
            trained_length=trained_length,
        )
        self._head_dim = head_dim
        self._spec = json.dumps(self.config.to_json())
        self._rotary_dim = self._rotated_part()
        self._cache = TableCache(self._angles)
        self.frequencies(1)  # a scaling that does not fit head_dim is refused here

    def frequencies(self, seq_len: int) -> tuple[Tensor, float]:
        """Inverse frequencies, float64 on the CPU, and the factor on cos and sin, for that many keys.

        One of every pair that is rotated: [D/2]; with "first_dims" [R/2]; with "high_frequencies" [D/2], zero where a
        pair stays.
        """
        head_dim = self._head_dim if self.config.partial_rotary_style == "high_frequencies" else self._rotary_dim
        with torch.device("cpu"):
            if self.config.scaling is None:
                frequencies, factor = inverse_frequencies(head_dim, self.config.base), 1.0
            else:
                frequencies, factor = self.config.scaling.frequencies(head_dim, self.config.base, seq_len)
        frequencies[self._rotary_dim // 2 :] = 0.0
        return frequencies, factor

    @property
    def num_angles(self) -> int:
        """How many frequencies there are, those at which a pair stays among them."""
        return (self._head_dim if self.config.partial_rotary_style == "high_frequencies" else self._rotary_dim) // 2

    def _rotated_part(self) -> int:
        """R, dimensions that are rotated."""
        part = int(self._head_dim * self.config.partial_rotary_factor)
        if self.config.partial_rotary_style == "high_frequencies":
            part -= part % 2  # pairs
        if part < 2 or part % 2:
            raise ValueError(
                f"partial_rotary_factor must leave an even number of dimensions to rotate, at least 2, got "
                f"{self.config.partial_rotary_factor} of head_dim={self._head_dim}, so {part}"
            )
        return part

    @property
    def follows_length(self) -> bool:
        """Whether the frequencies depend on the number of keys, so that a rotated key cannot be kept."""
        return self.config.follows_length

    def rotates_alike(self, num_keys: int, other: int) -> bool:
        return torch.equal(self.frequencies(num_keys)[0], self.frequencies(other)[0])

    def rotated(self, x: Tensor, offset: int | Tensor, limit: int) -> Tensor:
        """x rotated as at positions offset … offset + T − 1, for caches that keep rotated keys.

        Args:
            x: queries or keys, [B,H,T,D].
            offset: position of the first; an int, or an int64 tensor without dimensions.
            limit: positions that a tensor offset never exceeds: tables are made for that many.

        Raises:
            ValueError: the frequencies follow the number of keys.
        """
        if self.follows_length:
            raise ValueError(
                f"keys rotated by {type(self.config.scaling).__name__} cannot be kept: it follows the length"
            )
        length = x.shape[2]
        if isinstance(offset, int):
            return _rotate(x, self._cos_sin(offset + length, 0, x.device)[:, offset:])
        slots = torch.arange(length, device=x.device) + offset
        return _rotate(x, self._cos_sin(limit, 0, x.device).index_select(1, slots))

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        require_fit(self, q_BHTD, head_dim=self._head_dim)
        num_queries, num_keys = q_BHTD.shape[2], k_BGSD.shape[2]
        cos_sin = self._cos_sin(max(q_offset + num_queries, num_keys), num_keys, q_BHTD.device)
        return ScoreTerms(
            q_BHTD=_rotate(q_BHTD, cos_sin[:, q_offset : q_offset + num_queries]),
            k_BGSD=_rotate(k_BGSD, cos_sin[:, :num_keys]),
        )

    def reset_parameters(self) -> None:
        return None

    def _cos_sin(self, length: int, seq_len: int, device: torch.device) -> Tensor:
        """cos and sin of the angles of positions 0 … length − 1, float32 [2, length, R/2]."""
        scaling = self.config.scaling
        if self.follows_length and torch.compiler.is_dynamo_compiling():  # a constant would be one for each length
            cos_sin: Tensor = cos_sin_operator(
                torch.empty(0, device=device), self._spec, self._head_dim, length, seq_len
            )
            return cos_sin
        return self._cache.get(length, device, key=0 if scaling is None else scaling.effective_length(seq_len))

    def _angles(self, length: int, seq_len: int) -> Tensor:
        """cos and sin with the frequencies for that many keys (only some scalings look at it)."""
        frequencies, factor = self.frequencies(seq_len)
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
        return (torch.stack([angle.cos(), angle.sin()]) * factor).to(torch.float32)


@torch.library.custom_op("wavepos::cos_sin", mutates_args=())
def cos_sin_operator(like: Tensor, spec: str, head_dim: int, length: int, seq_len: int) -> Tensor:
    """What `Rotary._cos_sin` gives on the device of `like`, as one operator of graphs that serve any length."""
    return _of_spec(spec, head_dim)._cos_sin(length, seq_len, like.device).clone()


@cos_sin_operator.register_fake
def _(like: Tensor, spec: str, head_dim: int, length: int, seq_len: int) -> Tensor:
    return like.new_empty(2, length, _of_spec(spec, head_dim).num_angles, dtype=torch.float32)


@functools.lru_cache(maxsize=32)
def _of_spec(spec: str, head_dim: int) -> Rotary:
    return parsed(json.loads(spec), [RotaryConfig]).build(head_dim=head_dim, num_heads=1)


def _rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """x [..., length, D] with its first R dimensions rotated, in float32 or better, by cos_sin [2, length, R/2]."""
    part = 2 * cos_sin.shape[-1]
    wide = at_least_float32(x if part == x.shape[-1] else x[..., :part])
    cos, sin = cos_sin.to(wide.dtype).unbind(0)
    first, second = wide.chunk(2, dim=-1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
    return rotated if part == x.shape[-1] else torch.cat([rotated, x[..., part:]], dim=-1)
