"""The yardstick: how far a call is from the reference in float64, held to twice what dense attention is off.

For whoever writes a position, a backend or a kernel; it needs torch alone. `measure` gives the errors of the output and
of every gradient, `assert_within` judges them, `compare` takes inputs of your own and any callable.

Shape suffixes: B batch, H query heads, T queries, S keys, E width of the relative term.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from wavepos.ops.attention import attention
from wavepos.ops.call import Backend
from wavepos.positions import LearnedRelative, Position, ScoreTerms
from wavepos.positions.terms import ReadsGates, ReadsRelativeStates

Attend = Callable[..., Tensor]
"""What is called as `wavepos.attention` is: (q, k, v, *, position, query_offset, …) to the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One attention call. Inputs are drawn from the seed in float64 and rounded to the dtype first.

    Attributes:
        batch, num_heads, num_kv_heads, num_queries, num_keys, head_dim: the sizes of q [B,H,T,D] and of k, v [B,G,S,D].
        query_offset: position of the first query, in tokens.
        relative_dim: E, where a position of your own reads relative states; `LearnedRelative` knows its own.
        dtype, device: of the inputs.
        seed: another seed, other inputs.
    """

    batch: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    num_queries: int = 37
    num_keys: int = 37
    head_dim: int = 16
    query_offset: int = 0
    relative_dim: int | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    seed: int = 0

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v and the gradient that arrives at the output."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(heads: int, length: int) -> Tensor:
            shape = (self.batch, heads, length, self.head_dim)
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.device, self.dtype)

        q, grad = draw(self.num_heads, self.num_queries), draw(self.num_heads, self.num_queries)
        return q, draw(self.num_kv_heads, self.num_keys), draw(self.num_kv_heads, self.num_keys), grad

    def relative_states(self, position: Position) -> Tensor | None:
        """What the position reads beside q and k [B,H,T,E]; None if it reads nothing.

        Raises:
            ValueError: a position of your own that reads relative states, and no relative_dim.
        """
        if not isinstance(position, ReadsRelativeStates):
            return None
        width = position.config.relative_dim if isinstance(position, LearnedRelative) else self.relative_dim
        if width is None:
            raise ValueError(f"relative_dim must be given for {type(position).__name__}, which reads relative states")
        shape = (self.batch, self.num_heads, self.num_queries, width)
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.device, self.dtype)

    def gates(self, position: Position) -> Tensor | None:
        """Log gates of random logits [B,H,S], rounded to the dtype as models round them; None if it reads none."""
        if not (isinstance(position, ReadsGates) and position.reads_gates):
            return None
        generator = torch.Generator().manual_seed(self.seed + 2)
        shape = (self.batch, self.num_heads, self.num_keys)
        logits = torch.randn(shape, generator=generator, dtype=torch.float64) + 2.0
        return logsigmoid(logits).to(self.device, self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """How far one tensor is from the truth, beside dense attention in the same precision.

    Attributes:
        tensor: "out", or "dq", "dk", "dv", "d" and a parameter's name: its gradient.
        error: the largest absolute error.
        dense: that of dense attention.
        magnitude: the size of what it is rounded from. A gradient of q or k is a difference, of dO·v and its mean over
            the keys: its rounding follows their size, not its own, which is zero where a query sees one key. So the
            size of a gradient is at least that of the one that arrives. A learned parameter's is a sum of such
            differences over B·T queries, each rounded by itself. In the dense form the roundings of one query cancel,
            for it subtracts the mean of the very numbers that it holds; where the mean comes from the output, as in
            every fused kernel, they add up as a random walk does, to √(B·T) times those of one. A temperature's sums
            over q's width as well, each term times a number of q and the logarithm of its position.
        eps: the spacing of the precision at 1, as `torch.finfo(dtype).eps`.
    """

    tensor: str
    error: float
    dense: float
    magnitude: float
    eps: float

    @property
    def bound(self) -> float:
        """The largest error allowed: twice the dense one, and six roundings (twelve in float64)."""
        # of the tests' calls the largest takes 4.7 on an Intel Xeon, and 10 in float64, on an AMD EPYC at most 4 and 8;
        # in float64 the truth is rounded as well, and the dense form in the truth's own order: its error says
        # nothing
        roundings = 12.0 if self.eps <= torch.finfo(torch.float64).eps else 6.0
        return 2.0 * self.dense + roundings * self.eps * self.magnitude

    def __str__(self) -> str:
        return f"{self.tensor}: {self.error:.2e}, dense {self.dense:.2e}, bound {self.bound:.2e}"


def measure(position: Position, case: Case, backend: Backend | Attend, **kwargs: Any) -> list[Error]:
    """Errors of the output and of the gradients of q, k, v, relative states, gates and every learned parameter.

    Args:
        position: the positional method; it is copied, not changed.
        case: sizes, dtype, device and seed.
        backend: one of `wavepos.attention`'s by name, or a callable that takes the same arguments without `backend`.
        kwargs: further arguments of `attention`: causal, window, softmax_scale, key_padding_mask, document_ids,
            query_offset.

    Returns:
        One `Error` per tensor, the output first.

    Example:
        >>> from wavepos import ALiBi
        >>> from wavepos.testing import Case, measure
        >>> errors = measure(ALiBi(4), Case(num_queries=50, num_keys=50), "banded")
        >>> [error.tensor for error in errors]
        ['out', 'dq', 'dk', 'dv']
        >>> all(error.error <= error.bound for error in errors)
        True
    """
    q, k, v, grad = case.inputs()
    inputs = {"q": q, "k": k, "v": v}
    states = case.relative_states(position)
    if states is not None:
        inputs["relative_states"] = states
    if (gates := case.gates(position)) is not None:
        inputs["gates"] = gates
    attend = _named(backend) if isinstance(backend, str) else backend
    return compare(attend, position, inputs, grad, **{"query_offset": case.query_offset, **kwargs})


def assert_within(position: Position, case: Case, backend: Backend | Attend, **kwargs: Any) -> None:
    """Raise AssertionError unless every error of `measure` is within its bound.

    Args:
        position, case, backend, kwargs: as `measure` takes them.

    Example: a kernel of one's own, here SDPA, which leaves the position out.
        >>> import torch
        >>> from wavepos import ALiBi, NoPE
        >>> from wavepos.testing import Case, assert_within
        >>> def plain(q, k, v, *, position, query_offset):
        ...     return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        >>> assert_within(NoPE(), Case(), plain)
        >>> assert_within(ALiBi(4), Case(), plain)
        Traceback (most recent call last):
        ...
        AssertionError: ALiBi by plain, ...
    """
    beyond = [str(error) for error in measure(position, case, backend, **kwargs) if not error.error <= error.bound]
    name = backend if isinstance(backend, str) else getattr(backend, "__name__", repr(backend))
    assert not beyond, f"{type(position).__name__} by {name}, {case}: {'; '.join(beyond)}"


def compare(
    attend: Attend, position: Position, inputs: Mapping[str, Tensor], grad: Tensor | None, **kwargs: Any
) -> list[Error]:
    """Errors of any callable on inputs of your own, beside dense attention on the same ones.

    Args:
        attend: called as `wavepos.attention`, with the inputs, a copy of the position and the kwargs.
        position: the positional method; parameters that require no gradient are not compared.
        inputs: q, k and v by name, relative_states and gates where the position reads them; each gets a gradient.
        grad: the gradient that arrives at the output; None: the output alone.
        kwargs: further arguments of `attention`. In the reference floating-point tensors become float64.

    Returns:
        One `Error` per tensor, the output first.
    """
    device = inputs["q"].device
    calls = [copy.deepcopy(position).to(device) for _ in range(3)]
    in_double, kwargs_in_double = ({name: _double(x) for name, x in given.items()} for given in (inputs, kwargs))
    truth = _results(_named("reference"), calls[0].double(), in_double, grad, kwargs_in_double)
    dense = _results(_dense, calls[1], inputs, grad, kwargs)
    found = _results(attend, calls[2], inputs, grad, kwargs)
    arriving = 0.0 if grad is None else float(grad.abs().max())
    return [
        Error(
            tensor=name,
            error=_distance(found[name], value),
            dense=_distance(dense[name], value),
            magnitude=max(float(value.abs().max()), arriving * _roundings_of_one(name, inputs)),
            eps=torch.finfo(inputs["q"].dtype).eps,
        )
        for name, value in truth.items()
    ]


def _results(
    attend: Attend, position: Position, inputs: Mapping[str, Tensor], grad: Tensor | None, kwargs: Mapping[str, Any]
) -> dict[str, Tensor]:
    if grad is None:
        with torch.no_grad():
            return {"out": attend(**inputs, position=position, **kwargs)}
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    learned = {name: x for name, x in position.named_parameters() if x.requires_grad}
    out = attend(**leaves, position=position, **kwargs)
    asked = [*leaves.values(), *learned.values()]  # zeros for what is not read, such as f of a gate that is given
    gradients = torch.autograd.grad(out, asked, grad.to(out.dtype), allow_unused=True, materialize_grads=True)
    return {"out": out.detach(), **{f"d{name}": x for name, x in zip((*leaves, *learned), gradients, strict=True)}}


def _named(backend: Backend) -> Attend:
    def call(**arguments: Any) -> Tensor:
        return attention(**arguments, backend=backend)

    return call


def _dense(*, q: Tensor, k: Tensor, v: Tensor, position: Position, **kwargs: Any) -> Tensor:
    """What a user would write without a kernel: matrix products in q's dtype, softmax in float32."""
    offset = kwargs.get("query_offset")
    offset = k.shape[2] - q.shape[2] if offset is None else offset
    read = {"relative_states_BHTE": kwargs["relative_states"]} if isinstance(position, ReadsRelativeStates) else {}
    if isinstance(position, ReadsGates):
        read["gates_BHS"] = kwargs.get("gates")
    if kwargs.get("causal", True):
        terms = position.terms(q, k, q_offset=offset, **read)
    else:
        terms = position.terms_both_ways(q, k, q_offset=offset)
    terms = terms.tempered(position.temperature, offset)
    repeats = q.shape[1] // k.shape[1]
    keys, values = terms.k_BGSD.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scale = kwargs.get("softmax_scale") or 1.0 / math.sqrt(q.shape[-1])
    at_T, at_S = torch.arange(q.shape[2], device=q.device) + offset, torch.arange(k.shape[2], device=q.device)
    displacement = at_T[:, None] - at_S
    scores = _with_relative(terms.q_BHTD @ keys.mT, displacement, terms, scale)
    if terms.bias_HR is not None:
        bias = terms.bias_HR.to(q.dtype)[:, None].expand(-1, q.shape[2], -1)
        scores = scores + _skew(bias, displacement, terms)
    if terms.gates_BHS is not None:
        scores = scores + _gate_bias(terms.gates_BHS, at_T, k.shape[2]).to(q.dtype)
    allowed = _allowed(at_T, at_S, kwargs)
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)) * allowed
    return weights.to(q.dtype) @ values


def _with_relative(scores: Tensor, displacement: Tensor, terms: ScoreTerms, scale: float) -> Tensor:
    if terms.r_BHTE is None or terms.table is None:
        return scores * scale
    relative = _skew(terms.r_BHTE @ terms.table.to(scores.dtype).mT, displacement, terms)
    if terms.relative_scale is None:
        return (scores + relative) * scale
    return scores * scale + relative * terms.relative_scale


def _allowed(at_T: Tensor, at_S: Tensor, kwargs: Mapping[str, Any]) -> Tensor:
    """Which keys a query sees, [B,1,T,S] or [T,S]."""
    allowed = at_T[:, None] >= at_S if kwargs.get("causal", True) else torch.ones_like(at_T[:, None] + at_S).bool()
    if (window := kwargs.get("window")) is not None:
        allowed = allowed & ((at_T[:, None] - at_S).abs() < window)
    if (padding_BS := kwargs.get("key_padding_mask")) is not None:
        allowed = allowed & padding_BS[:, None, None]
    if (ids_BS := kwargs.get("document_ids")) is not None:
        allowed = allowed & (ids_BS[:, None, at_T, None] == ids_BS[:, None, None])
    return allowed


def _skew(values: Tensor, displacement: Tensor, terms: ScoreTerms) -> Tensor:
    first, last = terms.first_displacement, terms.first_displacement + values.shape[-1] - 1
    index = displacement.clamp(first, last) - first
    at = torch.take_along_dim(values, index.expand(*values.shape[:-1], -1), -1)
    return torch.where((displacement < first) | (displacement > last), 0.0, at) if terms.tail == "zero" else at


def _gate_bias(gates: Tensor, at_T: Tensor, num_keys: int) -> Tensor:
    """c[m] − c[n], [B or 1,H,T,S], summed in float32 as the authors of FoX do."""
    sums = gates.expand(*gates.shape[:2], num_keys).to(torch.promote_types(gates.dtype, torch.float32)).cumsum(-1)
    return sums[..., at_T.clamp_max(num_keys - 1), None] - sums[..., None, :]


def _roundings_of_one(name: str, inputs: Mapping[str, Tensor]) -> float:
    """By how much more than one of its terms a tensor is rounded, where it may be smaller than they are."""
    if name == "out":
        return 0.0
    batch, num_heads, num_queries, _ = inputs["q"].shape
    if name.removeprefix("d") in inputs:
        return 1.0
    if name.startswith("dtemperature."):
        last = max(inputs["k"].shape[2], num_queries)
        return float(inputs["q"].float().norm()) / math.sqrt(num_heads) * math.log(last + 1)
    return math.sqrt(batch * num_queries)


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _distance(x: Tensor, truth: Tensor) -> float:
    return float((x.double() - truth).abs().max())
