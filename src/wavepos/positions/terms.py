"""The score formula that every position fills in and every attention backend computes (docs/math.md, section 2).

Shape suffixes, everywhere: B batch, H query heads, G key/value heads, T queries, S keys, D head dim, E width of the
relative term, R table length in displacements.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn

from wavepos.positions.tables import LowRank
from wavepos.positions.temperature import Temperature, TemperatureLike, parse_temperature

Tail = Literal["zero", "clamp", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTerms:
    """What a position says of the scores, with displacement δ = m − n (query position minus key position):

        s[h,m,n] = softmax_scale · q_m·k_n + relative_scale · r_m·p(δ) + b[h,δ] + c[h,m] − c[h,n]

    c is the running sum of the gates over the keys, so c[m] − c[n] is the sum of those of keys n + 1 … m.

    Attributes:
        q_BHTD: queries, [B,H,T,D].
        k_BGSD: keys, [B,G,S,D].
        r_BHTE: what the table is multiplied with, [B,H,T,E]; None without a relative term.
        table: p(δ) for δ = first_displacement, first_displacement + 1, …; float32, [R,E], or [H,R,E] if heads differ.
        bias_HR: b[h,δ], added without softmax_scale; float32, [H,R].
        gates_BHS: a log gate per key, at most 0, added without softmax_scale: [B or 1,H,S], or [B or 1,H,1] where every
            key has the same; float32 or q's dtype. They go with causal attention.
        tail: what holds beyond either end, from displacement first_displacement + R on and before first_displacement:
            "zero", or "clamp" (the end's entry holds), or "none": table and bias cover every displacement of the call.
        first_displacement: the displacement of entry 0: 0 in causal attention, and below 0 where keys ahead of their
            query are seen. The table holds displacement 0.
        relative_scale: the factor on r·p; None: softmax_scale.
    """

    q_BHTD: Tensor
    k_BGSD: Tensor
    r_BHTE: Tensor | None = None
    table: Tensor | None = None
    bias_HR: Tensor | None = None
    gates_BHS: Tensor | None = None
    tail: Tail = "none"
    first_displacement: int = 0
    relative_scale: float | None = None

    def in_use(self) -> frozenset[str]:
        """The names of the fields that say something: every one that is not its default, also of a class derived."""
        found = set()
        for name, field in self.__dataclass_fields__.items():  # `fields` would sort them out in every call
            value = getattr(self, name)
            if value is not None and (isinstance(value, Tensor) or value != field.default):
                found.add(name)
        return frozenset(found)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The name and value of every tensor in the fields."""
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, Tensor):
                yield name, value

    def tempered(self, temperature: Temperature | None, offset: int | Tensor) -> "ScoreTerms":
        """With q and r multiplied by a length temperature, for queries at positions offset … offset + T − 1."""
        if temperature is None:
            return self
        q_BHTD = temperature(self.q_BHTD, offset)
        if self.r_BHTE is None or self.r_BHTE is self.q_BHTD:
            return replace(self, q_BHTD=q_BHTD, r_BHTE=None if self.r_BHTE is None else q_BHTD)
        return replace(self, q_BHTD=q_BHTD, r_BHTE=temperature(self.r_BHTE, offset))

    def at_displacement(self, values: Tensor, displacement_TS: Tensor) -> Tensor:
        """values[..., m, δ(m, n)] as [..., T, S], with the tail beyond the first and the last entry."""
        last = values.shape[-1] - 1
        index_TS = displacement_TS - self.first_displacement
        at = values.gather(-1, index_TS.clamp(0, last).expand(*values.shape[:-1], -1))
        return at.masked_fill((index_TS > last) | (index_TS < 0), 0.0) if self.tail == "zero" else at


class Position(nn.Module, ABC):
    """A positional method: it turns queries and keys into `ScoreTerms` and knows nothing of how they are computed."""

    needs_table: bool = True
    """Whether scores hold more than q·k: a table, a bias or gates (False: NoPE and Rotary)."""

    per_head: bool = False
    """Whether it holds something for each query head, so that a device with some of the heads must know which."""

    rotates: bool = False
    """Whether q and k themselves depend on where they stand (Rotary); caches keep what `rotated` gives."""

    temperature: Temperature | None
    """What q and r are multiplied with at each query position, whatever the method; `with_temperature` sets it."""

    window: int | None
    """The window of a call that gives none: keys δ < window are seen; None: all."""

    settings: str
    """What it was built with, as `print` of a model shows it; of one that no config built: nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = None
        self.window = None
        self.settings = ""

    def extra_repr(self) -> str:
        """The settings, where torch shows those of a module."""
        return self.settings

    def with_temperature(self, temperature: TemperatureLike, *, num_heads: int | None = None) -> Self:
        """Itself, from now on with a length temperature: `Wavelet(128).with_temperature("log", num_heads=8)`.

        Args:
            temperature: "log" (q and r times s_h·log(m + 1), s_h learned), "llama4", or such an object or config.
            num_heads: query heads H; needed where a number per head is learned.

        Raises:
            ValueError: no such temperature, or no num_heads where it is needed.
        """
        self.temperature = parse_temperature(temperature).build(num_heads=num_heads)
        self.per_head = self.per_head or self.temperature.num_heads is not None
        return self

    @abstractmethod
    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        """The terms for queries at positions q_offset … q_offset + T − 1 and keys at 0 … S − 1."""

    def terms_both_ways(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        """The terms where a query sees keys ahead of it too (causal=False): displacements from q_offset − S + 1 on.

        Raises:
            ValueError: the method has nothing to say of such keys, the default for those that need a table.
        """
        if self.needs_table:
            raise ValueError(
                f"position {type(self).__name__} has nothing to say of keys ahead of their query: causal=False is not "
                "served with it"
            )
        return self.terms(q_BHTD, k_BGSD, q_offset=q_offset)

    @abstractmethod
    def reset_parameters(self) -> None:
        """Set every learned parameter to its starting value; nothing for methods without any."""

    @property
    def follows_length(self) -> bool:
        """Whether the rotation depends on the number of keys, so that a rotated key cannot be kept."""
        return False

    def rotates_alike(self, num_keys: int, other: int) -> bool:
        """Whether states are rotated alike among num_keys keys and among `other`."""
        return not self.follows_length or num_keys == other

    def rotated(self, x: Tensor, offset: int | Tensor, limit: int) -> Tensor:
        """x as it stands at positions offset … offset + T − 1, for caches that keep rotated keys.

        A method that rotates must define it, unless it follows the length. With q and k so rotated and no other term,
        `NoPE` gives the scores.

        Args:
            x: queries or keys, [B,H,T,D].
            offset: position of the first; an int, or an int64 tensor without dimensions.
            limit: positions that a tensor offset never exceeds.

        Raises:
            NotImplementedError: the method does not define it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define rotated(x, offset, limit) for models that keep rotated keys, or "
            "follows_length = True"
        )

    def factors(self, terms: ScoreTerms) -> LowRank | None:
        """The table of these terms as a product, good to r's rounding, for backends that gain by it; None: unknown.

        Only a table that is never learned can have one.
        """
        return None


class ReadsRelativeStates(Position):
    """A position whose r is a projection of its own of the hidden state, handed to `attention` beside q and k."""

    @abstractmethod
    def terms(
        self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0, relative_states_BHTE: Tensor | None = None
    ) -> ScoreTerms:
        """The terms; ValueError without relative states or with some that do not fit q."""


class ReadsGates(Position):
    """A position with a log gate per key that is made of the hidden state and handed to `attention` beside q and k."""

    reads_gates: bool = True
    """Whether this one does: a class may have gates as an option."""

    @abstractmethod
    def gates(self, logits_BHS: Tensor) -> Tensor:
        """The log gates [B,H,S], float32 (float64 for float64 input), of a projection of the hidden state, w_h·x_n."""

    @abstractmethod
    def terms(
        self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0, gates_BHS: Tensor | None = None
    ) -> ScoreTerms:
        """The terms; gates that are missing or do not fit have been refused before."""

    def terms_both_ways(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        require_no_gates(self)
        return super().terms_both_ways(q_BHTD, k_BGSD, q_offset=q_offset)


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is where it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def farthest(q_BHTD: Tensor, k_BGSD: Tensor, q_offset: int) -> tuple[int, int]:
    """How far ahead of a query a key stands at most, and how far behind it; at least 0 each, in tokens."""
    return max(0, k_BGSD.shape[2] - 1 - q_offset), max(0, q_offset + q_BHTD.shape[2] - 1)


def require_fit(
    position: Position, q_BHTD: Tensor, *, head_dim: int | None = None, num_heads: int | None = None
) -> None:
    """Raise ValueError unless the queries have the position's heads and lie where its parameters do.

    Args:
        position: whose terms are asked for.
        q_BHTD: queries [B,H,T,D].
        head_dim: the D that the position was made for; None: any.
        num_heads: the H that the position was made for; None: any.
    """
    name, (_, heads, _, width) = type(position).__name__, q_BHTD.shape
    if num_heads is not None and heads != num_heads:
        looks = ", which looks like [batch, length, heads, head_dim]: transpose(1, 2)" * (num_heads == q_BHTD.shape[2])
        raise ValueError(
            f"position {name} was made for num_heads={num_heads}, got q with {_shape(q_BHTD)}, so {heads}{looks}"
        )
    if head_dim is not None and width != head_dim:
        raise ValueError(f"position {name} was made for head_dim={head_dim}, got q with {_shape(q_BHTD)}, so {width}")
    for parameter in position._parameters.values():
        if parameter is not None and parameter.device != q_BHTD.device:
            raise ValueError(
                f"position {name} lies on device {parameter.device} and q on {q_BHTD.device}: move the position to q's "
                "device, or from meta with to_empty and reset_parameters or a state dict"
            )


def require_both_ways(position: Position, bidirectional: bool) -> None:
    """Raise ValueError unless the position was made with bidirectional=True."""
    if not bidirectional:
        name = type(position).__name__
        raise ValueError(
            f"position {name} was made for keys at and behind their query: causal=False needs one of "
            f"{name}(bidirectional=True)"
        )


def require_no_gates(position: ReadsGates) -> None:
    """Raise ValueError where the position reads gates, which keys ahead of their query have no part in."""
    if position.reads_gates:
        raise ValueError(
            f"position {type(position).__name__} reads gates, which are summed over the keys behind a query: "
            "causal=False is not served with it"
        )


def _shape(q_BHTD: Tensor) -> str:
    return f"shape [batch, heads, queries, head_dim] = {tuple(q_BHTD.shape)}"


def require_positive_int(name: str, value: int) -> None:
    """Raise ValueError unless value is a whole number above zero."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
