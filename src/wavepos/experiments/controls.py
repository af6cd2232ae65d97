"""Controls that tell what a gain of wavelets is: the same band and rank without wavelets, or recency without content.

Methods that are no method of their own but a question: they live beside the study that asks it.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, final, get_args

import torch
from torch import Tensor, nn

from wavepos.experiments.methods import fit_scales
from wavepos.experiments.study import Method, Study, StudyOptions, select_methods, with_baseline
from wavepos.experiments.table1 import cpu_grid
from wavepos.positions import Position, PositionConfig, ScoreTerms, Wavelet, register_position
from wavepos.positions.alibi import alibi_slopes
from wavepos.positions.tables import TableCache
from wavepos.positions.terms import at_least_float32, require_positive_int

Start = Literal["wavelet", "smooth"]
BAND_TOLERANCE = 1e-3
"""A control's band ends where the wavelets it stands for are this small."""
BUMPS, BUMP_WIDTH = 3, 0.7
"""Of the random smooth functions: how many bumps they are made of, and their width in units of the scale."""


@register_position
@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedSlopesConfig(PositionConfig):
    """ALiBi whose slopes are learned; nothing to set."""

    method: ClassVar[str] = "alibi_learned"

    def build(self, *, head_dim: int, num_heads: int) -> "LearnedSlopes":
        """The position, for query heads of that size and number."""
        return LearnedSlopes(num_heads)


@final
class LearnedSlopes(Position):
    """The log gate −exp(s_h) with a learned s_h, started at ALiBi's slopes (Eq. 9 with learned slopes).

    Args:
        num_heads: query heads H.
    """

    per_head = True

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.log_slopes_H = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        slopes_H = at_least_float32(self.log_slopes_H).exp()
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, gates_BHS=-slopes_H[None, :, None])

    def reset_parameters(self) -> None:
        if not self.log_slopes_H.is_meta:
            with torch.no_grad():
                self.log_slopes_H.copy_(torch.tensor(alibi_slopes(self.log_slopes_H.shape[0])).log())


@register_position
@dataclass(frozen=True, slots=True, kw_only=True)
class WaveletBiasConfig(PositionConfig):
    """A bias that is a sum of wavelets.

    Attributes:
        scales: of the wavelets that the bias is made of.
    """

    method: ClassVar[str] = "wavelet_bias"
    scales: tuple[float, ...]

    def build(self, *, head_dim: int, num_heads: int) -> "WaveletBias":
        """The position, for query heads of that size and number."""
        return WaveletBias(head_dim, num_heads, self.scales)


@final
class WaveletBias(Position):
    """b[h,δ] = v_h·p(δ)/√D: the wavelets' learned recency bias alone, without the content term q·p.

    v_h starts as that of `Wavelet(query_bias="recency")`.

    Args:
        head_dim: D.
        num_heads: query heads H.
        scales: a of the wavelets p, in tokens.
    """

    per_head = True

    def __init__(self, head_dim: int, num_heads: int, scales: tuple[float, ...]) -> None:
        super().__init__()
        self.wavelet = Wavelet(head_dim, scales=scales, query_bias="recency", num_heads=num_heads)

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        theirs = self.wavelet.terms(q_BHTD, k_BGSD, q_offset=q_offset)
        assert theirs.table is not None and self.wavelet.query_bias_HD is not None
        bias_HR = at_least_float32(self.wavelet.query_bias_HD) @ theirs.table.mT / math.sqrt(q_BHTD.shape[-1])
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, bias_HR=bias_HR, tail="zero")

    def reset_parameters(self) -> None:
        self.wavelet.reset_parameters()


@register_position
@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedLowRankConfig(PositionConfig):
    """A learned table of low rank.

    Attributes:
        extent: R, displacements of the table; from there on it is zero.
        rank: of the table.
        start: "wavelet": the best approximation of the wavelets' table; "smooth": random and as smooth as they are.
        scales: of the wavelets that the start stands for.
    """

    method: ClassVar[str] = "learned_low_rank"
    extent: int
    rank: int
    start: Start
    scales: tuple[float, ...]

    def check(self) -> None:
        for name in ("extent", "rank"):
            require_positive_int(name, getattr(self, name))
        if self.start not in get_args(Start):
            raise ValueError(f"start must be one of {', '.join(get_args(Start))}, got {self.start!r}")

    def build(self, *, head_dim: int, num_heads: int) -> "LearnedLowRank":
        """The position, for query heads of that size and number."""
        return LearnedLowRank(head_dim, self)


@final
class LearnedLowRank(Position):
    """r = q, p(δ) = c(δ)·B for δ < R: Shaw's learned table, of the wavelets' rank and band, started smooth.

    Args:
        head_dim: D.
        config: rank K, extent R and start.
    """

    def __init__(self, head_dim: int, config: LearnedLowRankConfig) -> None:
        super().__init__()
        self.config = config
        self.coefficients_RK = nn.Parameter(torch.empty(config.extent, config.rank))
        self.basis_KD = nn.Parameter(torch.empty(config.rank, head_dim))
        self.reset_parameters()

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        length = min(self.config.extent, q_offset + q_BHTD.shape[2])
        table = at_least_float32(self.coefficients_RK[:length]) @ at_least_float32(self.basis_KD)
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, r_BHTE=q_BHTD, table=table, tail="zero")

    def reset_parameters(self) -> None:
        if self.basis_KD.is_meta:
            return
        extent, head_dim = self.config.extent, self.basis_KD.shape[1]
        if self.config.start == "wavelet":
            table = Wavelet(head_dim, scales=self.config.scales).table(extent)
        else:
            table = smooth_table(head_dim, self.config.scales, extent, draw=0)
        left, singular, basis = torch.linalg.svd(table.double(), full_matrices=False)
        kept = min(self.config.rank, singular.shape[0])
        with torch.no_grad():
            for parameter in (self.coefficients_RK, self.basis_KD):
                parameter.zero_()
            root = singular[:kept].sqrt()
            self.coefficients_RK[:, :kept] = (left[:, :kept] * root).float()
            self.basis_KD[:kept] = (root[:, None] * basis[:kept]).float()


@register_position
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSmoothConfig(PositionConfig):
    """A fixed table of random smooth functions.

    Attributes:
        scales: a, in tokens: dimension i is as smooth and reaches as far as a wavelet of its scale.
        draw: seed of the random functions; one table for all layers, heads and seeds of a run.
    """

    method: ClassVar[str] = "random_smooth"
    scales: tuple[float, ...]
    draw: int = 0

    def build(self, *, head_dim: int, num_heads: int) -> "RandomSmooth":
        """The position, for query heads of that size and number."""
        return RandomSmooth(head_dim, self.scales, self.draw)


@final
class RandomSmooth(Position):
    """r = q, p(δ): a fixed table of random functions with the smoothness and the band of wavelets, but not their shape.

    Args:
        head_dim: D, a multiple of the number of scales.
        scales: a of the wavelets it stands for, in tokens.
        draw: seed of the random functions.
    """

    def __init__(self, head_dim: int, scales: tuple[float, ...], draw: int = 0) -> None:
        super().__init__()
        self._extent = Wavelet(head_dim, scales=scales).reach(BAND_TOLERANCE)
        self._cache = TableCache(partial(smooth_table, head_dim, scales, draw=draw), limit=self._extent)

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        length = min(self._extent, q_offset + q_BHTD.shape[2])
        table = self._cache.get(length, q_BHTD.device)
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, r_BHTE=q_BHTD, table=table, tail="zero")

    def reset_parameters(self) -> None:
        return None


def smooth_table(head_dim: int, scales: tuple[float, ...], length: int, draw: int) -> Tensor:
    """Random smooth functions of the displacement, float32 [length, head_dim], each of peak 1.

    For a scale a: Σ_j w_j·exp(−((δ − j·a)/0.7a)²/2), j = 0, 1, 2, normal w_j: it bends as often as a Ricker wavelet of
    that scale and, like it, is below 1e-3 from about 4.6a tokens on. Its shape depends on draw, not on the length.

    Raises:
        ValueError: head_dim is no multiple of the number of scales.
    """
    if head_dim % len(scales):
        raise ValueError(
            f"head_dim must be a multiple of the number of scales, got head_dim={head_dim} and {len(scales)} scales"
        )
    generator = torch.Generator("cpu").manual_seed(draw)
    weights_SNJ = torch.randn(len(scales), head_dim // len(scales), BUMPS, generator=generator, dtype=torch.float64)
    columns = []
    for scale, weights_NJ in zip(scales, weights_SNJ, strict=True):
        whole = torch.arange(max(length, math.ceil(5.0 * scale) + 1), dtype=torch.float64)
        bumps_RJ = (-((((whole[:, None] / scale) - torch.arange(BUMPS)) / BUMP_WIDTH) ** 2) / 2.0).exp()
        values_RN = bumps_RJ @ weights_NJ.mT
        columns.append((values_RN / values_RN.abs().amax(0))[:length])
    return torch.cat(columns, dim=1).to(torch.float32)


BAND, RANK = 291, 20
"""Displacements with |p| above 1e-3, and rank at 1e-3 of the largest singular value, of the fit grid's wavelets at
L_train = 256 and heads of 64 (a test computes both)."""


def control_methods(seq_len: int) -> dict[str, Method]:
    """The controls and what they are controls of."""
    scales = list(fit_scales(seq_len))
    low_rank = {"method": "learned_low_rank", "extent": BAND, "rank": RANK, "scales": scales}
    rows: dict[str, dict[str, Any]] = {
        "RoPE": {"method": "rotary"},
        "ALiBi": {"method": "alibi"},
        "Wavelet, fit grid": {"method": "wavelet", "scales": scales},
        "Wavelet, fit grid, recency start": {"method": "wavelet", "scales": scales, "query_bias": "recency"},
        "Wavelet, fit grid, free bias from zero": {"method": "wavelet", "scales": scales, "query_bias": "zeros"},
        "Shaw, as far as the wavelets": {"method": "shaw", "max_distance": BAND - 1},
        "ALiBi, learned slopes": {"method": "alibi_learned"},
        "Recency bias alone": {"method": "wavelet_bias", "scales": scales},
        "Random smooth basis": {"method": "random_smooth", "scales": scales},
        "Learned table, wavelet start": {**low_rank, "start": "wavelet"},
        "Learned table, random smooth start": {**low_rank, "start": "smooth"},
    }
    return {name: Method(position=position) for name, position in rows.items()}


def controls(options: StudyOptions) -> Study:
    """What is the gain: wavelets, or any smooth table of their band and rank, or a recency bias?"""
    options.size_among("controls", ("cpu",))
    methods = select_methods(options.methods, control_methods(256))
    return Study(
        name="controls",
        title="Controls: what the wavelets' gain is",
        runs=cpu_grid(methods, options),
        baseline=with_baseline("Wavelet, fit grid", methods),
        needs="as table1 --size cpu",
        imports=(__name__,),
    )
