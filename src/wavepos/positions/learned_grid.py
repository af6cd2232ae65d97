"""Scales and shifts of wavelets that are trained, within bounds that keep the band's end known without a look at them.

Shape suffixes: H query heads, R displacements, D wavelets, one per dimension of the head.
"""

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

Learned = Literal["scales", "shifts"]

LARGEST_CHANGE = 2.0
"""A scale stays between a half and twice its start."""


@final
class LearnedGrid(nn.Module):
    """a_i = a_i⁰ · 2^tanh(x_i) and b_i = b_i⁰ + span · tanh(y_i), with x and y trained from zero.

    So a stays within a factor of 2 of its start and b within the width of the grid of shifts (at least one token), and
    the derivatives at the start are a⁰·log 2 and span.

    Args:
        scales, shifts: the starts a⁰ and b⁰ of the D wavelets, in tokens.
        learn: which of them are trained; the others stay.
        num_heads: H, where each head has a grid of its own; None: all heads share one.
    """

    def __init__(
        self, scales: Sequence[float], shifts: Sequence[float], learn: Sequence[Learned], num_heads: int | None
    ) -> None:
        super().__init__()
        self._scales = tuple(scales)
        self._shifts = tuple(shifts)
        self.span = shift_span(shifts)
        size = (len(scales),) if num_heads is None else (num_heads, len(scales))
        self.free_scales = nn.Parameter(torch.empty(size)) if "scales" in learn else None
        self.free_shifts = nn.Parameter(torch.empty(size)) if "shifts" in learn else None
        self.reset_parameters()

    def forward(self) -> tuple[Tensor, Tensor]:
        """The scales and the shifts, in tokens, [D] each, or [H,D] what each head has of its own."""
        free = next(self.parameters())
        dtype = torch.float32 if free.device.type == "mps" else torch.float64  # which Metal has not
        scales, shifts = (torch.tensor(x, dtype=dtype, device=free.device) for x in (self._scales, self._shifts))
        if self.free_scales is not None:
            scales = scales * LARGEST_CHANGE ** self.free_scales.to(dtype).tanh()
        if self.free_shifts is not None:
            shifts = shifts + self.span * self.free_shifts.to(dtype).tanh()
        return scales, shifts

    def reset_parameters(self) -> None:
        """Back to the starts."""
        for free in self.parameters():
            nn.init.zeros_(free)


def shift_span(shifts: Sequence[float]) -> float:
    """How far a shift may go from its start, in tokens."""
    return max(max(shifts) - min(shifts), 1.0)
