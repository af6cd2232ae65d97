"""What a peer is: a way to compute causal attention with positions, as those who use it write it.

Tensors are [B,H,L,D]: batch, heads, length, head dim; queries and keys are as many.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from wavepos.positions import Position, known_positions
from wavepos.positions.typed import names_of, normalised

Pass = Literal["forward", "forward+backward"]
PASSES: tuple[Pass, ...] = ("forward", "forward+backward")
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def is_called(typed: str, name: str) -> bool:
    """Whether a peer of that name is meant: case and hyphens do not matter, and a method's other names are its own."""
    for config in known_positions():
        if normalised(name) in names_of(config):
            return normalised(typed) in names_of(config)
    return normalised(typed) == normalised(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One attention call; inputs are drawn from the seed in float32 and rounded to the dtype."""

    batch: int = 1
    num_heads: int = 2
    head_dim: int = 128
    seq_len: int
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    seed: int = 0

    @property
    def softmax_scale(self) -> float:
        return 1.0 / math.sqrt(self.head_dim)

    def draw(self, *shape: int, stream: int = 0) -> Tensor:
        """Normal numbers of that shape; each stream gives its own."""
        generator = torch.Generator().manual_seed(1000 * self.seed + stream)
        return torch.randn(shape, generator=generator).to(self.device, self.dtype)

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v and the gradient that arrives at the output."""
        shape = (self.batch, self.num_heads, self.seq_len, self.head_dim)
        q, k, v, grad = (self.draw(*shape, stream=stream) for stream in range(4))
        return q, k, v, grad

    def score_bytes(self, copies: float) -> int:
        """Bytes of that many [B,H,L,L] tensors in the case's dtype."""
        return round(copies * self.batch * self.num_heads * self.seq_len**2 * self.dtype.itemsize)

    def displacement(self) -> Tensor:
        """m − n, int64 [L,L]."""
        at = torch.arange(self.seq_len, device=self.device)
        return at[:, None] - at


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A peer made ready for one case.

    Attributes:
        run: q, k, v to the output.
        position: the position whose reference output `run` must equal.
        learned: tensors beside q, k and v whose gradients a training step needs.
        state: tensors kept from call to call (tables, masks); their bytes count as memory.
        arguments: further ones of `attention` with which it does: a window, documents, what the position reads.
    """

    run: Attend
    position: Position
    learned: tuple[Tensor, ...] = ()
    state: tuple[Tensor, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _nothing(_: Case, __: Pass) -> int:
    return 0


def _served(_: Case, __: Pass) -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A way to compute attention with positions.

    Attributes:
        name: on the command line and in the result.
        title: for people.
        formula: the scores it computes.
        build: makes it ready for a case.
        quadratic_bytes: roughly what it holds that grows as L²; 0 where memory is linear.
        refusal: why it does not serve a case and pass; None where it does.
        module: what must be importable.
        compiled: whether a compiler stands behind it, whose failure is recorded and not ours.
    """

    name: str
    title: str
    formula: str
    build: Callable[[Case], Built]
    quadratic_bytes: Callable[[Case, Pass], int] = _nothing
    refusal: Callable[[Case, Pass], str | None] = _served
    module: str | None = None
    compiled: bool = False

    def missing(self) -> str | None:
        """Why it cannot be built here at all."""
        if self.module is None:
            return None
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            return f"{self.module} cannot be imported: {error}"
        return None


def dense(forward: float, backward: float) -> Callable[[Case, Pass], int]:
    """The bytes of a peer that holds so many [B,H,L,L] tensors at once in a forward pass, and with the backward."""

    def count(case: Case, kind: Pass) -> int:
        return case.score_bytes(forward if kind == "forward" else backward)

    return count
