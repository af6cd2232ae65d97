"""What a study is: a function that returns its runs, each a whole `TrainConfig` and what is measured of it.

    def study(options: StudyOptions) -> Study: ...

`wavepos study FILE.py` runs the function of that name in a file; `catalogue.py` lists the project's own.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from wavepos.data import Split
from wavepos.evaluate.perplexity import KINDS, Kind
from wavepos.evaluate.retrieval import Retrieval
from wavepos.names import StudySize
from wavepos.positions import METHODS, layers_json, parse_layers
from wavepos.positions.typed import normalised
from wavepos.runs import fingerprint
from wavepos.training.config import RUN, TrainConfig

SizeName = StudySize
SIZES: tuple[SizeName, ...] = get_args(SizeName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Perplexities of a trained model on one text.

    Attributes:
        corpus: whose text is read; None: that of the training.
        split: of that corpus.
        lengths: tokens read at once.
        protocols: "nonoverlapping" (divided into L_train), "whole", "sliding" (moved by half a window).
        tokens: scored, at most; None: the whole split.
        read_with: JSON of another position to read with (a scaling of RoPE, a stretched wavelet); None: the trained
            one. Keys that it lacks are the trained position's where the method is the same, in every layer that has it.

    Raises:
        ValueError: no lengths, an unknown protocol, or a number that is not positive.
    """

    corpus: str | None = None
    split: Split = "valid"
    lengths: tuple[int, ...]
    protocols: tuple[Kind, ...] = KINDS
    tokens: int | None = 65_536
    read_with: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(self.lengths))
        object.__setattr__(self, "protocols", tuple(self.protocols))
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"lengths must hold at least one positive number, got {self.lengths}")
        if not self.protocols or not set(self.protocols) <= set(KINDS):
            raise ValueError(f"protocols must be some of {', '.join(KINDS)}, got {self.protocols}")
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")


AnyEvaluation = Evaluation | Retrieval


def comparable(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What runs of one table share: model, size, corpus, trained length, tokens."""
    shared = tuple(config[key] for key in ("model", "size", "corpus", "seq_len"))
    return (*shared, config["steps"] * config["batch_tokens"])


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """One model of a study.

    Attributes:
        name: the method, as the table shows it; runs of several seeds, lengths or budgets share it.
        config: of its training; runs of equal configs, also of other studies, are trained once.
        evaluations: what is measured.
        begins_with: the run that it goes on from (`continued` makes its config); it is trained first if it is not yet.
    """

    name: str
    config: TrainConfig
    evaluations: tuple[AnyEvaluation, ...]
    begins_with: TrainConfig | None = None


def continued(parent: TrainConfig, **changes: Any) -> TrainConfig:
    """The config of a run that goes on from the model of another, with some fields changed, such as the position.

    Args:
        parent: the other run's config.
        changes: of its fields.
    """
    return dataclasses.replace(parent, start_from=f"{RUN}{fingerprint(parent)[:16]}", **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A comparison.

    Attributes:
        name: short, for commands and file names.
        title: of the report.
        runs: in the order of worth: what is cut off has done the first.
        baseline: name of the runs that the others' differences are taken to.
        needs: data, hardware and time, in a sentence.
        notes: what the report must say, such as methods left out.
        imports: modules that register its methods, for every process that works on it.
        published: the paper's table that it redoes: "1", "3" or "4"; the report compares both.
        facts: name of a row to what the report says of it beside its perplexity.

    Raises:
        ValueError: no runs, or two that would stand in one cell of a table.
    """

    name: str
    title: str
    runs: tuple[StudyRun, ...]
    baseline: str
    needs: str = ""
    notes: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    published: Literal["1", "3", "4"] | None = None
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(self.runs))
        if not self.runs:
            raise ValueError(f"study {self.name!r} must hold at least one run, got none")
        cells = [(run.name, run.config.seed, *comparable(dataclasses.asdict(run.config))) for run in self.runs]
        for number, cell in enumerate(cells):
            if cell in cells[:number]:
                raise ValueError(
                    f"runs of study {self.name!r} that differ in more than seed, model, size, corpus, seq_len or "
                    f"tokens must have names of their own, got two runs {cell[0]!r} of seed {cell[1]}"
                )

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of its runs, each once."""
        return tuple(dict.fromkeys(run.name for run in self.runs))

    def only(self, rows: Sequence[str]) -> "Study":
        """The study with some of its rows.

        Args:
            rows: names, in any spelling, or numbers from 1 as `--dry-run` shows them.

        Raises:
            ValueError: none, or a row that is not there; it names the nearest.
        """
        if not rows:
            raise ValueError("only must name at least one row of the study, got none: leave it out for all of them")
        chosen = {self._row(row) for row in rows}
        return dataclasses.replace(self, runs=tuple(run for run in self.runs if run.name in chosen))

    def _row(self, wanted: str) -> str:
        if wanted.isdigit() and 1 <= int(wanted) <= len(self.rows):
            return self.rows[int(wanted) - 1]
        by_name = {normalised(name): name for name in self.rows}
        if normalised(wanted) in by_name:
            return by_name[normalised(wanted)]
        raise ValueError(
            f"only takes rows of study {self.name!r}, by name or number 1 … {len(self.rows)}, got {wanted!r}"
            f"{nearest(wanted, self.rows)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions:
    """What a user may ask of any study.

    Attributes:
        seeds: seeds 0 … seeds − 1 of every method; None: as the study has it.
        methods: names in the study's table, methods, or JSON objects; None: all of the study.
        size: "cpu", "gpu" or "paper"; None: the study's own smallest.
        corpus: to train on; None: the study's own.
        evaluator: directory of the model that says which tokens need a long context (study natural); None: the best at
            hand.
    """

    seeds: int | None = None
    methods: tuple[str, ...] | None = None
    size: SizeName | None = None
    corpus: str | None = None
    evaluator: Path | None = None

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")
        if self.size is not None and self.size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, got {self.size!r}")
        if self.methods == ():
            raise ValueError("methods must name at least one method, got none: leave it out for all of them")

    def num_seeds(self, default: int) -> int:
        """Those asked for, or the study's own."""
        return default if self.seeds is None else self.seeds

    def size_among(self, study: str, sizes: Sequence[SizeName]) -> SizeName:
        """The size asked for, or the first that the study has.

        Raises:
            ValueError: the study has no such size.
        """
        size = self.size or sizes[0]
        if size not in sizes:
            raise ValueError(f"size of study {study!r} must be one of {', '.join(sizes)}, got {size!r}")
        return size


StudyFunction = Callable[[StudyOptions], Study]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A row of a table.

    Attributes:
        position: JSON of the position it is trained with: an object, or a list or pattern of layers.
        read_with: JSON of the position it is read with, where that is another.
        seeds: as many as the study gives it if none are asked for.
    """

    position: Any
    read_with: Any = None
    seeds: int = 1


def select_methods(names: Sequence[str] | None, known: Mapping[str, Method]) -> dict[str, Method]:
    """Methods by their name in the table, by method name (both however they are spelt), or as JSON.

    Args:
        names: None: all that are known.
        known: name in the table to method.

    Raises:
        ValueError: an unknown name or config; it names the nearest.
    """
    if names is None:
        return dict(known)
    by_name = {normalised(name): name for name in known}
    chosen: dict[str, Method] = {}
    for name in names:
        if (found := by_name.get(normalised(name))) is not None:
            chosen[found] = known[found]
            continue
        try:
            position = layers_json(parse_layers(name))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"methods takes {', '.join(map(repr, known))}, a method's name or JSON, got {name!r}"
                f"{nearest(name, [*known, *METHODS])}: {error}"
            ) from error
        chosen[name if name.lstrip().startswith(("{", "[")) else position["method"]] = Method(position=position)
    return chosen


def with_baseline(name: str, methods: Mapping[str, Method]) -> str:
    """The baseline if it is among the methods, else the first of them."""
    return name if name in methods else next(iter(methods))


def nearest(wanted: str, names: Sequence[str]) -> str:
    """ "; did you mean …?" for a misspelled name, or nothing."""
    by_lower = {name.lower(): name for name in names}
    close = get_close_matches(wanted.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""
