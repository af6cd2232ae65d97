"""The fused kernels as two opaque operators, for autograd and torch.compile: layout, memory and launches."""

import contextlib
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from wavepos.ops.fused import skew
from wavepos.ops.fused.skew import SkewLayout
from wavepos.ops.strides import rows_adjacent

LOG2_E = math.log2(math.e)


@dataclass(frozen=True, slots=True)
class TileSize:
    """The tile of a kernel, in queries and keys (together at most `skew.GUARD`), and how Triton compiles it."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int

    def options(self, head_dim: int) -> dict[str, int]:
        return {
            "HEAD_DIM": head_dim,
            "BLOCK_M": self.queries,
            "BLOCK_N": self.keys,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }


HALF_TILES = {  # float16 and bfloat16, by kernel and head_dim
    ("forward", 64): TileSize(128, 64, 4, 3),
    ("forward", 128): TileSize(128, 64, 8, 3),
    ("dq", 64): TileSize(128, 64, 8, 2),
    ("dq", 128): TileSize(128, 64, 8, 2),
    ("dkdv", 64): TileSize(64, 128, 8, 2),
    ("dkdv", 128): TileSize(64, 128, 8, 2),
}
FLOAT32_TILES = {64: TileSize(32, 32, 4, 1), 128: TileSize(32, 32, 8, 1)}  # also under Triton's interpreter


@dataclass(frozen=True, slots=True)
class Form:
    """What a call's kernels are compiled and laid out for.

    Attributes:
        query_offset: position of the first query.
        causal: keys ahead of their query are hidden.
        window: only keys less far away are seen; 0: all.
        ahead: the entries of table or bias before displacement 0.
        held: the first entry holds for all keys further ahead; else zero.
        softmax_scale: on every part of a score.
    """

    query_offset: int
    causal: bool
    window: int
    ahead: int
    held: bool
    softmax_scale: float

    def layout(self, q: Tensor, table: Tensor | None, bias: Tensor | None) -> SkewLayout:
        length = table.shape[0] if table is not None else 0 if bias is None else bias.shape[1]
        return SkewLayout(
            reach=length - self.ahead, num_queries=q.shape[2], query_offset=self.query_offset, ahead=self.ahead
        )

    def numbers(self, q: Tensor, k: Tensor, layout: SkewLayout, sums: Tensor | None) -> tuple[int, ...]:
        num_heads = q.shape[1]
        return (
            *(num_heads, num_heads // k.shape[1]),
            *(self.query_offset, q.shape[2], k.shape[2], layout.reach, layout.ahead - self.held, self.window),
            *(layout.rows, layout.pitch, layout.key_column, 0 if sums is None else sums.shape[2]),
        )

    def switches(
        self, table: Tensor | None, bias: Tensor | None, sums: Tensor | None, documents: Tensor | None
    ) -> dict[str, Any]:
        kernels = load_kernels()
        term = kernels.TABLE if table is not None else kernels.NOTHING if bias is None else kernels.BIAS
        front = kernels.HIDDEN if self.causal else kernels.HELD if self.held else kernels.ZERO
        return {
            "TERM": term.value,
            "DOCUMENTS": documents is not None,
            "FRONT": front.value,
            "WINDOW": self.window > 0,
            "GATES": sums is not None,
        }


def load_kernels() -> ModuleType:
    """The module of the kernels; ImportError where triton is not installed."""
    try:
        from wavepos.ops.fused import kernels
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "triton":
            raise
        raise ImportError("backend='triton' needs the package triton: pip install triton") from error
    return kernels


@torch.library.custom_op("wavepos::triton_attention", mutates_args=())
def forward_operator(  # noqa: PLR0913 - an operator takes tensors and numbers only
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None,
    table: Tensor | None,
    bias: Tensor | None,
    sums: Tensor | None,
    documents: Tensor | None,
    query_offset: int,
    causal: bool,
    window: int,
    ahead: int,
    held: bool,
    softmax_scale: float,
) -> tuple[Tensor, Tensor]:
    """out and lse, float32 and to base 2. The bias is float32 and divided by softmax_scale; the rest is `Form`'s.

    `sums`: c, those of the gates at every position up to the last query's or key's, [B,H,P].
    """
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    form = Form(query_offset, causal, window, ahead, held, softmax_scale)
    layout = form.layout(q, table, bias)
    term = _term(r, table, bias, layout)
    tile = _tile_size("forward", q)
    _launch(
        load_kernels().forward_kernel,
        (q, tile.queries),
        (q, k, v, out, lse, _or(term, q), _or(documents, q), _or(_in_two_parts(sums, softmax_scale), q)),
        (*_strides(q, k, v, out), *form.numbers(q, k, layout, sums), softmax_scale * LOG2_E),
        {**form.switches(table, bias, sums, documents), **tile.options(q.shape[3])},
    )
    return out, lse


@forward_operator.register_fake
def _forward_fake(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("wavepos::triton_attention_backward", mutates_args=())
def backward_operator(  # noqa: PLR0913 - an operator takes tensors and numbers only
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None,
    table: Tensor | None,
    bias: Tensor | None,
    sums: Tensor | None,
    documents: Tensor | None,
    out: Tensor,
    lse: Tensor,
    query_offset: int,
    causal: bool,
    window: int,
    ahead: int,
    held: bool,
    softmax_scale: float,
    needs_dterm: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dq, dk, dv, dr, the gradient of the table or the bias, and that of c; the last three are empty without them."""
    dq, dk, dv = torch.empty_like(q), k.new_empty(k.shape), v.new_empty(v.shape)
    form = Form(query_offset, causal, window, ahead, held, softmax_scale)
    layout = form.layout(q, table, bias)
    term = dlogits = _term(r, table, bias, layout)
    if bias is not None:
        dlogits = q.new_zeros(q.shape[0], q.shape[1], layout.rows, layout.pitch) if needs_dterm else None
    delta = torch.empty_like(lse)
    of_queries = None if sums is None else torch.empty_like(lse)
    of_keys = None if sums is None else lse.new_empty(*q.shape[:2], k.shape[2])
    parts = _in_two_parts(sums, softmax_scale)
    inputs = (q, k, v, grad, lse, delta)
    numbers = (*form.numbers(q, k, layout, sums), softmax_scale, softmax_scale * LOG2_E)
    switches = form.switches(table, bias, sums, documents)
    kernels, for_dq, for_dkdv = load_kernels(), _tile_size("dq", q), _tile_size("dkdv", q)
    options = {"HEAD_DIM": q.shape[3], "BLOCK_M": for_dq.queries}
    _launch(
        kernels.delta_kernel, (q, for_dq.queries), (out, grad, delta), (*_strides(out, grad), *q.shape[1:3]), options
    )
    _launch(  # before dq's kernel, which overwrites the logits
        kernels.dkdv_kernel,
        (k, for_dkdv.keys),
        (*inputs, dk, dv, _or(of_keys, q), _or(term, q), _or(documents, q), _or(parts, q)),
        (*_strides(q, k, v, grad, dk), *numbers),
        {**switches, **for_dkdv.options(q.shape[3])},
    )
    _launch(
        kernels.dq_kernel,
        (q, for_dq.queries),
        (*inputs, dq, _or(of_queries, q), _or(term, q), _or(dlogits, q), _or(documents, q), _or(parts, q)),
        (*_strides(q, k, v, grad, dq), *numbers),
        {**switches, "DLOGITS": dlogits is not None, **for_dq.options(q.shape[3])},
    )
    dr, dterm = _term_gradients(dlogits, q, r, table, layout, needs_dterm)
    return dq, dk, dv, dr, dterm, _sums_gradient(sums, of_queries, of_keys, query_offset, q)


@backward_operator.register_fake
def _backward_fake(
    _: Tensor, q: Tensor, k: Tensor, v: Tensor, r: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    table, bias, sums, needs_dterm = rest[0], rest[1], rest[2], rest[-1]
    term = table if bias is None else bias
    dterm_shape = (0,) if term is None or not needs_dterm else term.shape
    return (
        torch.empty_like(q),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        q.new_empty(0, dtype=torch.float32) if r is None else q.new_empty(r.shape),
        q.new_empty(dterm_shape, dtype=torch.float32),
        q.new_empty(0, dtype=torch.float32) if sums is None else sums.new_empty(sums.shape),
    )


def _in_two_parts(sums_BHP: Tensor | None, softmax_scale: float) -> Tensor | None:
    """c / softmax_scale as a sum of two float32 numbers, [B,H,2,P]; the low ones hold what the high ones round off."""
    if sums_BHP is None:
        return None
    raw = sums_BHP / softmax_scale
    high = raw.float()
    return torch.stack([high, (raw - high).float()], 2)


def _sums_gradient(
    sums: Tensor | None, of_queries: Tensor | None, of_keys: Tensor | None, query_offset: int, q: Tensor
) -> Tensor:
    """The gradient of c[m] − c[n]: the sum of a query's dS to c[m], that of a key's from c[n].

    A query's is zero but for rounding. Without it, rounding would count once per key that a gate's sum runs over.
    """
    if sums is None or of_queries is None or of_keys is None:
        return q.new_empty(0, dtype=torch.float32)
    dsums = torch.zeros_like(sums, memory_format=torch.contiguous_format)
    dsums[..., query_offset : query_offset + of_queries.shape[2]] += of_queries
    dsums[..., : of_keys.shape[2]] -= of_keys
    return dsums


def _term_gradients(
    dlogits: Tensor | None,
    q: Tensor,
    r: Tensor | None,
    table: Tensor | None,
    layout: SkewLayout,
    needs_dterm: bool,
) -> tuple[Tensor, Tensor]:
    """dr and the gradient of the table or the bias, from that of the relative logits."""
    dr, dterm = (q.new_empty(0, dtype=torch.float32) for _ in range(2))
    if dlogits is None:
        return dr, dterm
    if r is None or table is None:
        return dr, skew.grad_bias(dlogits, layout)
    if needs_dterm:
        dterm = skew.grad_table(dlogits, r, layout)
    return skew.grad_r(dlogits, table, layout, r.shape), dterm


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:8], *output)
    ctx.settings = inputs[8:]


def _differentiate(ctx: Any, grad: Tensor, _: object) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    grads = backward_operator(rows_adjacent(grad), *ctx.saved_tensors, *ctx.settings, needs[4] or needs[5])
    dr, dterm, dsums = grads[3:]
    given = (dr, dterm, dterm, dsums)
    return *grads[:3], *(x if needed else None for x, needed in zip(given, needs[3:7], strict=True)), *(None,) * 7


forward_operator.register_autograd(_differentiate, setup_context=_save)


def _term(r: Tensor | None, table: Tensor | None, bias: Tensor | None, layout: SkewLayout) -> Tensor | None:
    """What the kernel reads the term from."""
    if r is None or table is None:
        return None if bias is None else bias.contiguous()
    return skew.relative_logits(r, table, layout)


def _tile_size(kernel: str, q: Tensor) -> TileSize:
    if q.dtype == torch.float32 or not q.is_cuda:
        return FLOAT32_TILES[q.shape[3]]
    return HALF_TILES[kernel, q.shape[3]]


def _launch(
    kernel: Any,
    rows: tuple[Tensor, int],
    tensors: tuple[Tensor, ...],
    numbers: tuple[float, ...],
    options: dict[str, Any],
) -> None:
    """Run one program for every so many rows of a tensor [B,·,length,D]."""
    x, block = rows
    programs = x.shape[0] * x.shape[1] * -(-x.shape[2] // block)
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        kernel[(programs,)](*tensors, *numbers, **options)


def _or(x: Tensor | None, unused: Tensor) -> Tensor:
    """A kernel takes a pointer also where it reads none."""
    return unused if x is None else x


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(stride for tensor in tensors for stride in tensor.stride()[:3])
