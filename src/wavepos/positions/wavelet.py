"""Wavelet relative positions: p(δ) = ψ_{a,b}(δ), a fixed table over displacements (section 5, Eq. 10–14)."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from wavepos.positions.alibi import alibi_slopes
from wavepos.positions.cable import Cable
from wavepos.positions.config import PositionConfig
from wavepos.positions.forget_gate import ForgetGate
from wavepos.positions.learned_grid import Learned, LearnedGrid
from wavepos.positions.tables import LowRank, TableCache, clipped
from wavepos.positions.terms import (
    ReadsGates,
    ScoreTerms,
    farthest,
    require_fit,
    require_no_gates,
    require_positive_int,
)
from wavepos.positions.typed import LONGEST, require_between
from wavepos.positions.wavelet_grid import (
    BAND_TOLERANCE,
    LARGEST_SCALE,
    NUM_SCALES,
    SMALLEST_SCALE,
    Amplitude,
    Direction,
    WaveletGrid,
)
from wavepos.wavelets import MotherWavelet, Sampled, mother_wavelet

QueryBias = Literal["zeros", "recency"]
Gate = Literal["forget", "cable"]

RECENCY_HEIGHT = 6.0
RECENCY_PENALTY = 10.0

PAPER_LENGTH = 512
"""L_train of the paper's grid of scales, 2⁰ … 2⁷ (Table 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveletConfig(PositionConfig):
    """The grid of wavelets; the fields are those of `Wavelet`."""

    method: ClassVar[str] = "wavelet"
    wavelet: str = "ricker"
    scales: tuple[float, ...] | Literal["fit"] | None = None
    shifts: tuple[float, ...] | None = None
    direction: Direction = "past"
    amplitude: Amplitude = "equal"
    query_bias: QueryBias | None = None
    stretch: float = 1.0

    trained_length: int | None = None
    gate: Gate | None = None
    learn: tuple[Learned, ...] = ()
    learn_per_head: bool = False

    def check(self) -> None:
        if (self.scales == "fit") != (self.trained_length is not None):
            raise ValueError(
                f"trained_length goes with scales='fit' and is needed there, got scales={self.scales!r} and "
                f"trained_length={self.trained_length}"
            )
        if self.trained_length is not None:
            require_between("trained_length", self.trained_length, 1, LONGEST)
        require_between("stretch", self.stretch, SMALLEST_SCALE, 1.0 / SMALLEST_SCALE)
        for name, values in (("scales", self.scales), ("shifts", self.shifts)):
            if values == ():
                raise ValueError(f"{name} must be a sequence of at least one number, got ()")
        for scale in self.given_scales or ():
            require_between("scales", scale, SMALLEST_SCALE, LARGEST_SCALE)
        for shift in self.shifts or ():
            require_between("shifts", shift, -LONGEST, LONGEST)
        if len(set(self.learn)) < len(self.learn):
            raise ValueError(f"learn must name each of scales and shifts at most once, got {self.learn}")
        object.__setattr__(self, "learn", tuple(sorted(self.learn)))  # their order says nothing
        if self.learn_per_head and not self.learn:
            raise ValueError("learn_per_head goes with learn, got learn=()")
        if self.amplitude == "unit_peak" and "scales" in self.learn:
            raise ValueError("amplitude='unit_peak' divides by the peak of a fixed wavelet, got learn with 'scales'")

    @property
    def given_scales(self) -> tuple[float, ...] | None:
        """The scales before they are stretched; with "fit", those of the paper's grid for the trained length."""
        if self.trained_length is None or self.scales != "fit":
            return self.scales if isinstance(self.scales, tuple) else None
        return tuple(2.0**i * self.trained_length / PAPER_LENGTH for i in range(NUM_SCALES))

    @property
    def reads_gates(self) -> bool:
        return self.gate is not None

    def build(self, *, head_dim: int, num_heads: int) -> "Wavelet":
        shared = {field.name for field in dataclasses.fields(PositionConfig)}
        own = [field.name for field in dataclasses.fields(self) if field.name not in shared]
        return Wavelet(head_dim, num_heads=num_heads, **{name: getattr(self, name) for name in own})


@final
class Wavelet(ReadsGates):
    """s = softmax_scale · (q_m·k_n + q_m·p(δ)), p_i(δ) = ψ((t − b_i)/a_i) over a grid of scales a and shifts b.

    Equations 10, 11 and 14. Dimension i_scale · len(shifts) + i_shift of the head holds scale i_scale and shift
    i_shift; the table is the same for all heads and layers, and beyond `reach` tokens it is zero.

    Args:
        head_dim: D.
        wavelet: "ricker", "gaussian", "haar", "morlet", "true_morlet", a discrete wavelet of PyWavelets ("db4"), or a
            `MotherWavelet` of your own.
        scales: a, in tokens, any positive numbers (levels 1, 2, … for PyWavelets' wavelets); None: 2⁰ … 2⁷, or levels
            1 … 8; "fit": 2⁰ … 2⁷ times trained_length / 512. The numbers are fixed, so a tensor is refused.
        shifts: b, in tokens; None: 0 … head_dim / len(scales) − 1.
        direction: "past": t = m − n, so a centre lies b tokens back; "future": t = n − m, so it lies b tokens ahead.
            A wavelet on one side of zero is mirrored where needed so that it covers the causal side. With causal=False
            the same ψ is read at negative δ too, so "past" has its centres behind the query and "future" ahead of it,
            and the far side of a one-sided wavelet is zero.
        amplitude: "equal" (the paper), "inverse_sqrt" (1/√a of Eq. 2; 2^(−j/2) for levels j), or "unit_peak" (every
            wavelet divided by its largest value at a whole token).
        query_bias: None (the paper): r = q. "zeros" or "recency": r = q + v_h with a learned v_h, started at zero or so
            that softmax_scale · v_h·p(δ) ≈ max(0, 6 − slope_h·δ) with ALiBi's slopes and softmax_scale = 1/√D.
        num_heads: query heads H; needed with query_bias, gate or learn_per_head only.
        stretch: factor on the scales (position interpolation carried over to a, section 7.2): wavelets of a trained
            model made wider for longer sequences. Shifts and amplitudes stay.
        trained_length: L_train in tokens, with scales="fit". The paper's grid belongs to L_train = 512, where the
            widest scale is L_train / 4; this keeps that ratio. A scale well below one token is a spike on one token.
        gate: "forget" or "cable": the log gates of `ForgetGate` (f from zero) or `Cable` beside the wavelets, which see
            the near, while what lies beyond them is forgotten as the text says. `attention` then takes gates, which
            `gates` makes. None (the paper): none.
        learn: any of "scales" and "shifts": each wavelet's own a or b is trained, from the grid on; a within a factor
            of 2 of its start, b within the grid's width of it (`LearnedGrid`), so that `reach` holds for all they may
            become. For wavelets with derivatives; (): none, as in the paper.
        learn_per_head: whether each head has scales and shifts of its own.

    Raises:
        ValueError: a grid that does not give head_dim dimensions, or any argument out of its range.

    Deviates from the paper: `query_bias`, `gate`, `learn`, "unit_peak", `stretch` and "fit" are ours. Its authors say
    in the open review (OpenReview forum OhauMUNW8T), not in the paper, that training diverged with "inverse_sqrt".
    Eq. 14 is "past", footnote 8 and Tip 2 are "future". The defaults are the paper's but for one-sided wavelets: with
    `direction="past"` Haar is the mirror image of Eq. 15, which "future" gives as printed.
    """

    def __init__(  # noqa: PLR0913 - the public constructor: one argument per property of the grid
        self,
        head_dim: int = 128,
        wavelet: str | MotherWavelet = "ricker",
        scales: Sequence[float] | Literal["fit"] | None = None,
        shifts: Sequence[float] | None = None,
        direction: Direction = "past",
        amplitude: Amplitude = "equal",
        query_bias: QueryBias | None = None,
        num_heads: int | None = None,
        stretch: float = 1.0,
        trained_length: int | None = None,
        gate: Gate | None = None,
        learn: Sequence[Learned] = (),
        learn_per_head: bool = False,
    ) -> None:
        super().__init__()
        require_positive_int("head_dim", head_dim)
        self.mother = mother_wavelet(wavelet) if isinstance(wavelet, str) else wavelet
        self.config = WaveletConfig(
            wavelet=self.mother.name,
            scales=scales,  # type: ignore[arg-type] # made a tuple of floats, or refused, by the config
            shifts=shifts,  # type: ignore[arg-type] # likewise
            direction=direction,
            amplitude=amplitude,
            query_bias=query_bias,
            stretch=stretch,
            trained_length=trained_length,
            gate=gate,
            learn=learn,  # type: ignore[arg-type] # likewise
            learn_per_head=learn_per_head,
        )
        self.settings = self.config.settings()
        if learn and not self.mother.differentiable:
            why = "its scales are levels" if isinstance(self.mother, Sampled) else "it has no derivative"
            raise ValueError(
                f"learn goes with wavelets that have derivatives (differentiable), got {self.mother.name!r}: {why}"
            )
        if self.config.scales == "fit" and isinstance(self.mother, Sampled):
            raise ValueError(
                f"scales='fit' goes with wavelets that have a formula, got {self.mother.name!r}, whose scales are "
                "levels of PyWavelets and cannot be shrunk"
            )
        self.head_dim = head_dim
        given = self.config.given_scales, self.config.shifts
        self._start = WaveletGrid.of_head(head_dim, self.mother, given, direction, amplitude, self.config.stretch)
        self.scales, self.shifts = self._start.scales, self._start.shifts
        self._widest = self._start.widest(self.config.learn)
        self._limit, self._limit_ahead = self.reach(BAND_TOLERANCE), self.reach_ahead(BAND_TOLERANCE)
        self._cache = TableCache(self._start.table, limit=self._limit)
        self._cache_both_ways = TableCache(self._start.in_pairs, limit=2 * max(self._limit, self._limit_ahead) - 1)
        self.reads_gates = gate is not None
        needs_heads = {"query_bias": query_bias is not None, "gate": self.reads_gates, "learn_per_head": learn_per_head}
        self.per_head = any(needs_heads.values())
        if self.per_head:
            if num_heads is None:
                needing = next(name for name, needed in needs_heads.items() if needed)
                raise ValueError(f"num_heads must be given with {needing}, got None")
            require_positive_int("num_heads", num_heads)
        self._num_heads = num_heads if self.per_head else None
        self.query_bias_HD = None if query_bias is None else nn.Parameter(torch.empty(num_heads or 0, head_dim))
        self.gate: ForgetGate | Cable | None = None
        if gate is not None and num_heads is not None:
            self.gate = (ForgetGate if gate == "forget" else Cable)(num_heads)
        self.grid: LearnedGrid | None = None
        if self.config.learn:
            self.grid = self._start.learned(self.config.learn, num_heads if learn_per_head else None)
        self.reset_parameters()

    def table(self, length: int) -> Tensor:
        """p(δ) for δ = 0 … length − 1 (Eq. 14), float32 [length, head_dim] on the CPU.

        Where scales or shifts are learned, with what they are now; [H, length, head_dim] if heads differ.
        """
        require_positive_int("length", length)
        if self.grid is not None:
            return self._start.learned_table(self.grid, length).detach().to("cpu", torch.float32)
        return self._start.table(length)

    def reach(self, tolerance: float = BAND_TOLERANCE) -> int:
        """W: from displacement W on every |p_i| ≤ tolerance (of the peak, with amplitude "unit_peak"), in tokens.

        Where scales or shifts are learned, for whatever they may become.
        """
        return self._widest.reach(tolerance)

    def reach_ahead(self, tolerance: float = BAND_TOLERANCE) -> int:
        """The same on the other side, which causal=False sees: up to displacement −W every |p_i| ≤ tolerance."""
        return self._widest.reach_ahead(tolerance)

    def gates(self, logits_BHS: Tensor) -> Tensor:
        """The log gates [B,H,S] of `ForgetGate` or `Cable`.

        Raises:
            ValueError: this one has no gate.
        """
        if self.gate is None:
            raise ValueError("this Wavelet has no gate: build it with gate='forget' or gate='cable'")
        return self.gate.gates(logits_BHS)

    def terms(
        self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0, gates_BHS: Tensor | None = None
    ) -> ScoreTerms:
        bias = self.query_bias_HD
        require_fit(self, q_BHTD, head_dim=self.head_dim, num_heads=self._num_heads)
        length = clipped(q_offset + q_BHTD.shape[2], self._limit)
        if self.grid is None:
            table = self._cache.get(length, q_BHTD.device)
        else:
            table = self._start.learned_table(self.grid, length)
        r_BHTE = q_BHTD
        if bias is not None:
            r_BHTE = q_BHTD + bias[:, None].to(q_BHTD.dtype)
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, r_BHTE=r_BHTE, table=table, gates_BHS=gates_BHS, tail="zero")

    def terms_both_ways(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        require_no_gates(self)
        terms = self.terms(q_BHTD, k_BGSD, q_offset=q_offset)
        ahead, behind = farthest(q_BHTD, k_BGSD, q_offset)
        ahead, behind = min(ahead, self._limit_ahead - 1), min(behind, self._limit - 1)
        if ahead == 0:
            return terms
        if self.grid is not None:
            table = self._start.learned_table(self.grid, ahead + behind + 1, first=-ahead)
            return dataclasses.replace(terms, table=table, first_displacement=-ahead)
        pairs = self._cache_both_ways.get(2 * max(ahead, behind) + 1, q_BHTD.device)
        return dataclasses.replace(terms, table=_in_order(pairs, ahead, behind), first_displacement=-ahead)

    def factors(self, terms: ScoreTerms) -> LowRank | None:
        if self.grid is not None:
            return None
        assert terms.table is not None
        assert terms.r_BHTE is not None
        if terms.first_displacement:
            ahead, behind = -terms.first_displacement, terms.table.shape[0] - 1 + terms.first_displacement
            length = 2 * max(ahead, behind) + 1
            found = self._cache_both_ways.low_rank(length, terms.r_BHTE.device, terms.r_BHTE.dtype)
            if found is None:
                return None
            return LowRank(coefficients_RK=_in_order(found.coefficients_RK, ahead, behind), basis_KE=found.basis_KE)
        return self._cache.low_rank(terms.table.shape[0], terms.r_BHTE.device, terms.r_BHTE.dtype)

    def reset_parameters(self) -> None:
        for part in (self.gate, self.grid):
            if part is not None:
                part.reset_parameters()
        if self.query_bias_HD is None:
            return
        nn.init.zeros_(self.query_bias_HD)
        if self.config.query_bias == "recency" and not self.query_bias_HD.is_meta:
            with torch.no_grad():
                self.query_bias_HD.copy_(self._recency_start(self.query_bias_HD.shape[0]))

    def _recency_start(self, num_heads: int) -> Tensor:
        """v with v_h·p(δ)/√D ≈ max(0, 6 − slope_h·δ) by ridge least squares over the band, float32 [H, D]."""
        table = self._start.table(min(self._limit, 65536)).to(torch.float64)
        displacement = torch.arange(table.shape[0], dtype=torch.float64, device="cpu")
        slopes_H = torch.tensor(alibi_slopes(num_heads), dtype=torch.float64, device="cpu")
        target_RH = (RECENCY_HEIGHT - displacement[:, None] * slopes_H).clamp_min(0.0)
        normal = table.mT @ table + RECENCY_PENALTY * torch.eye(self.head_dim, dtype=torch.float64, device="cpu")
        solution_DH: Tensor = torch.linalg.solve(normal, table.mT @ (target_RH * math.sqrt(self.head_dim)))
        return solution_DH.mT.to(torch.float32)


def _in_order(pairs_RX: Tensor, ahead: int, behind: int) -> Tensor:
    """Rows for δ = −ahead … behind, of those for δ = 0, 1, −1, 2, −2, …"""
    return torch.cat([pairs_RX[2 : 2 * ahead + 1 : 2].flip(0), pairs_RX[:1], pairs_RX[1 : 2 * behind : 2]])
