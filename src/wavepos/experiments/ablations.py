"""The rows of Tables 3 and 4 (A.13, A.14) as configs with names: 23 grids of scales and shifts, 31 types of wavelet."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args

from wavepos import Wavelet
from wavepos.analysis.tables import TableStatistics, table_statistics
from wavepos.experiments.published import LENGTHS, TABLE3, TABLE4
from wavepos.positions import build_position, parse_position, position_dict

AblationTable = Literal["3", "4"]
CLOSED_FORMS = ("ricker", "gaussian", "morlet", "haar")
LEVELS = tuple(float(level) for level in range(1, 9))
"""What stands in the scales' place for wavelets sampled by PyWavelets (A.14)."""

VARIANTS: dict[str, dict[str, str]] = {
    "": {},
    ", future": {"direction": "future"},
    ", unit peak": {"amplitude": "unit_peak"},
    ", future, unit peak": {"direction": "future", "amplitude": "unit_peak"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """One row of Table 3 or 4.

    Attributes:
        name: such as "ricker-0-7" (scales 2⁰ … 2⁷), "gaussian-7" (2⁷ alone), "haar-fixed", "db4".
        table: "3" or "4".
        position: the JSON object of its position.
        published: the paper's perplexities read whole at L_train 512, by length; of the row without its variant.
    """

    name: str
    table: AblationTable
    position: dict[str, Any]
    published: dict[int, float]

    def statistics(self, length: int = 512) -> TableStatistics:
        """Dead and constant dimensions, rank and band of its table over that many tokens, such as L_train."""
        head_dim = len(self.position["scales"]) * len(self.position["shifts"])
        built = build_position(parse_position(self.position), head_dim=head_dim, num_heads=1)
        assert isinstance(built, Wavelet)
        return table_statistics(built, length)


def ablations(table: AblationTable, head_dim: int = 128, variants: bool = False) -> list[Ablation]:
    """The rows of a table in its order.

    Args:
        table: "3" or "4".
        head_dim: D; 128 in the paper. With another, a grid keeps its scales and takes D / len(scales) shifts; where
            there are more scales than D, every second, fourth, … exponent is kept, so that the range stays.
        variants: add, after each row, what the paper does not say apart: Haar and the sampled families in the other
            direction, and the sampled families with every wavelet divided by its peak.

    Raises:
        ValueError: no such table, or a head_dim that a grid does not fit.
    """
    if table not in get_args(AblationTable):
        raise ValueError(f"table must be one of {', '.join(get_args(AblationTable))}, got {table!r}")
    found = []
    for name, row in (TABLE3 if table == "3" else TABLE4).items():
        wavelet = name.split("-")[0]
        for suffix in VARIANTS:
            if suffix and not (variants and _has(wavelet, suffix)):
                continue
            fields: dict[str, Any] = {"method": "wavelet", **_grid(name, head_dim), **VARIANTS[suffix]}
            position = position_dict(parse_position(fields))
            published = dict(zip(LENGTHS, row, strict=True))
            found.append(Ablation(name=name + suffix, table=table, position=position, published=published))
    return found


def ablation(table: AblationTable, name: str, head_dim: int = 128) -> Ablation:
    """The row of that name, variants included.

    Raises:
        ValueError: no such row; it names the nearest.
    """
    rows = {row.name: row for row in ablations(table, head_dim, variants=True)}
    if name not in rows:
        near = get_close_matches(name, rows, n=1, cutoff=0.0)
        raise ValueError(f"Table {table} has no row {name!r}; the nearest is {near[0]!r}")
    return rows[name]


def _has(wavelet: str, suffix: str) -> bool:
    """Whether a wavelet has a variant: one-sided ones have a direction of their own, sampled ones an amplitude."""
    return wavelet not in CLOSED_FORMS or (wavelet == "haar" and suffix == ", future")


def _grid(name: str, head_dim: int) -> dict[str, Any]:
    """Wavelet, scales and shifts of a row."""
    wavelet, _, exponents = name.partition("-")
    if not exponents:
        exponents = "0-7"
    if wavelet not in CLOSED_FORMS:
        scales = LEVELS
    elif exponents == "fixed":
        scales = (1.0,)
    else:
        first, _, last = exponents.partition("-")
        scales = _powers(int(first), int(last or first), head_dim)
    if head_dim % len(scales):
        raise ValueError(f"head_dim must be a multiple of the {len(scales)} scales of {name!r}, got {head_dim}")
    shifts = tuple(float(b) for b in range(head_dim // len(scales)))
    return {"wavelet": wavelet, "scales": scales, "shifts": shifts}


def _powers(first: int, last: int, head_dim: int) -> tuple[float, ...]:
    step = 1
    while len(range(first, last + 1, step)) > head_dim:
        step *= 2
    return tuple(2.0**exponent for exponent in range(first, last + 1, step))
