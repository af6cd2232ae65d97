"""wavepos itself: each position through `attention`, by "auto" or, as NAME@BACKEND, by a backend of choice."""

from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from benchmarks.peers.inkling import EXTENT, RELATIVE_DIM
from benchmarks.peers.peer import Built, Case, Peer, dense, is_called
from wavepos import ALiBi, ForgetGate, LearnedRelative, NoPE, T5Bias, TransformerXLRelative, Wavelet, attention
from wavepos.ops.call import Backend
from wavepos.positions import Position

DECAY_TIMES = (64.0, 4096.0)
"""Tokens in which the first and the last head of the forget gate forget by a factor of e."""


def _position(name: str, case: Case) -> Position:
    generator = torch.Generator().manual_seed(case.seed)
    match name:
        case "wavelet":
            return Wavelet(case.head_dim)
        case "alibi":
            return ALiBi(case.num_heads)
        case "bare":
            return NoPE()
        case "t5":
            biases = T5Bias(case.num_heads)
            nn.init.normal_(biases.weight, generator=generator)
            return biases
        case "learned-relative":
            relative = LearnedRelative(relative_dim=RELATIVE_DIM, extent=EXTENT)
            nn.init.normal_(relative.weight, std=0.3, generator=generator)
            return relative
        case "transformer-xl":
            relative_xl = TransformerXLRelative(case.head_dim, case.num_heads)
            for parameter in relative_xl.parameters():
                nn.init.normal_(parameter, std=0.05, generator=generator)
            return relative_xl
        case "forget-gate":
            return ForgetGate(case.num_heads, decay_times=DECAY_TIMES)
    raise ValueError(f"no position is called {name!r}")


def builder(name: str, backend: Backend) -> Callable[[Case], Built]:
    """Builds a position with a backend."""

    def build(case: Case) -> Built:
        position = _position(name, case).to(case.device)
        given = _read(position, case)

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(q, k, v, position=position, backend=backend, **given)

        learned = (*given.values(), *(() if "gates" in given else position.parameters()))  # f is in the gates
        return Built(run=run, position=position, learned=learned, state=_tables(position, case), arguments=given)

    return build


def _read(position: Position, case: Case) -> dict[str, Any]:
    """What the position reads beside q and k, as a projection of the hidden state would give it."""
    if isinstance(position, LearnedRelative):
        states = case.draw(case.batch, case.num_heads, case.seq_len, RELATIVE_DIM, stream=5)
        return {"relative_states": states.requires_grad_()}
    if isinstance(position, ForgetGate):
        logits = case.draw(case.batch, case.num_heads, case.seq_len, stream=6)
        return {"gates": position.gates(logits).detach().to(case.dtype).requires_grad_()}
    return {}


def _tables(position: Position, case: Case) -> tuple[Tensor, ...]:
    """The fixed tables that the position keeps."""
    if not isinstance(position, Wavelet | ALiBi):
        return ()
    q = torch.empty(1, case.num_heads, case.seq_len, case.head_dim, dtype=case.dtype, device=case.device)
    terms = position.terms(q, q)
    product = position.factors(terms)
    factors = () if product is None else (product.coefficients_RK, product.basis_KE)
    return tuple(x for x in (terms.table, terms.gates_BHS, *factors) if x is not None)


TITLES = {
    "wavelet": ("wavepos: Wavelet", "q·k + q·ψ(δ)"),
    "alibi": ("wavepos: ALiBi", "q·k − slope·δ"),
    "t5": ("wavepos: T5 bias", "q·k + b(bucket(δ)), b learned"),
    "learned-relative": ("wavepos: learned relative", "q·k + r·p(δ), p learned"),
    "transformer-xl": ("wavepos: Transformer-XL", "(q+u)·k + (q+v)·p(δ), W learned"),
    "forget-gate": ("wavepos: forget gate", "q·k + c(m) − c(n), c of the hidden state"),
    "bare": ("wavepos: NoPE", "q·k"),
}


def ours(name: str, backend: str = "auto") -> Peer:
    """The peer of a position of ours.

    Raises:
        ValueError: an unknown position or backend.
    """
    name = next((known for known in TITLES if is_called(name, known)), name)
    if name not in TITLES:
        raise ValueError(f"NAME@BACKEND takes one of {', '.join(TITLES)} as NAME, got {name!r}")
    known: tuple[Backend, ...] = get_args(Backend)
    for choice in known:
        if choice == backend:
            title, formula = TITLES[name]
            suffix = "" if backend == "auto" else f"@{backend}"
            return Peer(
                name=name + suffix,
                title=title + suffix,
                formula=formula,
                build=builder(name, choice),
                quadratic_bytes=dense(8, 14) if backend == "reference" else dense(0, 0),
            )
    raise ValueError(f"NAME@BACKEND takes one of {', '.join(known)} as BACKEND, got {backend!r}")
