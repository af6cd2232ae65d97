"""The yardstick: errors against the reference in float64, held to twice those of dense attention in the same precision.

One helper for every backend, position and gradient. `measure` gives the errors, `assert_within` judges them.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wavepos import attention
from wavepos.ops.mask import Mask
from wavepos.positions import LearnedRelative, Position, ScoreTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One attention call. Inputs are drawn from the seed in float64 and rounded to the dtype first."""

    batch: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    num_queries: int = 37
    num_keys: int = 37
    head_dim: int = 16
    query_offset: int = 0
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
        """What the position reads beside q and k, if it does."""
        if not isinstance(position, LearnedRelative):
            return None
        shape = (self.batch, self.num_heads, self.num_queries, position.config.relative_dim)
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.device, self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """Largest absolute errors of one tensor, and the size of what it is rounded from.

    A gradient of q or k is a difference, of dO·v and its mean over the keys: its rounding follows their size, not its
    own, which is zero where a query sees one key. So the size of a gradient is at least that of the one that arrives.
    A learned parameter's is a sum of such differences over B·T queries, each rounded by itself. In the dense form the
    roundings of one query cancel, for it subtracts the mean of the very numbers that it holds; where the mean comes
    from the output, as in every fused kernel, they add up as a random walk does, to √(B·T) times those of one.
    """

    name: str
    backend: float
    dense: float
    magnitude: float
    dtype: torch.dtype

    @property
    def bound(self) -> float:
        # in float64 the truth is rounded as well, and the dense form in the truth's own order: its error says nothing
        roundings = 8.0 if self.dtype == torch.float64 else 4.0
        return 2.0 * self.dense + roundings * torch.finfo(self.dtype).eps * self.magnitude

    def __str__(self) -> str:
        return f"{self.name}: {self.backend:.2e}, dense {self.dense:.2e}, bound {self.bound:.2e}"


def measure(position: Position, case: Case, backend: str, **kwargs: Any) -> list[Error]:
    """Errors of the output and of the gradients of q, k, v and every learned parameter."""
    q, k, v, grad = case.inputs()
    kwargs = {"query_offset": case.query_offset, **kwargs}
    position = position.to(case.device)
    inputs = {"q": q, "k": k, "v": v}
    states = case.relative_states(position)
    if states is not None:
        inputs["relative_states"] = states
    in_double = {name: x.double() for name, x in inputs.items()}
    truth = _run(_reference, copy.deepcopy(position).double(), in_double, grad.double(), kwargs)
    dense = _run(_dense, copy.deepcopy(position), inputs, grad, kwargs)
    ours = _run(_backend(backend), copy.deepcopy(position), inputs, grad, kwargs)
    return [
        Error(
            name=name,
            backend=_distance(ours[name], value),
            dense=_distance(dense[name], value),
            magnitude=max(float(value.abs().max()), float(grad.abs().max()) * _roundings_of_one(name, inputs, case)),
            dtype=case.dtype,
        )
        for name, value in truth.items()
    ]


def assert_within(position: Position, case: Case, backend: str, **kwargs: Any) -> None:
    """Every error within twice that of dense attention in the same precision, plus rounding."""
    errors = measure(position, case, backend, **kwargs)
    beyond = [str(error) for error in errors if not error.backend <= error.bound]
    assert not beyond, f"{type(position).__name__} on {backend}, {case}: {'; '.join(beyond)}"


def _run(
    call: Any, position: Position, inputs: dict[str, Tensor], grad: Tensor, kwargs: dict[str, Any]
) -> dict[str, Tensor]:
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    out = call(position, leaves, kwargs)
    out.backward(grad)
    grads = {f"d{name}": x.grad for name, x in leaves.items()}
    learned = {f"d{name}": x.grad for name, x in position.named_parameters()}
    return {"out": out.detach(), **grads, **learned}


def _reference(position: Position, inputs: dict[str, Tensor], kwargs: dict[str, Any]) -> Tensor:
    return attention(**inputs, position=position, backend="reference", **kwargs)


def _backend(name: str) -> Any:
    def call(position: Position, inputs: dict[str, Tensor], kwargs: dict[str, Any]) -> Tensor:
        return attention(**inputs, position=position, backend=name, **kwargs)  # type: ignore[arg-type]

    return call


def _dense(position: Position, inputs: dict[str, Tensor], kwargs: dict[str, Any]) -> Tensor:
    """What a user would write without a kernel: matrix products in q's dtype, softmax in float32."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    mask = Mask(
        num_queries=q.shape[2],
        num_keys=k.shape[2],
        query_offset=kwargs["query_offset"],
        causal=kwargs.get("causal", True),
        key_padding_BS=kwargs.get("key_padding_mask"),
        document_ids_BS=kwargs.get("document_ids"),
    )
    states = {"relative_states_BHTE": inputs["relative_states"]} if "relative_states" in inputs else {}
    terms = position.terms(q, k, q_offset=kwargs["query_offset"], **states)
    repeats = q.shape[1] // k.shape[1]
    keys, values = terms.k_BGSD.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = terms.q_BHTD @ keys.mT
    displacement = mask.displacement_TS(q.device)
    scale = kwargs.get("softmax_scale") or 1.0 / math.sqrt(q.shape[-1])
    if terms.r_BHTE is not None and terms.table is not None:
        relative = _skew(terms.r_BHTE @ terms.table.to(q.dtype).mT, displacement, terms)
        if terms.relative_scale is None:
            scores = (scores + relative) * scale
        else:
            scores = scores * scale + relative * terms.relative_scale
    else:
        scores = scores * scale
    if terms.bias_HR is not None:
        bias = terms.bias_HR.to(q.dtype)[:, None].expand(-1, q.shape[2], -1)
        scores = scores + _skew(bias, displacement, terms)
    allowed = mask.allowed(q.device)
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)) * allowed
    return weights.to(q.dtype) @ values


def _skew(values: Tensor, displacement: Tensor, terms: ScoreTerms) -> Tensor:
    last = values.shape[-1] - 1
    at = torch.take_along_dim(values, displacement.clamp(0, last).expand(*values.shape[:-1], -1), -1)
    return torch.where(displacement > last, 0.0, at) if terms.tail == "zero" else at


def _roundings_of_one(name: str, inputs: dict[str, Tensor], case: Case) -> float:
    """By how much more than one of its terms a tensor is rounded, where it may be smaller than they are."""
    if name == "out":
        return 0.0
    return 1.0 if name.removeprefix("d") in inputs else math.sqrt(case.batch * case.num_queries)


def _distance(x: Tensor, truth: Tensor) -> float:
    return float((x.double() - truth).abs().max())
