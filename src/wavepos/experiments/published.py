"""The paper's numbers as data, to stand beside ours, and the comparisons that they make.

Oka, Hasegawa, Nishida, Saito: Wavelet-based Positional Representation for Long Context, ICLR 2025. Perplexities per
word of WikiText-103's validation split (Tables 1, 3, 4) and of CodeParrot (Table 2); one seed each, no errors given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Protocol = Literal["nonoverlapping", "whole"]
TableName = Literal["1", "2", "3", "4"]

LENGTHS = (128, 256, 512, 1012, 1512, 2512)
"""Columns of Tables 3 and 4, and of Table 1 at L_train = 512."""
LENGTHS_1024 = (1024, 1524, 3024, 5024)
"""Columns of Table 1 at L_train = 1024."""

TABLE1: dict[Protocol, dict[int, dict[str, tuple[float, ...]]]] = {
    "nonoverlapping": {
        512: {
            "NoPE": (26.38, 23.23, 21.53, 21.52, 21.53, 21.53),
            "RoPE": (23.82, 20.98, 19.39, 19.35, 19.39, 19.38),
            "RoPE 500k": (23.81, 20.95, 19.35, 19.32, 19.35, 19.33),
            "Transformer-XL": (24.16, 21.53, 19.96, 19.92, 19.93, 19.96),
            "ALiBi": (24.18, 21.32, 19.69, 19.64, 19.69, 19.64),
            "Wavelet": (23.64, 20.82, 19.19, 19.15, 19.17, 19.20),
        },
        1024: {
            "NoPE": (20.81, 21.52, 21.49, 21.45),
            "RoPE": (18.42, 19.51, 19.52, 19.48),
            "RoPE 500k": (18.50, 19.53, 19.54, 19.50),
            "Transformer-XL": (18.67, 19.75, 19.74, 19.70),
            "ALiBi": (18.66, 19.64, 19.65, 19.62),
            "Wavelet": (18.26, 19.30, 19.34, 19.26),
        },
    },
    "whole": {
        512: {
            "NoPE": (26.38, 23.23, 21.53, 21.03, 21.58, 48.48),
            "RoPE": (23.82, 20.98, 19.39, 23.25, 44.38, 93.94),
            "RoPE 500k": (23.81, 20.95, 19.35, 23.70, 40.39, 77.90),
            "Transformer-XL": (24.16, 21.53, 19.96, 19.09, 18.92, 19.05),
            "ALiBi": (24.18, 21.32, 19.69, 18.71, 18.42, 18.41),
            "Wavelet": (23.64, 20.82, 19.19, 18.23, 18.00, 17.99),
            "Haar, fixed scale": (24.98, 22.07, 20.49, 51.61, 116.87, 299.26),
            "Haar": (23.73, 20.89, 19.27, 18.34, 18.11, 18.17),
            "Morlet": (24.15, 21.28, 19.65, 19.02, 20.46, 26.56),
            "Gaussian": (23.77, 20.90, 19.30, 18.31, 18.02, 17.88),
        },
        1024: {
            "NoPE": (20.81, 20.45, 22.11, 59.37),
            "RoPE": (18.42, 18.29, 33.20, 122.52),
            "RoPE 500k": (18.50, 18.30, 29.25, 83.43),
            "Transformer-XL": (18.67, 18.25, 18.17, 18.76),
            "ALiBi": (18.66, 18.14, 17.86, 17.88),
            "Wavelet": (18.26, 17.13, 17.14, 17.44),
        },
    },
}
"""Table 1, page 8 (section 6.1): protocol → L_train → method → perplexities at `LENGTHS` or `LENGTHS_1024`.

"Wavelet" is Ricker with a = 2⁰ … 2⁷; "RoPE 500k" has θ = 500,000; the wavelets below it were trained at 512 only.
"""

TABLE2: dict[str, dict[int, float]] = {
    "RoPE 500k": {4096: 9.45, 8192: 9.33, 16384: 9.12, 32768: 8.90},
    "Wavelet": {4096: 9.00, 8192: 9.01, 16384: 8.83, 32768: 8.60},
}
"""Table 2, page 10 (section 7): Llama-2-7B from scratch, L_train 4096, blocks of L_train, by length of the document."""

TABLE3: dict[str, tuple[float, ...]] = {
    "ricker-0-7": (23.64, 20.82, 19.19, 18.23, 18.00, 17.99),
    "ricker-1-8": (23.77, 20.89, 19.25, 18.23, 17.97, 18.02),
    "ricker-2-9": (23.92, 21.03, 19.40, 18.41, 18.14, 18.07),
    "ricker-0-3": (23.96, 21.13, 19.55, 18.87, 19.40, 21.73),
    "ricker-0-1": (24.49, 21.60, 19.95, 20.90, 32.01, 70.80),
    "ricker-0-15": (23.74, 20.88, 19.24, 18.22, 17.96, 17.84),
    "ricker-0-31": (23.75, 20.86, 19.26, 18.24, 17.96, 17.84),
    "ricker-0-63": (23.75, 20.88, 19.30, 18.31, 18.04, 18.02),
    "ricker-0-127": (23.97, 21.10, 19.46, 18.50, 18.27, 18.29),
    "ricker-7": (24.35, 21.45, 19.80, 20.68, 20.87, 21.31),
    "gaussian-0-7": (23.77, 20.90, 19.30, 18.31, 18.02, 17.88),
    "gaussian-1-8": (23.92, 21.02, 19.41, 18.41, 18.15, 18.01),
    "gaussian-2-9": (23.98, 21.09, 19.46, 18.43, 18.13, 17.93),
    "gaussian-0-3": (23.83, 29.96, 19.33, 18.43, 18.40, 18.94),
    "gaussian-0-1": (24.28, 21.35, 19.70, 18.96, 19.63, 23.14),
    "gaussian-0-15": (23.72, 20.86, 19.24, 18.24, 17.95, 17.77),
    "gaussian-0-31": (23.78, 20.92, 19.29, 18.30, 18.01, 17.85),
    "gaussian-0-63": (23.86, 20.98, 19.37, 18.46, 18.20, 18.10),
    "gaussian-0-127": (24.21, 21.31, 19.68, 18.71, 18.45, 18.45),
    "gaussian-7": (24.48, 21.62, 20.05, 19.53, 22.63, 35.23),
    "haar-fixed": (24.98, 22.07, 20.49, 51.61, 116.87, 299.26),
    "haar-0-7": (23.73, 20.89, 19.27, 18.34, 18.11, 18.17),
    "morlet-0-7": (24.15, 21.28, 19.65, 19.02, 20.46, 26.56),
}
"""Table 3, page 23 (A.13), read whole, at `LENGTHS`; the names give the exponents of the scales (`ablations.py`)."""

TABLE4: dict[str, tuple[float, ...]] = {
    "ricker": (23.64, 20.82, 19.19, 18.23, 18.00, 17.99),
    "gaussian": (23.77, 20.90, 19.30, 18.31, 18.02, 17.88),
    "morlet": (24.15, 21.28, 19.65, 19.02, 20.46, 26.56),
    "haar": (23.73, 20.89, 19.27, 18.34, 18.11, 18.17),
    "db2": (25.22, 22.26, 20.64, 30.30, 60.27, 130.93),
    "db4": (25.22, 22.47, 21.37, 41.78, 51.75, 56.18),
    "db8": (25.19, 22.48, 21.58, 26.90, 31.55, 39.75),
    "db16": (25.23, 22.43, 21.24, 21.15, 22.16, 46.65),
    "db32": (25.12, 22.35, 21.14, 21.20, 22.40, 38.00),
    "sym2": (25.11, 22.21, 20.68, 31.25, 61.00, 126.32),
    "sym4": (25.27, 22.56, 21.98, 24.70, 26.81, 42.81),
    "sym8": (29.27, 26.13, 24.63, 23.97, 31.47, 92.36),
    "coif1": (31.24, 28.00, 26.24, 64.62, 71.06, 97.60),
    "coif2": (25.24, 22.47, 21.39, 27.74, 27.39, 44.26),
    "coif4": (49.91, 45.15, 42.42, 41.07, 56.08, 110.27),
    "coif8": (25.15, 22.39, 21.26, 21.31, 22.26, 35.73),
    "coif16": (126.38, 117.88, 113.42, 132.14, 166.77, 230.95),
    "dmey": (30.38, 27.12, 25.45, 25.88, 46.35, 131.48),
    "bior1.3": (26.27, 23.36, 23.69, 23.38, 30.71, 88.66),
    "bior2.2": (25.28, 22.51, 21.59, 29.71, 29.43, 50.25),
    "bior2.6": (25.29, 22.70, 21.60, 22.15, 22.71, 40.61),
    "bior3.1": (26.92, 24.02, 22.38, 59.30, 113.81, 205.54),
    "bior3.5": (25.17, 22.49, 21.65, 27.41, 27.19, 53.99),
    "bior3.9": (25.24, 22.48, 21.51, 21.89, 23.86, 50.14),
    "bior4.4": (25.52, 22.72, 21.64, 21.67, 24.42, 51.46),
    "bior5.5": (25.21, 22.55, 21.72, 23.43, 24.68, 36.30),
    "bior6.8": (25.14, 22.39, 21.21, 21.10, 22.31, 46.97),
    "rbio1.1": (24.26, 21.34, 19.69, 18.79, 18.63, 18.98),
    "rbio1.3": (25.28, 22.50, 21.39, 52.06, 47.78, 59.94),
    "rbio2.2": (25.92, 23.08, 21.98, 68.57, 86.12, 93.90),
    "rbio2.6": (25.29, 22.68, 21.60, 24.54, 24.47, 44.57),
}
"""Table 4, page 25 (A.14), read whole, at `LENGTHS`: 4 wavelets with a formula and 27 sampled by PyWavelets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongBenchSet:
    """What Table 5 says of one of LongBench's sets.

    Attributes:
        average_length: words.
        metric: "F1" or "Rouge-L".
        samples: of the set.
    """

    average_length: int
    metric: Literal["F1", "Rouge-L"]
    samples: int


TABLE5: dict[str, LongBenchSet] = {
    "NarrativeQA": LongBenchSet(average_length=18_409, metric="F1", samples=200),
    "Qasper": LongBenchSet(average_length=3_619, metric="F1", samples=200),
    "MultiFieldQA-en": LongBenchSet(average_length=4_559, metric="F1", samples=150),
    "HotpotQA": LongBenchSet(average_length=9_151, metric="F1", samples=200),
    "2WikiMQA": LongBenchSet(average_length=4_887, metric="F1", samples=200),
    "MuSiQue": LongBenchSet(average_length=11_214, metric="F1", samples=200),
    "TriviaQA": LongBenchSet(average_length=8_209, metric="F1", samples=200),
    "SAMSum": LongBenchSet(average_length=6_258, metric="Rouge-L", samples=200),
    "QMSum": LongBenchSet(average_length=10_614, metric="Rouge-L", samples=200),
}
"""Table 5, page 28 (A.15). Fig. 11 gives differences to RoPE as bars, without numbers; the text says that RoPE was
better on Qasper, MuSiQue and QMSum, even on NarrativeQA, and the wavelet better on the rest."""

FIGURE11: dict[str, Literal["rope", "wavelet", "even"]] = {
    "NarrativeQA": "even",
    "Qasper": "rope",
    "MultiFieldQA-en": "wavelet",
    "HotpotQA": "wavelet",
    "2WikiMQA": "wavelet",
    "MuSiQue": "rope",
    "TriviaQA": "wavelet",
    "SAMSum": "wavelet",
    "QMSum": "rope",
}
"""Who was better on each set, from the text of A.15; no numbers are printed."""

COARSE = 0.1
"""Differences below it in Table 1's upper block beyond L_train are no targets (see `NOTES`)."""

NOTES: tuple[str, ...] = (
    "Table 1, upper block, L_train = 1024, lengths above it: every method jumps by 0.7 to 1.1, which blocks of 1,024 "
    "cannot give; they look like numbers of blocks of about 512. No targets.",
    "Table 1, upper block, L_train = 512: cutting 1,012 tokens into 512 + 500 must cost 0.02 to 0.08 more than is "
    "printed (all methods fall from 512 to 1,012). No target finer than 0.1.",
    "Table 1, lower block, L_train = 1024: the wavelet falls by 1.13 from 1,024 to 1,524 tokens, the others by 0.1 to "
    "0.5. Printed so; not explained.",
    "Table 3, gaussian-0-3 at 256 tokens: 29.96 is likely 20.96, between its neighbours' 20.9 and 21.35.",
    "A.13's text names the scales of the fourth grid 2⁰, 2¹, 2², 2⁴ where Table 3 has 2⁰ … 2³; the table is followed, "
    "whose rows all hold consecutive powers of two.",
    "Table 4, bior1.3: 23.69 at 512 lies above 23.36 at 256, where every other row falls.",
    "Table 4: amplitudes are PyWavelets' own (bior3.1 peaks at 96 at level 8), and dimensions of long wavelets are "
    "dead inside 512 tokens (80 of 128 for coif16); both are confounded with the type of wavelet.",
    "Table 2 reads in blocks of L_train: what falls with the length is the text, not the use of context.",
    "All of it is one seed.",
)
"""What must stand beside the tables."""

SUSPECT_CELLS: frozenset[tuple[TableName, str, int]] = frozenset({("3", "gaussian-0-3", 256), ("4", "bior1.3", 512)})
"""Table, row and length of single numbers that do not fit their neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One method below another at one length, as printed.

    Attributes:
        table: "1" to "4".
        protocol: "nonoverlapping" (blocks of L_train) or "whole".
        train_len: L_train.
        length: tokens.
        better, worse: names of the rows.
        margin: worse minus better, in perplexity.
        suspect: one of the numbers is no target (`NOTES`).
    """

    table: TableName
    protocol: Protocol
    train_len: int
    length: int
    better: str
    worse: str
    margin: float
    suspect: bool

    @property
    def factor(self) -> float:
        """length / L_train: at which length of another L_train the comparison is to be looked for."""
        return self.length / self.train_len


def comparisons(table: TableName) -> list[Comparison]:
    """Who beats whom at which length in one of the paper's tables; ties are left out.

    In Table 1 both blocks hold the same numbers up to L_train; these are listed once, as "whole".

    Raises:
        ValueError: a table without comparisons.
    """
    match table:
        case "1":
            found = []
            for protocol, blocks in TABLE1.items():
                for train_len, rows in blocks.items():
                    lengths = LENGTHS if train_len == 512 else LENGTHS_1024
                    listed = _pairs(table, protocol, train_len, {n: _at(lengths, row) for n, row in rows.items()})
                    found += [c for c in listed if protocol == "whole" or c.length > train_len]
            return found
        case "2":
            return _pairs(table, "nonoverlapping", 4096, TABLE2)
        case "3" | "4":
            rows = TABLE3 if table == "3" else TABLE4
            return _pairs(table, "whole", 512, {name: _at(LENGTHS, row) for name, row in rows.items()})
        case _:
            raise ValueError(f"table must be one of {', '.join(get_args(TableName))}, got {table!r}")


def verdict(low: float, high: float) -> Literal["holds", "fails", "cannot be told"]:
    """What our interval for worse minus better says of a comparison: above zero, below it, or around it."""
    if low > 0.0:
        return "holds"
    return "fails" if high < 0.0 else "cannot be told"


def _at(lengths: tuple[int, ...], row: tuple[float, ...]) -> dict[int, float]:
    return dict(zip(lengths, row, strict=True))


def _pairs(
    table: TableName, protocol: Protocol, train_len: int, rows: Mapping[str, Mapping[int, float]]
) -> list[Comparison]:
    found = []
    for length in next(iter(rows.values())):
        for better, of_better in rows.items():
            for worse, of_worse in rows.items():
                margin = round(of_worse[length] - of_better[length], 2)
                if margin <= 0.0:
                    continue
                beyond = table == "1" and protocol == "nonoverlapping" and length > train_len
                odd = any((table, name, length) in SUSPECT_CELLS for name in (better, worse))
                found.append(
                    Comparison(
                        table=table,
                        protocol=protocol,
                        train_len=train_len,
                        length=length,
                        better=better,
                        worse=worse,
                        margin=margin,
                        suspect=odd or (beyond and (train_len == 1024 or margin < COARSE)),
                    )
                )
    return found
