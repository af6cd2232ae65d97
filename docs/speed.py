"""Tables of time and memory, from the benchmarks in results/."""

from collections.abc import Mapping
from typing import Any

from docs.results import load, peer_title
from docs.tables import markdown_table

SPEED_ROWS = {
    "nope": "NoPE + SDPA",
    "wavelet": "Wavelet",
    "learned-relative": "learned relative",
    "alibi": "ALiBi",
    "forget-gate": "forget gate",
    "transformer-xl": "Transformer-XL",
    "wavelet-window": "Wavelet, window of 1,024",
    "rope-window": "RoPE, window of 1,024",
    "wavelet-packed": "Wavelet, 8 documents packed",
    "rope-packed": "RoPE + SDPA, called for each of them",
    "wavelet-padded": "Wavelet, a quarter of it left padding",
    "rope-padded": "RoPE + SDPA, called without the padding",
    "wavelet-both-ways": "Wavelet, both directions",
    "rope-both-ways": "RoPE + SDPA, both directions",
    "paper-tip1": "the paper's Tip 1",
    "paper-tip2": "the paper's Tip 2",
    "gather": "gather, as DeBERTa",
    "inkling": "transformers' Inkling layer",
    "x-transformers": "x-transformers' relative bias",
}


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
        if any((peer, n) in ratios for n in lengths)
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
            title = next(peer_title(c) for c in cells if c["peer"] == peer)
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


def memory() -> str:
    """Peak memory of wavelet attention over RoPE's, and the time of a training step."""
    cells = [c for c in load("attention_cpu")["cells"] if (c["pass"], c["peer"]) == ("forward+backward", "wavelet")]
    peaks = {(c["dtype"], c["seq_len"]): c["peak_bytes"] / c["baseline_peak_bytes"] for c in cells if "ratio" in c}
    lengths = sorted({n for _, n in peaks})
    rows = [[d, *(f"{peaks[d, n]:.2f}" if (d, n) in peaks else "–" for n in lengths)] for d in ("fp32", "bf16")]
    table = markdown_table(["peak memory of Wavelet over RoPE + SDPA", *(f"{n // 1024}k" for n in lengths)], rows)
    steps = [c for c in load("train_step_cpu")["cells"] if c["peer"] == "wavelet"]
    said = ", ".join(f"{c['ratio']['median']:.2f} at {c['seq_len']:,} tokens" for c in steps)
    return f"{table}\n\nA training step of the tiny Baevski–Auli model with wavelets over that with RoPE: {said}."


def exactness() -> str:
    """How many calls of each method every backend computes within the yardstick's bound, and how near it came."""
    cells = load("yardstick_cpu")["cells"]
    rows = []
    for position in dict.fromkeys(cell["position"] for cell in cells):
        ours = [cell for cell in cells if cell["position"] == position]
        tried = [cell for cell in ours if cell["verdict"] != "refused"]
        within = sum(cell["verdict"] == "within" for cell in tried)
        shares = [e["error"] / e["bound"] for cell in tried for e in cell.get("errors", ()) if e["bound"]]
        outputs: dict[str, list[float]] = {}
        for cell in tried:
            outputs.setdefault(cell["dtype"], []).extend(
                e["error"] for e in cell.get("errors", ()) if e["tensor"] == "out"
            )
        found = [f"{max(errors):.1e}" for errors in outputs.values()]
        rows.append([position, f"{within} of {len(tried)}", f"{len(ours) - len(tried)}", f"{max(shares):.2f}", *found])
    dtypes = dict.fromkeys(cell["dtype"] for cell in cells)
    heads = [
        "calls",
        "within the bound",
        "refused",
        "largest error / bound",
        *(f"largest of the output, {d}" for d in dtypes),
    ]
    return markdown_table(heads, rows)


def ratios(benchmark: str, seq_len: int) -> dict[str, str]:
    """By peer: median time over RoPE's at a length, float32; of a call, forward and backward, where both are timed."""
    cells = [cell for cell in _timed(benchmark) if cell["pass"] != "forward" and cell["dtype"] == "fp32"]
    return {cell["peer"]: f"{cell['ratio']['median']:.2f}" for cell in cells if cell["seq_len"] == seq_len}


def _timed(name: str) -> list[dict[str, Any]]:
    return [cell for cell in load(name)["cells"] if "ratio" in cell]


def _is(cell: Mapping[str, Any], peer: str, dtype: str, seq_len: int) -> bool:
    return (cell["peer"], cell["dtype"], cell["seq_len"]) == (peer, dtype, seq_len)
