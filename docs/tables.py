"""Tables and sentences of the site and of README, from results/*.json. `python -m docs.tables` puts README's in place.

A block of README stands between <!-- made: NAME --> and <!-- end -->; a test compares it with what is made here.
"""

import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

import wavepos.experiments.methods  # noqa: F401 - registers the methods of the studies
from docs.results import ROOT, load, studies
from wavepos import attention
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
    perplexity_text,
    short_text,
    summary,
    verdict,
)
from wavepos.positions import parse_layers
from wavepos.positions.layers import distinct_configs
from wavepos.positions.terms import ReadsGates

HEADS, HEAD_DIM = 4, 64
SPEED_ROWS = {
    "nope": "NoPE + SDPA",
    "wavelet": "Wavelet",
    "learned-relative": "learned relative",
    "alibi": "ALiBi",
    "paper-tip1": "the paper's Tip 1",
    "paper-tip2": "the paper's Tip 2",
    "gather": "gather, as DeBERTa",
    "inkling": "transformers' Inkling layer",
    "x-transformers": "x-transformers' relative bias",
}


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


def best_sentence(panel: Panel, column: Column) -> str:
    """Who is best at a length, and who cannot be told apart from it; one of too few seeds is named where it leads."""
    means = {name: statistics.fmean(values.values()) for name, values in column.nats.items()}
    if not means:
        return "Nothing was measured here."
    first = min(means, key=means.__getitem__)
    factor = f"{column.length:,} tokens ({column.length / panel.seq_len:g} × L_train)"
    shown = perplexity_text(list(column.shown[first].values()))
    if len(column.nats[first]) < FEWEST:
        one = f"Of {len(means)} methods {first} has the lowest perplexity at {factor}, {shown}, from "
        count = len(column.nats[first])
        return f"{one}{count} seed{'s' if count > 1 else ''}: too few to rank anything."
    found = [
        (other, column.difference(first, other)) for other in sorted(means, key=means.__getitem__) if other != first
    ]
    unclear = [other for other, d in found if d is not None and d.count >= FEWEST and not d.leaves_out_zero]
    start = f"{first} is best at {factor}, {shown}"
    if not unclear:
        return f"{start}, told apart from every other method of {FEWEST} seeds or more."
    text = f"{first} has the lowest perplexity at {factor}, {shown}; from it cannot be told apart: "
    return f"{text}{'; '.join(unclear)}."


def best_by_length(name: str, kind: str = "whole") -> str:
    """A sentence per length, and who has too few seeds to be ranked."""
    panel = first_panel(name)
    lines = [f"- {best_sentence(panel, column)}" for column in columns(panel, panel.texts[0], kind)]
    few = [method for method in panel.names if method not in ranked(panel)]
    return "\n".join(lines) + (f"\n\nToo few seeds to be ranked: {'; '.join(few)}." if few else "")


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


def properties(name: str = "table1-cpu") -> str:
    """By method: perplexity at L_train and far beyond, and what it costs and serves."""
    panel = first_panel(name)
    found = columns(panel, panel.texts[0], "whole")
    chosen = [c for c in found if c.length in (panel.seq_len, 4 * panel.seq_len, 16 * panel.seq_len)]
    cost = _costs()
    base = next(o["parameters"] for o in panel.outcomes if o["name"] == "NoPE")
    rows = []
    for method in panel.names:
        outcome = next(o for o in panel.outcomes if o["name"] == method)
        cells = [perplexity_text(list(c.shown[method].values())) if method in c.shown else "–" for c in chosen]
        more = outcome["parameters"] - base
        rows.append([method, *cells, f"{more:,}", _both_ways(outcome), _cached(outcome), cost.get(method, "–")])
    heads = [
        "",
        *(f"at {c.length:,}" for c in chosen),
        "parameters more",
        "both directions",
        "cache holds",
        "time at 8k",
    ]
    return markdown_table(heads, rows)


def measured(name: str = "attention_cpu") -> str:
    """Where the times come from: code of a later commit may be faster."""
    environment = load(name)["environment"]
    return (
        f"Times: commit {environment['commit'][:7]} (`{environment['command']}`, {environment['threads']} threads "
        f"of {environment['cpu']}); what has changed since is in the changelog."
    )


def speed(dtype: str) -> str:
    """Time of an attention call over RoPE + SDPA, forward and backward."""
    cells = [c for c in _timed("attention_cpu") if c["dtype"] == dtype and c["pass"] == "forward+backward"]
    lengths = sorted({c["seq_len"] for c in cells})
    ratios = {(c["peer"], c["seq_len"]): c["ratio"]["median"] for c in cells}
    rows = [
        [title, *(f"{ratios[peer, n]:.2f}" if (peer, n) in ratios else "–" for n in lengths)]
        for peer, title in SPEED_ROWS.items()
    ]
    return markdown_table([dtype, *(f"{n // 1024}k" for n in lengths)], rows)


def decoding() -> str:
    """Time of a decoded token over RoPE's."""
    cells = _timed("decode_cpu")
    lengths = sorted({c["seq_len"] for c in cells})
    rows = []
    for dtype in dict.fromkeys(c["dtype"] for c in cells):
        for peer in dict.fromkeys(c["peer"] for c in cells):
            ratios = {c["seq_len"]: c["ratio"]["median"] for c in cells if (c["dtype"], c["peer"]) == (dtype, peer)}
            title = next(c["title"] for c in cells if c["peer"] == peer).removeprefix("wavepos: ")
            if peer != "rope" and ratios:
                rows.append([f"{title}, {dtype}", *(f"{ratios[n]:.2f}" if n in ratios else "–" for n in lengths)])
    return markdown_table(["a token, keys in the cache", *(f"{n // 1024}k" for n in lengths)], rows)


def generation() -> str:
    """Tokens per second of `generate`."""
    cells = _timed("generate_cpu")
    lengths = sorted({c["seq_len"] for c in cells})
    rows = [
        [
            f"{peer}, {dtype}",
            *(f"{x['tokens_per_second']:.0f}" for n in lengths for x in cells if _is(x, peer, dtype, n)),
        ]
        for dtype in dict.fromkeys(c["dtype"] for c in cells)
        for peer in dict.fromkeys(c["peer"] for c in cells)
    ]
    theirs = [
        [f"transformers' own Llama, {dtype}"]
        + [f"{x['baseline_tokens_per_second']:.0f}" for n in lengths for x in cells if _is(x, "rotary", dtype, n)]
        for dtype in dict.fromkeys(c["dtype"] for c in cells)
    ]
    return markdown_table(["tokens per second, in the cache", *(f"{n // 1024}k" for n in lengths)], rows + theirs)


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


def _timed(name: str) -> list[dict[str, Any]]:
    return [cell for cell in load(name)["cells"] if "ratio" in cell]


def _is(cell: Mapping[str, Any], peer: str, dtype: str, seq_len: int) -> bool:
    return (cell["peer"], cell["dtype"], cell["seq_len"]) == (peer, dtype, seq_len)


def _costs() -> dict[str, str]:
    """By method of the studies: time of an attention call over RoPE + SDPA at 8k, float32."""
    cells = _timed("attention_cpu")
    at_8k = {c["peer"]: c["ratio"]["median"] for c in cells if _is(c, c["peer"], "fp32", 8192) and "+" in c["pass"]}
    found = {"NoPE": "nope", "RoPE": "rope", "ALiBi": "alibi", "Wavelet": "wavelet"}
    return {method: f"{at_8k[peer]:.2f}" for method, peer in found.items() if peer in at_8k}


def _positions(outcome: Mapping[str, Any]) -> Iterator[Any]:
    for config in distinct_configs(parse_layers(outcome["config"]["position"])):
        yield config.build(head_dim=HEAD_DIM, num_heads=HEADS)


def _both_ways(outcome: Mapping[str, Any]) -> str:
    """Whether attention serves the method with causal=False, asked of it."""
    q = torch.zeros(1, HEADS, 2, HEAD_DIM)
    for position in _positions(outcome):
        try:
            attention(q, q, q, position=position, causal=False)
        except ValueError as error:
            return "if made so" if "bidirectional=True" in str(error) else "no"
    return "yes"


def _cached(outcome: Mapping[str, Any]) -> str:
    positions = list(_positions(outcome))
    if any(isinstance(position, ReadsGates) and position.reads_gates for position in positions):
        return "keys, gates"
    return "rotated keys" if any(position.rotates for position in positions) else "keys"


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
