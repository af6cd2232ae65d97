"""The fused kernel: flash attention with a relative term, forward and backward, in Triton (`kernels.py`).

The term r_m·p(δ) of the table's R displacements is computed before the kernel by matrix products (`skew.py`) and read
by it in aligned tiles; a bias b[h,δ] is read from its [H,R] table. Keys further back than R need neither: their tiles
are plain flash attention. The backward pass makes these logits again and writes their gradient over them, each entry
once and without atomics, so it is deterministic; matrix products turn it into the gradients of r and the table.
"""

import contextlib
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from wavepos.ops.call import TABLE_TERMS, Call, Implementation
from wavepos.ops.derivatives import refuse_forward_mode, refuse_function_transforms
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


def _attention(call: Call) -> Tensor:
    """softmax(softmax_scale · q·k + relative_scale · r·p(δ) + b) v by the fused kernel, [B,H,T,D] in q's dtype.

    Memory beside inputs and outputs: with a table B·H·T·(R + 16 … 46) entries of q's dtype while a pass runs; with a
    bias that needs a gradient the same in the backward pass.
    """
    refuse_forward_mode("triton", *call.tensors())
    refuse_function_transforms("triton", *call.tensors())
    terms, documents = call.terms, call.mask.document_ids_BS
    table, bias = terms.table, terms.bias_HR
    if table is not None:  # the kernel applies softmax_scale to all of a score
        table = call.without_tail(table[None])[0]
        table = table if terms.relative_scale is None else table * (terms.relative_scale / call.softmax_scale)
    out: Tensor
    out, _ = _forward(
        rows_adjacent(terms.q_BHTD),
        rows_adjacent(terms.k_BGSD),
        rows_adjacent(call.v_BGSD),
        None if terms.r_BHTE is None else terms.r_BHTE.to(terms.q_BHTD.dtype),
        table,
        None if bias is None else call.without_tail(bias).float() / call.softmax_scale,
        None if documents is None else _document_ends(documents),
        call.mask.query_offset,
        call.softmax_scale,
    )
    return out


def _limits(call: Call) -> str | None:
    """Why the kernel cannot compute this call; ImportError where triton is not installed."""
    terms, mask = call.terms, call.mask
    q, table, bias = terms.q_BHTD, terms.table, terms.bias_HR
    interpreted = _kernels().INTERPRETED
    dtypes = (torch.float32, torch.float16) if interpreted else (torch.float32, torch.float16, torch.bfloat16)
    refusals = {
        f"needs CUDA tensors, got {q.device}": not q.is_cuda and not interpreted,
        f"serves {', '.join(map(str, dtypes))}, got {q.dtype}": q.dtype not in dtypes,
        f"serves head_dim 64 and 128, got {q.shape[-1]}": q.shape[-1] not in (64, 128),
        "serves causal=True only": not mask.causal,
        f"does not serve a window, got {mask.window}": mask.window is not None,
        "does not serve key_padding_mask": mask.key_padding_BS is not None,
        f"does not serve dropout, got {call.dropout}": call.dropout > 0.0,
        "serves a table or a bias, not both in one call": table is not None and bias is not None,
        "serves one table for all heads, not one per head": table is not None and table.dim() != 2,
        "does not serve a table that covers every displacement: its memory would grow as T·S": (
            table is not None and terms.tail == "none"
        ),
        "does not serve the gradient of a bias that covers every displacement: its memory would grow as T·S": (
            bias is not None and bias.requires_grad and terms.tail == "none"
        ),
    }
    return next((f"{TRITON.label} {refusal}" for refusal, holds in refusals.items() if holds), None)


TRITON = Implementation(label="backend='triton'", serves=TABLE_TERMS, limits=_limits, compute=_attention)


def _kernels() -> ModuleType:
    try:
        from wavepos.ops.fused import kernels as triton_kernels
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "triton":
            raise
        raise ImportError("backend='triton' needs the package triton: pip install triton") from error
    return triton_kernels


def _document_ends(ids_BS: Tensor) -> Tensor:
    """The first and the last key of every key's document, int32 [2,B,S]; a document need not be one run of keys."""
    ordered, order = ids_BS.sort(dim=1, stable=True)
    place = torch.arange(ids_BS.shape[1], device=ids_BS.device).expand_as(order)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first_of_ordered = order.gather(1, torch.where(begins, place, 0).cummax(1).values)
    first = torch.empty_like(order).scatter_(1, order, first_of_ordered)
    last = torch.zeros_like(first).scatter_reduce_(1, first, place, "amax").gather(1, first)
    return torch.stack([first, last]).int()


@torch.library.custom_op("wavepos::triton_attention", mutates_args=())
def _forward(  # noqa: PLR0913 - an operator takes tensors and numbers only
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None,
    table: Tensor | None,
    bias: Tensor | None,
    documents: Tensor | None,
    query_offset: int,
    softmax_scale: float,
) -> tuple[Tensor, Tensor]:
    """out and lse, float32 and to base 2. The bias is float32 and divided by softmax_scale; zero holds beyond it."""
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    layout = _layout(q, table, bias, query_offset)
    term = _term(r, table, bias, layout)
    tile = _tile_size("forward", q)
    _launch(
        _kernels().forward_kernel,
        (q, tile.queries),
        (q, k, v, out, lse, _or(term, q), _or(documents, q)),
        (*_strides(q, k, v, out), *_lengths(q, k, layout), softmax_scale * LOG2_E),
        {**_switches(table, bias, documents), **tile.options(q.shape[3])},
    )
    return out, lse


@_forward.register_fake
def _forward_fake(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("wavepos::triton_attention_backward", mutates_args=())
def _backward(  # noqa: PLR0913 - an operator takes tensors and numbers only
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None,
    table: Tensor | None,
    bias: Tensor | None,
    documents: Tensor | None,
    out: Tensor,
    lse: Tensor,
    query_offset: int,
    softmax_scale: float,
    needs_dterm: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dq, dk, dv, dr and the gradient of the table or the bias; the last two are empty where there is none."""
    dq, dk, dv = torch.empty_like(q), k.new_empty(k.shape), v.new_empty(v.shape)
    layout = _layout(q, table, bias, query_offset)
    term = dlogits = _term(r, table, bias, layout)
    if bias is not None:
        dlogits = q.new_zeros(q.shape[0], q.shape[1], layout.rows, layout.pitch) if needs_dterm else None
    delta = torch.empty_like(lse)
    first, last = (q, q) if documents is None else documents.unbind()
    inputs = (q, k, v, grad, lse, delta)
    numbers = (*_lengths(q, k, layout), softmax_scale, softmax_scale * LOG2_E)
    switches = _switches(table, bias, documents)
    kernels, for_dq, for_dkdv = _kernels(), _tile_size("dq", q), _tile_size("dkdv", q)
    options = {"HEAD_DIM": q.shape[3], "BLOCK_M": for_dq.queries}
    _launch(
        kernels.delta_kernel, (q, for_dq.queries), (out, grad, delta), (*_strides(out, grad), *q.shape[1:3]), options
    )
    _launch(  # before dq's kernel, which overwrites the logits
        kernels.dkdv_kernel,
        (k, for_dkdv.keys),
        (*inputs, dk, dv, _or(term, q), first, last),
        (*_strides(q, k, v, grad, dk), *numbers),
        {**switches, **for_dkdv.options(q.shape[3])},
    )
    _launch(
        kernels.dq_kernel,
        (q, for_dq.queries),
        (*inputs, dq, _or(term, q), _or(dlogits, q), first),
        (*_strides(q, k, v, grad, dq), *numbers),
        {**switches, "DLOGITS": dlogits is not None, **for_dq.options(q.shape[3])},
    )
    return dq, dk, dv, *_term_gradients(dlogits, q, r, table, layout, needs_dterm)


@_backward.register_fake
def _backward_fake(
    _: Tensor, q: Tensor, k: Tensor, v: Tensor, r: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    table, bias, needs_dterm = rest[0], rest[1], rest[-1]
    term = table if bias is None else bias
    dterm_shape = (0,) if term is None or not needs_dterm else term.shape
    return (
        torch.empty_like(q),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        q.new_empty(0, dtype=torch.float32) if r is None else q.new_empty(r.shape),
        q.new_empty(dterm_shape, dtype=torch.float32),
    )


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
    ctx.save_for_backward(*inputs[:7], *output)
    ctx.settings = inputs[7:]


def _differentiate(ctx: Any, grad: Tensor, _: object) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    grads = _backward(rows_adjacent(grad), *ctx.saved_tensors, *ctx.settings, needs[4] or needs[5])
    dr, dterm = (grads[3] if needs[3] else None), grads[4]
    return *grads[:3], dr, dterm if needs[4] else None, dterm if needs[5] else None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def _layout(q: Tensor, table: Tensor | None, bias: Tensor | None, query_offset: int) -> SkewLayout:
    reach = table.shape[0] if table is not None else 0 if bias is None else bias.shape[1]
    return SkewLayout(reach=reach, num_queries=q.shape[2], query_offset=query_offset)


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


def _lengths(q: Tensor, k: Tensor, layout: SkewLayout) -> tuple[int, ...]:
    num_heads = q.shape[1]
    return (
        *(num_heads, num_heads // k.shape[1]),
        *(layout.query_offset, layout.num_queries, k.shape[2], layout.reach),
        *(layout.rows, layout.pitch, layout.key_column),
    )


def _switches(table: Tensor | None, bias: Tensor | None, documents: Tensor | None) -> dict[str, Any]:
    kernels = _kernels()
    term = kernels.TABLE if table is not None else kernels.NOTHING if bias is None else kernels.BIAS
    return {"TERM": term.value, "DOCUMENTS": documents is not None}
