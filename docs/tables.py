"""Tables and sentences of the site and of README, from results/*.json. `python -m docs.tables` puts README's in place.

A block of README stands between <!-- made: NAME --> and <!-- end -->; a test compares it with what is made here.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import wavepos.experiments.methods  # noqa: F401 - registers the methods of the studies
from docs.results import ROOT, load, studies
from wavepos.experiments.beside import beside_paper, judged_comparisons
from wavepos.experiments.intervals import FEWEST
from wavepos.experiments.tables import (
    BLOCKS,
    Column,
    Panel,
    columns,
    difference_rows,
    marked,
    panel_note,
    panels,
    perplexity_rows,
    short_text,
    summary,
    verdict,
)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def first_panel(name: str) -> Panel:
    """The runs of results/NAME.json that are compared with each other."""
    return panels(load(name))[0]


def ranked(panel: Panel) -> list[str]:
    """Methods of three seeds or more; all where there are none."""
    seeds = Counter(outcome["name"] for outcome in panel.outcomes)
    return [name for name in panel.names if seeds[name] >= FEWEST] or list(panel.names)


def perplexities(name: str, kind: str = "whole", rows: str = "all") -> str:
    """Perplexity by method and length, of the first text of results/NAME.json."""
    panel = first_panel(name)
    found = columns(panel, panel.texts[0], kind)
    cells = perplexity_rows(panel, found)
    lines = ([method, *map(marked, cells[method])] for method in (ranked(panel) if rows == "ranked" else cells))
    return markdown_table([BLOCKS[kind], *(str(column.length) for column in found)], lines)


def differences(name: str, kind: str = "whole") -> str:
    """Differences to the baseline by method and length, of the first text of results/NAME.json."""
    panel, baseline = first_panel(name), load(name)["baseline"]
    found = columns(panel, panel.texts[0], kind)
    lines = ([method, *map(marked, cells)] for method, cells in difference_rows(panel, found, baseline).items())
    return markdown_table([f"less {baseline}, nats per token", *(str(c.length) for c in found)], lines)


def about(name: str) -> str:
    """What a result measured, and where its numbers come from."""
    result, panel = load(name), first_panel(name)
    environment = result["environment"]
    return (
        f"{panel.title}. {panel_note(panel)} Text: {short_text(panel.texts[0])}. Made by "
        f"`{environment['command']}` at commit {environment['commit'][:7]} on {environment['threads']} "
        f"thread(s) of {environment['cpu']}; every run's own command, commit and seconds are in "
        f"`results/{name}.json`."
    )


def runs(name: str) -> str:
    """Seeds, parameters, tokens and seconds by method."""
    rows = (
        [r["method"], str(r["seeds"]), f"{r['parameters']:,}", f"{r['train_tokens']:,}", f"{r['train_seconds']:.0f}"]
        for r in summary(first_panel(name))
    )
    return markdown_table(["", "seeds", "parameters", "tokens", "seconds"], rows)


def beside(name: str) -> str:
    """The paper's numbers beside ours, and which of its comparisons fail."""
    lines = list(beside_paper(first_panel(name), load(name)["published"]))[1:]
    return "\n".join(lines)


def comparisons(name: str = "table1-cpu") -> str:
    """How many of the paper's comparisons hold, fail, cannot be told."""
    judged = list(judged_comparisons(first_panel(name), load(name)["published"]))
    counts = Counter(how for _, _, how, _ in judged)
    asked = len(judged) - counts["too few seeds"]
    return (
        f"Of the paper's comparisons (who beats whom at which length) {asked} can be looked for at three seeds: "
        f"{counts['holds']} hold, {counts['fails']} fail, {counts['cannot be told']} cannot be told apart."
    )


def converted() -> str:
    """A RoPE Llama converted: losses and perplexities."""
    titles = {
        "base": "the RoPE Llama",
        "rotary": "trained on with RoPE",
        "wavelet": "converted to wavelets",
        "recency": "converted, recency start",
    }
    rows = []
    for key, title in titles.items():
        run = load("convert_llama")["runs"][key]
        losses = [loss for _, loss in run["losses"]]
        whole = {p["seq_len"]: p["per_token"] for p in run["perplexities"] if p["kind"] == "whole"}
        first = "–" if key == "base" else f"{losses[0]:.2f}"
        lengths = [n for n in sorted(whole) if n >= run["config"]["seq_len"]]
        rows.append([title, first, f"{losses[-1]:.2f}", *(f"{whole[n]:.1f}" for n in lengths)])
    return markdown_table(["", "first loss", "last loss", *(f"read whole at {n}" for n in lengths)], rows)


def all_results() -> str:
    """The files of results/ that hold perplexities, with what they are."""
    rows = [[f"`{name}.json`", result["title"], str(len(result["outcomes"]))] for name, result in studies().items()]
    return markdown_table(["file", "what", "runs"], rows)


def against_baseline(name: str, length: str, kind: str = "whole") -> str:
    """Who is better than the baseline at a length, who is worse, of whom it cannot be told."""
    panel, baseline = first_panel(name), load(name)["baseline"]
    column = next(c for c in columns(panel, panel.texts[0], kind) if c.length == int(length))
    column = Column(
        length=column.length, nats={n: column.nats[n] for n in ranked(panel) if n in column.nats}, shown=column.shown
    )
    found = verdict(panel, column, baseline)
    parts = [f"{word}: {'; '.join(names) or 'none'}" for word, names in found.items()]
    place = f"{column.length:,} tokens ({column.length / panel.seq_len:g} × L_train)"
    return f"Against {baseline} at {place}, {' · '.join(parts)}."


BLOCKS_OF_README: Mapping[str, Callable[[], str]] = {
    "table1": lambda: "\n\n".join(
        [
            f"{first_panel('table1-cpu').title}. {panel_note(first_panel('table1-cpu'))}",
            perplexities("table1-cpu", "whole", "ranked"),
            f"{comparisons()} {against_baseline('table1-cpu', '4096')}",
        ]
    ),
}
"""What stands between README's marks, by name."""


def with_blocks(text: str) -> str:
    """README with its blocks made anew.

    Raises:
        ValueError: a mark without a block of its name, or without an end.
    """

    def made(match: re.Match[str]) -> str:
        name = match[1]
        if name not in BLOCKS_OF_README:
            raise ValueError(f"README's mark must be one of {', '.join(BLOCKS_OF_README)}, got {name!r}")
        return f"<!-- made: {name} -->\n{BLOCKS_OF_README[name]()}\n<!-- end -->"

    found, count = re.subn(r"<!-- made: (\w+) -->\n.*?<!-- end -->", made, text, flags=re.DOTALL)
    if count != text.count("<!-- made:"):
        raise ValueError("a block of README has no <!-- end -->")
    return found


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_blocks(readme.read_text(encoding="utf-8")), encoding="utf-8")
