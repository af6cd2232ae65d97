"""The numbers of a report: means and spreads over seeds, and paired differences to a baseline with their intervals."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wavepos.evaluate.perplexity import KINDS
from wavepos.experiments.folders import short_count
from wavepos.experiments.intervals import FEWEST, Interval, mean_interval
from wavepos.experiments.study import comparable

BLOCKS = {
    "nonoverlapping": "Non-overlapping inference: sequences divided into L_train",
    "whole": "Sequences read whole",
    "sliding": "Sliding windows, moved by half their length",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Runs that may be compared: of one model, corpus, trained length and budget.

    Attributes:
        title: what they share.
        outcomes: as in a result; a row and seed each.
    """

    title: str
    outcomes: tuple[dict[str, Any], ...]

    @property
    def seq_len(self) -> int:
        """L_train."""
        return int(self.outcomes[0]["config"]["seq_len"])

    @property
    def names(self) -> tuple[str, ...]:
        """The methods, in their order."""
        return tuple(dict.fromkeys(outcome["name"] for outcome in self.outcomes))

    @property
    def most_seeds(self) -> int:
        """Seeds of the method that has the most."""
        return max(len({o["seed"] for o in self.outcomes if o["name"] == name}) for name in self.names)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts read, "corpus, split"."""
        return tuple(dict.fromkeys(text_of(e) for outcome in self.outcomes for e in outcome["evaluations"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One length of one protocol on one text: what every method and seed scored.

    Attributes:
        length: tokens read at once.
        nats: method to seed to mean nats per token.
        shown: method to seed to the perplexity shown, per token or per word.
    """

    length: int
    nats: dict[str, dict[int, float]]
    shown: dict[str, dict[int, float]]

    def difference(self, name: str, other: str) -> Interval | None:
        """Nats per token of a method less those of another, paired by seed; None without a common seed."""
        ours, theirs = self.nats.get(name, {}), self.nats.get(other, {})
        common = sorted(set(ours) & set(theirs))
        return mean_interval([ours[seed] - theirs[seed] for seed in common]) if common else None

    def best(self) -> str | None:
        """The method that beats every other by more than chance, or None.

        Methods of fewer than three seeds are not ranked, but none of them may have the lowest mean.
        """
        means = {name: statistics.fmean(values.values()) for name, values in self.nats.items()}
        if not means:
            return None
        first = min(means, key=means.__getitem__)
        ranked = [name for name, values in self.nats.items() if len(values) >= FEWEST]
        if first not in ranked or len(ranked) < 2:
            return None
        told = (self.difference(first, other) for other in ranked if other != first)
        return first if all(d is not None and d.leaves_out_zero for d in told) else None


def panels(result: dict[str, Any]) -> list[Panel]:
    """The outcomes of a result in groups that may be compared."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for outcome in result["outcomes"]:
        groups.setdefault(comparable(outcome["config"]), []).append(outcome)
    return [
        Panel(
            title=f"{size}, L_train = {seq_len}, {short_count(tokens)} tokens of {short_text(corpus)}",
            outcomes=tuple(outcomes),
        )
        for (_, size, corpus, seq_len, tokens), outcomes in groups.items()
    ]


def columns(panel: Panel, text: str, kind: str) -> list[Column]:
    """The columns of a protocol on a text, by rising length; those of equal windows are kept, as in the paper."""
    found: dict[int, Column] = {}
    for row in measurements(panel.outcomes):
        if row["text"] == text and row["protocol"] == kind:
            column = found.setdefault(row["length"], Column(length=row["length"], nats={}, shown={}))
            column.nats.setdefault(row["method"], {})[row["seed"]] = row["nats"] / row["tokens"]
            shown = row["per_word"] if counts_words(text) else row["per_token"]
            column.shown.setdefault(row["method"], {})[row["seed"]] = float("inf") if shown is None else shown
    return [found[length] for length in sorted(found)]


def measurements(outcomes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One flat row per outcome, text, protocol and length: the content of the CSV."""
    return [
        {
            "method": outcome["name"],
            "seed": outcome["seed"],
            "corpus": outcome["config"]["corpus"],
            "train_length": outcome["config"]["seq_len"],
            "train_tokens": outcome["train_tokens"],
            "train_seconds": outcome["train_seconds"],
            "parameters": outcome["parameters"],
            "text": text_of(evaluation),
            "protocol": entry["kind"],
            "length": entry["seq_len"],
            "tokens": entry["tokens"],
            "nats": entry["nats"],
            "per_token": entry["per_token"],
            "per_word": entry["per_word"],
            "bits_per_byte": entry["bits_per_byte"],
            "run": outcome["folder"],
        }
        for outcome in outcomes
        for evaluation in outcome["evaluations"]
        for entry in evaluation["perplexities"]
    ]


def kinds_of(panel: Panel, text: str) -> list[str]:
    """The protocols by which a text was read."""
    found = {row["protocol"] for row in measurements(panel.outcomes) if row["text"] == text}
    return [kind for kind in KINDS if kind in found]


def summary(panel: Panel) -> list[dict[str, Any]]:
    """Per method: seeds, parameters, tokens and seconds of training, bits per byte at L_train on the first text."""
    rows = []
    for name in panel.names:
        group = [outcome for outcome in panel.outcomes if outcome["name"] == name]
        bits = [
            row["bits_per_byte"]
            for row in measurements(group)
            if (row["text"], row["protocol"], row["length"]) == (panel.texts[0], "whole", panel.seq_len)
            and row["bits_per_byte"] is not None
        ] if panel.texts else []  # fmt: skip
        rows.append(
            {
                "method": name,
                "seeds": len({outcome["seed"] for outcome in group}),
                "parameters": group[0]["parameters"],
                "train_tokens": group[0]["train_tokens"],
                "train_seconds": statistics.fmean(outcome["train_seconds"] for outcome in group),
                "bits_per_byte": statistics.fmean(bits) if bits else None,
            }
        )
    return rows


def verdict(panel: Panel, column: Column, baseline: str) -> dict[str, list[str]]:
    """Methods "better" and "worse" than the baseline by more than chance, and those that "cannot be told"."""
    found: dict[str, list[str]] = {"better": [], "worse": [], "cannot be told": []}
    for name in panel.names:
        difference = column.difference(name, baseline)
        if name == baseline or difference is None:
            continue
        told = difference.leaves_out_zero
        found[("better" if difference.mean < 0 else "worse") if told else "cannot be told"].append(name)
    return found


def panel_note(panel: Panel) -> str:
    """What the spreads, intervals and bold figures mean, or why there are none; which runs differ in precision."""
    return _seeds_note(panel) + _precision_note(panel)


def _precision_note(panel: Panel) -> str:
    seeds: dict[str, dict[str, list[int]]] = {}
    for outcome in panel.outcomes:
        for precision in {e["precision"] for e in outcome["evaluations"] if "precision" in e}:
            seeds.setdefault(precision, {}).setdefault(outcome["name"], []).append(outcome["seed"])
    if len(seeds) < 2:
        return ""
    common, *others = sorted(seeds, key=lambda precision: -sum(map(len, seeds[precision].values())))
    told = "; ".join(f"in {precision} {_runs(seeds[precision])}" for precision in others)
    return f" Products are taken in {common}, but {told}: between the two, differences hold that of rounding as well."


def _runs(seeds: Mapping[str, Sequence[int]]) -> str:
    """Methods with the same seeds side by side: "ForgetGate · Cable, seeds 0, 1"."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for name, found in seeds.items():
        alike.setdefault(tuple(sorted(found)), []).append(name)
    return "; ".join(
        f"{' · '.join(names)}, seed{'s' * (len(found) > 1)} {', '.join(map(str, found))}"
        for found, names in alike.items()
    )


def _seeds_note(panel: Panel) -> str:
    if panel.most_seeds < 2:
        return (
            "One seed each: no difference can be told from chance, so nothing is bold and nothing is ranked. "
            "More seeds (--seeds) train only what is new."
        )
    spread = f"Mean ± standard deviation of up to {panel.most_seeds} seeds. "
    if panel.most_seeds < FEWEST:
        return f"{spread}Fewer than {FEWEST} seeds rank nothing, so nothing is bold."
    return (
        f"{spread}Bold: better than every other method of at least {FEWEST} seeds by a paired difference whose 95% "
        "interval (Student's t, each comparison by itself) leaves out zero. Methods of fewer seeds are not ranked."
    )


def perplexity_rows(panel: Panel, found: Sequence[Column]) -> dict[str, list[tuple[str, bool]]]:
    """By method: the text of each column and whether it is the best."""
    best = [column.best() for column in found]
    return {
        name: [
            (perplexity_text(list(column.shown[name].values())) if name in column.shown else "–", name == first)
            for column, first in zip(found, best, strict=True)
        ]
        for name in panel.names
    }


def difference_rows(panel: Panel, found: Sequence[Column], baseline: str) -> dict[str, list[tuple[str, bool]]]:
    """By method but the baseline: its difference to that in each column, and whether it is more than chance."""
    return {
        name: [
            (difference_text(difference), difference is not None and difference.leaves_out_zero)
            for difference in (column.difference(name, baseline) for column in found)
        ]
        for name in panel.names
        if name != baseline
    }


def marked(cell: tuple[str, bool]) -> str:
    """A cell of `perplexity_rows` or `difference_rows` in Markdown."""
    text, stands_out = cell
    return f"**{text}**" if stands_out else text


def perplexity_text(values: Sequence[float]) -> str:
    """Mean and, from two values on, ± standard deviation, with as many digits as say something."""
    mean = statistics.fmean(values)
    if mean >= 1e5:
        return f"{mean:.1e}"
    digits = 2 if mean < 100 else 1
    spread = f"±{statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{spread}"


def difference_text(difference: Interval | None) -> str:
    """Mean ± half of the 95% interval, in nats; "–" where there is nothing to compare."""
    if difference is None:
        return "–"
    half = "" if difference.half_width is None else f"±{difference.half_width:.3f}"
    return f"{difference.mean:+.3f}{half}".replace("-", "−")


def text_of(evaluation: dict[str, Any]) -> str:
    """The text that an evaluation read, in words."""
    return f"{evaluation['corpus']}, {evaluation['evaluation']['split']}"


def short_text(text: str) -> str:
    """A text or corpus without the folders of its path."""
    kind, colon, rest = text.partition(":")
    return f"{kind}:{rest.rpartition('/')[2]}" if colon else text


def counts_words(text: str) -> bool:
    """Whether perplexity is shown per word: on the corpus whose makers counted its words."""
    return text.startswith("wikitext103")


def unit_of(text: str) -> str:
    """ "per token" or "per word"."""
    return "per word" if counts_words(text) else "per token"
