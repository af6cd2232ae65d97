"""The fused kernel: flash attention with a relative term, forward and backward, in Triton (`kernels.py`).

The term r_m·p(δ) of the table's R displacements is computed before the kernel by matrix products (`skew.py`) and read
by it in aligned tiles; a bias b[h,δ] is read from its [H,R] table. Keys beyond either end need neither: their tiles are
plain flash attention; ahead of the table its first entry may hold. Tiles outside of a window are left out. Of gates a
tile reads their sums c at its queries and keys, and takes them as differences that are exact to float32's rounding
however long the sequence (`kernels.py`). The backward pass makes these logits again and writes
their gradient over them, each entry once and without atomics, so it is deterministic; matrix products turn it into the
gradients of r and the table.
"""

import torch
from torch import Tensor

from wavepos.ops.call import TABLE_TERMS, Call, Implementation
from wavepos.ops.derivatives import refuse_forward_mode, refuse_function_transforms
from wavepos.ops.fused.operator import forward_operator, load_kernels
from wavepos.ops.gates import position_sums
from wavepos.ops.mask import Mask
from wavepos.ops.strides import rows_adjacent


def _attention(call: Call) -> Tensor:
    """softmax(softmax_scale · q·k + relative_scale · r·p(δ) + b + c) v by the fused kernel, [B,H,T,D] in q's dtype.

    Memory beside inputs and outputs: with a table B·H·T·(R + 16 … 46) entries of q's dtype while a pass runs; with a
    bias that needs a gradient the same in the backward pass. R counts displacements that the call has.
    """
    refuse_forward_mode("triton", *call.tensors())
    refuse_function_transforms("triton", *call.tensors())
    terms, documents = call.terms, call.mask.document_ids_BS
    table, bias, ahead, held = _fitted(call)
    if table is not None and terms.relative_scale is not None:  # the kernel applies softmax_scale to all of a score
        table = table * (terms.relative_scale / call.softmax_scale)
    out: Tensor
    out, _ = forward_operator(
        rows_adjacent(terms.q_BHTD),
        rows_adjacent(terms.k_BGSD),
        rows_adjacent(call.v_BGSD),
        None if terms.r_BHTE is None else terms.r_BHTE.to(terms.q_BHTD.dtype),
        table,
        None if bias is None else bias.float() / call.softmax_scale,
        None if terms.gates_BHS is None else position_sums(terms.gates_BHS, call.mask, terms.q_BHTD.shape[0]),
        None if documents is None else _document_ends(documents),
        call.mask.query_offset,
        call.mask.causal,
        _window(call.mask),
        ahead,
        held,
        call.softmax_scale,
    )
    return out


def _window(mask: Mask) -> int:
    """0 where there is none, or all lies inside: positions and windows then add up to no more than an int32 holds."""
    farthest = max(mask.query_offset + mask.num_queries, mask.num_keys)
    return 0 if mask.window is None or mask.window >= farthest else mask.window


def _fitted(call: Call) -> tuple[Tensor | None, Tensor | None, int, bool]:
    """The table [R,E], the bias [H,R], their entries before displacement 0, and whether the first holds ahead of it.

    Both have the call's displacements only, and zero holds beyond the last, as `Call.without_tail` makes it.
    """
    terms, (lowest, highest) = call.terms, call.mask.displacements()
    table = None if terms.table is None else call.without_tail(terms.table[None])
    bias = None if terms.bias_HR is None else call.without_tail(terms.bias_HR)
    if table is None and bias is None:
        return None, None, 0, False
    first = terms.first_displacement
    start = max(0, lowest - first)
    table, bias = (None if x is None else x[:, start : highest - first + 1] for x in (table, bias))
    held = terms.tail == "clamp" and lowest < first
    return None if table is None else table[0], bias, -first - start, held


def _limits(call: Call) -> str | None:
    """Why the kernel cannot compute this call; ImportError where triton is not installed."""
    terms, mask = call.terms, call.mask
    q, table, bias = terms.q_BHTD, terms.table, terms.bias_HR
    interpreted = load_kernels().INTERPRETED
    dtypes = (torch.float32, torch.float16) if interpreted else (torch.float32, torch.float16, torch.bfloat16)
    refusals = {
        f"needs CUDA tensors, got {q.device}": not q.is_cuda and not interpreted,
        f"serves {', '.join(map(str, dtypes))}, got {q.dtype}": q.dtype not in dtypes,
        f"serves head_dim 64 and 128, got {q.shape[-1]}": q.shape[-1] not in (64, 128),
        "does not serve key_padding_mask": mask.key_padding_BS is not None,
        f"does not serve dropout, got {call.dropout}": call.dropout > 0.0,
        "serves one of a table and a bias, not both in one call": table is not None and bias is not None,
        "serves one table for all heads, not one per head": table is not None and table.dim() != 2,
        "does not serve a table that covers every displacement: its memory would grow as T·S": (
            table is not None and terms.tail == "none" and not _window(mask)
        ),
        "does not serve the gradient of a bias that covers every displacement: its memory would grow as T·S": (
            bias is not None and bias.requires_grad and terms.tail == "none" and not _window(mask)
        ),
    }
    return next((f"{TRITON.label} {refusal}" for refusal, holds in refusals.items() if holds), None)


TRITON = Implementation(
    label="backend='triton'",
    serves=TABLE_TERMS | {"first_displacement", "gates_BHS"},
    limits=_limits,
    compute=_attention,
)


def _document_ends(ids_BS: Tensor) -> Tensor:
    """The first and the last key of every key's document, int32 [B,2,S]; a document need not be one run of keys."""
    ordered, order = ids_BS.sort(dim=1, stable=True)
    place = torch.arange(ids_BS.shape[1], device=ids_BS.device).expand_as(order)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first_of_ordered = order.gather(1, torch.where(begins, place, 0).cummax(1).values)
    first = torch.empty_like(order).scatter_(1, order, first_of_ordered)
    last = torch.zeros_like(first).scatter_reduce_(1, first, place, "amax").gather(1, first)
    return torch.stack([first, last], 1).int()
