"""Wavelets ψ((t − b)/a) of one mother over scales a and shifts b, as functions of the displacement (Eq. 14).

Shape suffixes: R displacements, D wavelets, one per dimension of the head.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from wavepos.positions.learned_grid import LARGEST_CHANGE, Learned, LearnedGrid, shift_span
from wavepos.positions.terms import at_least_float32
from wavepos.positions.typed import require_between
from wavepos.wavelets import MotherWavelet, Sampled

Direction = Literal["past", "future"]
Amplitude = Literal["equal", "inverse_sqrt", "unit_peak"]

BAND_TOLERANCE = 1e-7
NUM_SCALES = 8
SMALLEST_SCALE, LARGEST_SCALE = 1e-6, 1e100
"""Between them u = (t − b)/a and its square are numbers; the paper's largest scale is 2¹²⁷ (Table 3)."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WaveletGrid:
    """The grid; wavelet i_scale · len(shifts) + i_shift has scale i_scale and shift i_shift.

    Attributes:
        mother: ψ.
        scales: a, in tokens (levels for PyWavelets' wavelets), stretched already.
        shifts: b, in tokens.
        direction: "past": t = δ; "future": t = −δ.
        amplitude: as `Wavelet` takes it.
        stretch: the factor that the scales hold.
    """

    mother: MotherWavelet
    scales: tuple[float, ...]
    shifts: tuple[float, ...]
    direction: Direction
    amplitude: Amplitude
    stretch: float

    @classmethod
    def of_head(
        cls,
        head_dim: int,
        mother: MotherWavelet,
        given: tuple[tuple[float, ...] | None, tuple[float, ...] | None],
        direction: Direction,
        amplitude: Amplitude,
        stretch: float,
    ) -> "WaveletGrid":
        """The grid of a head: of the scales and shifts that are given, the others as `Wavelet` says.

        Raises:
            ValueError: they do not give head_dim wavelets, or cannot be stretched so far.
        """
        scales, shifts = given
        sampled = isinstance(mother, Sampled)
        if scales is None:
            scales = tuple(float(j + 1) if sampled else 2.0**j for j in range(NUM_SCALES))
        if stretch != 1.0:
            if sampled:
                raise ValueError(
                    f"stretch goes with wavelets that have a formula, got stretch={stretch} for {mother.name!r}, whose "
                    "scales are levels of PyWavelets"
                )
            scales = tuple(scale * stretch for scale in scales)
            for scale in (min(scales), max(scales)):
                require_between("scales × stretch", scale, SMALLEST_SCALE, LARGEST_SCALE)
        if shifts is None:
            if head_dim % len(scales):
                raise ValueError(
                    f"head_dim must be a multiple of the number of scales, got head_dim={head_dim} and "
                    f"{len(scales)} scales: give scales whose number divides it, or shifts too"
                )
            shifts = tuple(float(b) for b in range(head_dim // len(scales)))
        if len(scales) * len(shifts) != head_dim:
            raise ValueError(
                f"scales × shifts must give head_dim = {head_dim} wavelets, "
                f"got {len(scales)} × {len(shifts)} = {len(scales) * len(shifts)}"
            )
        return cls(
            mother=mother, scales=scales, shifts=shifts, direction=direction, amplitude=amplitude, stretch=stretch
        )

    def table(self, length: int) -> Tensor:
        """p(δ) for δ = 0 … length − 1, float32 [length, D] on the CPU."""
        return self._at(torch.arange(length, dtype=torch.float64, device="cpu"))

    def in_pairs(self, length: int) -> Tensor:
        """p(δ) for δ = 0, 1, −1, 2, −2, …, so that a longer table begins with a shorter one."""
        index = torch.arange(length, dtype=torch.float64, device="cpu")
        distance = ((index + 1.0) / 2.0).floor()
        return self._at(torch.where(index % 2 == 1, distance, -distance))

    def reach(self, tolerance: float) -> int:
        """W: from displacement W on every |p_i| ≤ tolerance, in tokens."""
        return max(0, *(math.floor(high) for _, high in self._intervals(tolerance))) + 1

    def reach_ahead(self, tolerance: float) -> int:
        """The same on the other side: up to displacement −W."""
        return max(0, *(-math.ceil(low) for low, _ in self._intervals(tolerance))) + 1

    def widest(self, learn: Sequence[Learned]) -> "WaveletGrid":
        """The grid of the ends of what scales and shifts may become that are learned; for reaches only."""
        change = LARGEST_CHANGE if "scales" in learn else 1.0
        span = shift_span(self.shifts) if "shifts" in learn else 0.0
        scales = tuple(factor * scale for scale in self.scales for factor in sorted({1.0 / change, change}))
        shifts = tuple(shift + move for shift in self.shifts for move in sorted({-span, span}))
        return dataclasses.replace(self, scales=scales, shifts=shifts)

    def learned(self, learn: tuple[Learned, ...], num_heads: int | None) -> LearnedGrid:
        """Scales and shifts that start here and are trained; num_heads: of each head its own."""
        scales = [scale for scale in self.scales for _ in self.shifts]
        return LearnedGrid(scales, self.shifts * len(self.scales), learn, num_heads)

    def learned_table(self, grid: LearnedGrid, length: int, first: int = 0) -> Tensor:
        """p(δ) for δ = first … first + length − 1, [R,D] or [H,R,D], with gradients; float32 or float64.

        Args:
            grid: what scales and shifts have become.
            length: R.
            first: the first displacement.
        """
        scales, shifts = (x if x.dim() == 1 else x[:, None] for x in grid())
        displacement = torch.arange(first, first + length, dtype=scales.dtype, device=scales.device)[:, None]
        x = displacement - shifts if self.direction == "past" else -displacement - shifts
        table = self.mother.evaluate(-x if self._is_mirrored(self.scales[0]) else x, scales)
        match self.amplitude:
            case "inverse_sqrt":
                table = table * (scales / self.stretch).rsqrt()
            case "unit_peak":  # of scales that are not learned
                peaks = [self._amplitude(scale) for scale in self.scales for _ in self.shifts]
                table = table * torch.tensor(peaks, dtype=table.dtype, device=table.device)
        return table.to(at_least_float32(next(grid.parameters())).dtype)

    def _at(self, displacement: Tensor) -> Tensor:
        columns = [self._column(displacement, scale, shift) for scale in self.scales for shift in self.shifts]
        return torch.stack(columns, dim=-1).to(torch.float32)

    def _is_mirrored(self, scale: float) -> bool:
        """Whether a one-sided wavelet would cover only displacements ahead of the query, were it not mirrored."""
        low, high = self.mother.support(scale, BAND_TOLERANCE)
        return high <= 0.0 < -low if self.direction == "past" else low >= 0.0 < high

    def _column(self, displacement: Tensor, scale: float, shift: float) -> Tensor:
        x = displacement - shift if self.direction == "past" else -displacement - shift
        values = self.mother.evaluate(-x if self._is_mirrored(scale) else x, scale)
        return values * self._amplitude(scale)

    def _intervals(self, tolerance: float) -> Iterator[tuple[float, float]]:
        """For every wavelet the interval of δ outside which it does not exceed the tolerance; of none: (0, −1)."""
        if not 0.0 < tolerance < 1.0:
            raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance}")
        for scale in self.scales:
            amplitude = self._amplitude(scale)
            if amplitude <= tolerance * 1e-3:
                yield 0.0, -1.0
                continue
            low, high = self.mother.support(scale, tolerance / amplitude)
            if self._is_mirrored(scale) == (self.direction == "past"):
                low, high = -high, -low
            for shift in self.shifts:
                centre = shift if self.direction == "past" else -shift
                yield centre + low, centre + high

    def _amplitude(self, scale: float) -> float:
        match self.amplitude:
            case "equal":
                return 1.0
            case "inverse_sqrt":
                return 1.0 / math.sqrt(2.0**scale if isinstance(self.mother, Sampled) else scale / self.stretch)
            case "unit_peak":
                low, high = self.mother.support(scale, BAND_TOLERANCE)
                reach = 65536.0
                x = torch.arange(max(low, -reach) // 1, min(high, reach) + 1, dtype=torch.float64, device="cpu")
                peak = float(self.mother.evaluate(x, scale).abs().max())
                return 1.0 / peak if peak > 0.0 else 1.0
