"""The Triton kernels of `backend.py`, which says what they compute and launches them.

The key loop of a block of queries runs in five parts that never test what cannot happen in them:

    first key seen … FAR … EDGE of the table … BAND … DIAGONAL … AHEAD of the table … last key seen

In DIAGONAL lie the table's other edge, which in causal attention is the diagonal, and the last keys; there is no AHEAD
then. Blocks of keys that no query of the block sees, for a window or for documents, are left out of the loop.

Names: i rows of queries (at position query_offset + i), n keys, `row` where the term of a row lies, `shape` the tuple
(query_offset, num_queries, num_keys, reach, ahead, window): the table holds displacements −ahead … reach − 1, and with
HELD one more before them; `logits` the tuple (rows, pitch, key_column) of `skew.SkewLayout`. Scores are raw:
softmax_scale is not applied yet. Exponentials have base 2.

The sums of gates are float32 in two parts, high + low = c / softmax_scale, the low ones num_positions after the high
ones. Their difference rounds as what it is, however large both are, for that of the high parts is exact where they are
near each other. Outside of DIAGONAL it is taken by way of the block's first query, behind which no key stands: two
numbers of one sign, one per query and one per key.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
# (Triton compiles the kernels: their arguments are no Python values)
# ruff: noqa: PLR0913 - a kernel takes every pointer and length by itself

import triton
import triton.language as tl

from wavepos.ops.fused import skew

INTERPRETED = bool(triton.knobs.runtime.interpret)  # as it stands when the kernels below are decorated
SKEW = tl.constexpr(skew.SKEW)
UNSEEN = tl.constexpr(-1e30)  # the score of a key that is not seen; finite, for −inf − −inf would be NaN

# no compilation of their own for 1 and multiples of 16
LENGTHS = ("query_offset", "num_queries", "num_keys", "reach", "ahead", "window", "num_positions")

# The term of a call
NOTHING = tl.constexpr(0)
TABLE = tl.constexpr(1)
BIAS = tl.constexpr(2)

# What keys ahead of the table get
HIDDEN = tl.constexpr(0)  # causal attention, ahead = 0
ZERO = tl.constexpr(1)
HELD = tl.constexpr(2)  # the table's first entry

# The parts of the key loop, in its order
FAR = tl.constexpr(0)
EDGE = tl.constexpr(1)
BAND = tl.constexpr(2)
DIAGONAL = tl.constexpr(3)
AHEAD = tl.constexpr(4)


@triton.jit
def _find_term(term_ptr, first_row, i, batch_head, head, shape, logits, TERM: tl.constexpr, FRONT: tl.constexpr):
    """Where the term of the rows i = first_row … lies: key n of a row stands n after `row` (TABLE) or n before."""
    query_offset, _, _, reach, ahead, _ = shape
    rows, pitch, key_column = logits
    if TERM == BIAS:
        entries_ahead = ahead
        if FRONT == HELD:
            entries_ahead += 1
        term_ptr += head.to(tl.int64) * (entries_ahead + reach)
        row = query_offset + i + entries_ahead
    else:
        term_ptr += (batch_head.to(tl.int64) * rows + first_row) * pitch
        row = (i - first_row) * pitch - i // SKEW * SKEW + key_column
    return term_ptr, row


@triton.jit
def _load_term(term_ptr, row, n, mask, TERM: tl.constexpr):
    place = row + n
    if TERM == BIAS:
        place = row - n
    return tl.load(term_ptr + place, mask=mask, other=0.0)


@triton.jit
def _load_tile_term(term_ptr, row, i, n, shape, PART: tl.constexpr, TERM: tl.constexpr, FRONT: tl.constexpr):
    """The term of a tile, for `_raw_scores`: on the table's EDGE anything outside of it.

    Here and in `_raw_scores` what belongs to queries (i, row, document_q) comes broadcast along one axis of the
    tile and what belongs to keys (n, document_k) along the other; which is which does not matter.
    """
    query_offset, num_queries, _, reach, ahead, _ = shape
    term = 0.0
    if TERM != NOTHING and PART != FAR and (PART != AHEAD or FRONT == HELD):
        displacement = query_offset + i - n
        inside = i < num_queries
        if PART == EDGE and TERM == BIAS:  # (logits are read past their edge, 16 bytes at a time)
            inside = inside & (displacement < reach)
        if PART == DIAGONAL:
            inside = inside & (displacement < reach)
            if FRONT == HELD:
                n = tl.minimum(n, query_offset + i + ahead + 1)
            else:
                inside = inside & (displacement >= -ahead)
        if PART == AHEAD:
            n = query_offset + i + ahead + 1
        term = _load_term(term_ptr, row, n, inside, TERM)
    return term


@triton.jit
def _load_sums(sums_ptr, position, mask, num_positions, GATES: tl.constexpr):
    """c of some positions in two parts; without gates anything."""
    high, low = position, position
    if GATES:
        high = tl.load(sums_ptr + position, mask=mask, other=0.0)
        low = tl.load(sums_ptr + num_positions + position, mask=mask, other=0.0)
    return high, low


@triton.jit
def _gate_differences(own_high, own_low, key_high, key_low, first, PART: tl.constexpr, GATES: tl.constexpr):
    """c[m] − c[n] of a tile; `first`: c of the block's first query."""
    difference = 0.0
    if GATES and PART == DIAGONAL:
        difference = (own_high - key_high) + (own_low - key_low)
    elif GATES:
        own = (own_high - first[0]) + (own_low - first[1])
        difference = own + ((first[0] - key_high) + (first[1] - key_low))
    return difference


@triton.jit
def _raw_scores(
    scores, term, gate, i, n, document_q, document_k, shape,
    PART: tl.constexpr, TERM: tl.constexpr, DOCUMENTS: tl.constexpr, FRONT: tl.constexpr, WINDOW: tl.constexpr,
    GATES: tl.constexpr,
):  # fmt: skip
    """q·k plus term and gates, UNSEEN where the mask forbids."""
    query_offset, _, num_keys, reach, _, window = shape
    displacement = query_offset + i - n
    if TERM != NOTHING and PART != FAR and (PART != AHEAD or FRONT == HELD):
        term = term.to(tl.float32)
        if PART == EDGE:
            term = tl.where(displacement >= reach, 0.0, term)
        scores += term
    if GATES:
        scores += gate
    if PART >= DIAGONAL:
        scores = tl.where(n < num_keys, scores, UNSEEN)
    if PART == DIAGONAL and FRONT == HIDDEN:
        scores = tl.where(displacement >= 0, scores, UNSEEN)
    if WINDOW and PART != BAND:  # it holds the table
        if PART != AHEAD:
            scores = tl.where(displacement < window, scores, UNSEEN)
        if FRONT != HIDDEN and PART >= DIAGONAL:
            scores = tl.where(displacement > -window, scores, UNSEEN)
    if DOCUMENTS:
        scores = tl.where(document_q == document_k, scores, UNSEEN)
    return scores


@triton.jit
def _load_rows(ptr, first, stride, num_rows, LENGTH: tl.constexpr, WIDTH: tl.constexpr, CHECK: tl.constexpr):
    """LENGTH rows from `first` on of a matrix of that width; with CHECK, zeros past its end."""
    local = tl.arange(0, LENGTH)[:, None]
    places = ptr + tl.cast(first, tl.int64) * stride + (local * stride + tl.arange(0, WIDTH)[None, :])
    mask = local < num_rows - first if CHECK else None
    return tl.load(places, mask=mask, other=0.0 if CHECK else None)


@triton.jit
def _store_rows(ptr, first, stride, num_rows, values, LENGTH: tl.constexpr, WIDTH: tl.constexpr):
    local = tl.arange(0, LENGTH)[:, None]
    places = ptr + tl.cast(first, tl.int64) * stride + (local * stride + tl.arange(0, WIDTH)[None, :])
    tl.store(places, values.to(ptr.dtype.element_ty), mask=local < num_rows - first)


@triton.jit
def _query_documents(document_ptr, i, shape, DOCUMENTS: tl.constexpr):
    """The documents of queries i, each named by its first key, the earliest of those and the last key of them all."""
    query_offset, num_queries, num_keys = shape[0], shape[1], shape[2]
    document_q = i
    first, last = 0, num_keys - 1
    if DOCUMENTS:
        document_q = tl.load(document_ptr + query_offset + i, mask=i < num_queries, other=num_keys)
        first = tl.min(document_q, 0)
        last = tl.max(tl.load(document_ptr + num_keys + query_offset + i, mask=i < num_queries, other=0), 0)
    return document_q, first, last


@triton.jit
def _key_parts(
    first_row, first_key, last_key, shape,
    DOCUMENTS: tl.constexpr, FRONT: tl.constexpr, WINDOW: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Where the parts of the key loop begin, and the end, for the queries from first_row on.

    first_key and last_key: of the queries' documents.
    """
    query_offset, num_queries, num_keys, reach, ahead, window = shape
    position = query_offset + first_row
    past = tl.minimum(position + BLOCK_M, query_offset + num_queries)  # the position behind the last query's
    start, end = first_key, num_keys
    if FRONT == HIDDEN:
        end = tl.minimum(end, past)
    elif DOCUMENTS:
        end = tl.minimum(end, last_key + 1)
    if WINDOW:
        start = tl.maximum(start, position - window + 1)
        if FRONT != HIDDEN:
            end = tl.minimum(end, past + window - 1)
    start = start // BLOCK_N * BLOCK_N
    end = tl.maximum(end, start)
    whole = num_keys // BLOCK_N * BLOCK_N
    edge = tl.minimum(tl.maximum(position - reach + 1, 0) // BLOCK_N * BLOCK_N, whole)
    diagonal = tl.minimum((position + ahead + 1) // BLOCK_N * BLOCK_N, whole)
    band = tl.minimum(tl.cdiv(tl.maximum(position + BLOCK_M - reach, 0), BLOCK_N) * BLOCK_N, diagonal)
    beyond = end
    if FRONT != HIDDEN:
        beyond = tl.minimum(tl.maximum(tl.cdiv(position + BLOCK_M + ahead, BLOCK_N) * BLOCK_N, start), end)
    edge = tl.minimum(tl.maximum(edge, start), end)
    band = tl.minimum(tl.maximum(band, start), end)
    diagonal = tl.minimum(tl.maximum(diagonal, start), end)
    return start, edge, band, diagonal, beyond, end


@triton.jit
def _forward_tiles(
    acc, total, peak, q, i, row, document_q, own_sums, first_sums,
    k_ptr, v_ptr, term_ptr, document_ptr, sums_ptr, stride_kn, stride_vn,
    start, end, shape, num_positions, exponent_scale,
    PART: tl.constexpr, TERM: tl.constexpr, DOCUMENTS: tl.constexpr, FRONT: tl.constexpr, WINDOW: tl.constexpr,
    GATES: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    num_keys = shape[2]
    for first_key in range(start, end, BLOCK_N):
        first_key = tl.multiple_of(first_key, BLOCK_N)
        n = first_key + tl.arange(0, BLOCK_N)
        k = _load_rows(k_ptr, first_key, stride_kn, num_keys, BLOCK_N, HEAD_DIM, PART >= DIAGONAL)
        term = _load_tile_term(term_ptr, row[:, None], i[:, None], n[None, :], shape, PART, TERM, FRONT)
        document_k = n
        if DOCUMENTS:
            document_k = tl.load(document_ptr + n, mask=n < num_keys, other=-1)
        high, low = _load_sums(sums_ptr, n, n < num_keys, num_positions, GATES)
        gate = _gate_differences(
            own_sums[0][:, None], own_sums[1][:, None], high[None, :], low[None, :], first_sums, PART, GATES
        )
        scores = _raw_scores(
            tl.dot(q, tl.trans(k), input_precision="ieee"), term, gate, i[:, None], n[None, :],
            document_q[:, None], document_k[None, :], shape, PART, TERM, DOCUMENTS, FRONT, WINDOW, GATES,
        )  # fmt: skip
        new_peak = tl.maximum(peak, tl.max(scores, 1) * exponent_scale)
        weights = tl.exp2(scores * exponent_scale - new_peak[:, None])
        shrink = tl.exp2(peak - new_peak)
        total = total * shrink + tl.sum(weights, 1)
        v = _load_rows(v_ptr, first_key, stride_vn, num_keys, BLOCK_N, HEAD_DIM, PART >= DIAGONAL)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        peak = new_peak
    return acc, total, peak


@triton.jit(do_not_specialize=LENGTHS)
def forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, term_ptr, document_ptr, sums_ptr,
    stride_qb, stride_qh, stride_qm, stride_kb, stride_kh, stride_kn,
    stride_vb, stride_vh, stride_vn, stride_ob, stride_oh, stride_om,
    num_heads, group_size, query_offset, num_queries, num_keys, reach, ahead, window,
    logits_rows, logits_pitch, key_column, num_positions,
    exponent_scale,
    TERM: tl.constexpr, DOCUMENTS: tl.constexpr, FRONT: tl.constexpr, WINDOW: tl.constexpr, GATES: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out [B,H,T,D] and lse [B,H,T], the logarithm to base 2 of the softmax's denominator."""
    shape = (query_offset, num_queries, num_keys, reach, ahead, window)
    num_blocks = tl.cdiv(num_queries, BLOCK_M)
    batch_head = tl.program_id(0) // num_blocks
    first_row = (num_blocks - 1 - tl.program_id(0) % num_blocks) * BLOCK_M  # the longest loops first
    batch, head = (batch_head // num_heads).to(tl.int64), batch_head % num_heads
    kv_head = (head // group_size).to(tl.int64)
    k_ptr += batch * stride_kb + kv_head * stride_kh
    v_ptr += batch * stride_vb + kv_head * stride_vh
    document_ptr += batch * 2 * num_keys
    i = first_row + tl.arange(0, BLOCK_M)
    q_ptr += batch * stride_qb + head.to(tl.int64) * stride_qh
    q = _load_rows(q_ptr, first_row, stride_qm, num_queries, BLOCK_M, HEAD_DIM, True)
    logits = (logits_rows, logits_pitch, key_column)
    term_ptr, row = _find_term(term_ptr, first_row, i, batch_head, head, shape, logits, TERM, FRONT)
    document_q, first_key, last_key = _query_documents(document_ptr, i, shape, DOCUMENTS)
    sums_ptr += batch_head.to(tl.int64) * 2 * num_positions
    own_sums = _load_sums(sums_ptr, query_offset + i, i < num_queries, num_positions, GATES)
    first_sums = _load_sums(sums_ptr, query_offset + first_row, first_row < num_queries, num_positions, GATES)
    parts = _key_parts(first_row, first_key, last_key, shape, DOCUMENTS, FRONT, WINDOW, BLOCK_M, BLOCK_N)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for part in tl.static_range(5):
        if (TERM != NOTHING or (part != EDGE and part != BAND)) and (FRONT != HIDDEN or part != AHEAD):
            acc, total, peak = _forward_tiles(
                acc, total, peak, q, i, row, document_q, own_sums, first_sums,
                k_ptr, v_ptr, term_ptr, document_ptr, sums_ptr, stride_kn, stride_vn,
                parts[part], parts[part + 1], shape, num_positions, exponent_scale,
                part, TERM, DOCUMENTS, FRONT, WINDOW, GATES, HEAD_DIM, BLOCK_N,
            )  # fmt: skip
    out_ptr += batch * stride_ob + head.to(tl.int64) * stride_oh
    seen = peak > 0.5 * UNSEEN * exponent_scale
    if WINDOW:  # a query far behind the last key may see none: zero, and in the backward pass no weight
        acc, total = tl.where(seen[:, None], acc, 0.0), tl.where(seen, total, 1.0)
    lse = peak + tl.log2(total)
    if WINDOW:
        lse = tl.where(seen, lse, float("inf"))
    _store_rows(out_ptr, first_row, stride_om, num_queries, acc / total[:, None], BLOCK_M, HEAD_DIM)
    tl.store(lse_ptr + batch_head.to(tl.int64) * num_queries + i, lse, mask=i < num_queries)


@triton.jit(do_not_specialize=LENGTHS)
def delta_kernel(
    out_ptr, grad_ptr, delta_ptr, stride_ob, stride_oh, stride_om, stride_gb, stride_gh, stride_gm,
    num_heads, num_queries, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """delta_m = Σ_d out[m,d]·grad[m,d]."""
    num_blocks = tl.cdiv(num_queries, BLOCK_M)
    batch_head = (tl.program_id(0) // num_blocks).to(tl.int64)
    batch, head = batch_head // num_heads, batch_head % num_heads
    first_row = tl.program_id(0) % num_blocks * BLOCK_M
    i = first_row + tl.arange(0, BLOCK_M)
    out_ptr += batch * stride_ob + head * stride_oh
    grad_ptr += batch * stride_gb + head * stride_gh
    out = _load_rows(out_ptr, first_row, stride_om, num_queries, BLOCK_M, HEAD_DIM, True)
    grad = _load_rows(grad_ptr, first_row, stride_gm, num_queries, BLOCK_M, HEAD_DIM, True)
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    tl.store(delta_ptr + batch_head * num_queries + i, delta, mask=i < num_queries)


@triton.jit
def _dq_tiles(
    dq, dheld, dsums, q, grad, lse, delta, i, row, dlogits_row, document_q, own_sums, first_sums,
    k_ptr, v_ptr, term_ptr, dlogits_ptr, document_ptr, sums_ptr, stride_kn, stride_vn,
    start, end, shape, num_positions, softmax_scale, exponent_scale,
    PART: tl.constexpr, TERM: tl.constexpr, DOCUMENTS: tl.constexpr, FRONT: tl.constexpr, WINDOW: tl.constexpr,
    GATES: tl.constexpr, DLOGITS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    query_offset, num_queries, num_keys, reach, ahead, _ = shape
    for first_key in range(start, end, BLOCK_N):
        first_key = tl.multiple_of(first_key, BLOCK_N)
        n = first_key + tl.arange(0, BLOCK_N)
        k = _load_rows(k_ptr, first_key, stride_kn, num_keys, BLOCK_N, HEAD_DIM, PART >= DIAGONAL)
        term = _load_tile_term(term_ptr, row[:, None], i[:, None], n[None, :], shape, PART, TERM, FRONT)
        v = _load_rows(v_ptr, first_key, stride_vn, num_keys, BLOCK_N, HEAD_DIM, PART >= DIAGONAL)
        document_k = n
        if DOCUMENTS:
            document_k = tl.load(document_ptr + n, mask=n < num_keys, other=-1)
        high, low = _load_sums(sums_ptr, n, n < num_keys, num_positions, GATES)
        gate = _gate_differences(
            own_sums[0][:, None], own_sums[1][:, None], high[None, :], low[None, :], first_sums, PART, GATES
        )
        scores = _raw_scores(
            tl.dot(q, tl.trans(k), input_precision="ieee"), term, gate, i[:, None], n[None, :],
            document_q[:, None], document_k[None, :], shape, PART, TERM, DOCUMENTS, FRONT, WINDOW, GATES,
        )  # fmt: skip
        weights = tl.exp2(scores * exponent_scale - lse[:, None])
        dscores = weights * (tl.dot(grad, tl.trans(v), input_precision="ieee") - delta[:, None])
        dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision="ieee")
        if GATES:
            dsums += tl.sum(dscores, 1)
        displacement = query_offset + i[:, None] - n[None, :]
        if DLOGITS and FRONT == HELD and PART >= DIAGONAL:
            dheld += tl.sum(tl.where(displacement < -ahead, dscores, 0.0), 1)
        if DLOGITS and PART != FAR and PART != AHEAD:
            inside = (i < num_queries)[:, None]
            if PART != BAND:
                inside = inside & (displacement >= -ahead) & (displacement < reach)
            # May overwrite what `term` was read from: one thread reads an entry, and what is written needs it.
            dterm = (dscores * softmax_scale).to(dlogits_ptr.dtype.element_ty)
            tl.store(dlogits_ptr + dlogits_row[:, None] + n[None, :], dterm, mask=inside)
    return dq, dheld, dsums


@triton.jit
def _zero_tiles(dlogits_ptr, dlogits_row, i, start, end, shape, BLOCK_N: tl.constexpr):
    """Zeros in the entries of keys start … end − 1, where the table has them."""
    query_offset, num_queries, _, reach, ahead, _ = shape
    for first_key in range(start, end, BLOCK_N):
        n = first_key + tl.arange(0, BLOCK_N)
        displacement = query_offset + i[:, None] - n[None, :]
        inside = (i < num_queries)[:, None] & (displacement >= -ahead) & (displacement < reach)
        zeros = tl.zeros(displacement.shape, dlogits_ptr.dtype.element_ty)
        tl.store(dlogits_ptr + dlogits_row[:, None] + n[None, :], zeros, mask=inside)


@triton.jit(do_not_specialize=LENGTHS)
def dq_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dq_ptr, dsums_ptr, term_ptr, dlogits_ptr, document_ptr, sums_ptr,
    stride_qb, stride_qh, stride_qm, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn,
    stride_gb, stride_gh, stride_gm, stride_db, stride_dh, stride_dm,
    num_heads, group_size, query_offset, num_queries, num_keys, reach, ahead, window,
    logits_rows, logits_pitch, key_column, num_positions,
    softmax_scale, exponent_scale,
    TERM: tl.constexpr, DOCUMENTS: tl.constexpr, FRONT: tl.constexpr, WINDOW: tl.constexpr, GATES: tl.constexpr,
    DLOGITS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dq, with DLOGITS the gradient of every entry of the relative logits, with GATES every query's sum of dS."""
    shape = (query_offset, num_queries, num_keys, reach, ahead, window)
    logits = (logits_rows, logits_pitch, key_column)
    num_blocks = tl.cdiv(num_queries, BLOCK_M)
    batch_head = tl.program_id(0) // num_blocks
    first_row = (num_blocks - 1 - tl.program_id(0) % num_blocks) * BLOCK_M  # the longest loops first
    batch, head = (batch_head // num_heads).to(tl.int64), batch_head % num_heads
    kv_head = (head // group_size).to(tl.int64)
    k_ptr += batch * stride_kb + kv_head * stride_kh
    v_ptr += batch * stride_vb + kv_head * stride_vh
    q_ptr += batch * stride_qb + head.to(tl.int64) * stride_qh
    grad_ptr += batch * stride_gb + head.to(tl.int64) * stride_gh
    document_ptr += batch * 2 * num_keys
    i = first_row + tl.arange(0, BLOCK_M)
    q = _load_rows(q_ptr, first_row, stride_qm, num_queries, BLOCK_M, HEAD_DIM, True)
    grad = _load_rows(grad_ptr, first_row, stride_gm, num_queries, BLOCK_M, HEAD_DIM, True)
    places = batch_head.to(tl.int64) * num_queries + i
    lse = tl.load(lse_ptr + places, mask=i < num_queries, other=float("inf"))
    delta = tl.load(delta_ptr + places, mask=i < num_queries, other=0.0)
    term_ptr, row = _find_term(term_ptr, first_row, i, batch_head, head, shape, logits, TERM, FRONT)
    dlogits_ptr, dlogits_row = _find_term(dlogits_ptr, first_row, i, batch_head, head, shape, logits, TABLE, FRONT)
    document_q, first_key, last_key = _query_documents(document_ptr, i, shape, DOCUMENTS)
    sums_ptr += batch_head.to(tl.int64) * 2 * num_positions
    own_sums = _load_sums(sums_ptr, query_offset + i, i < num_queries, num_positions, GATES)
    first_sums = _load_sums(sums_ptr, query_offset + first_row, first_row < num_queries, num_positions, GATES)
    parts = _key_parts(first_row, first_key, last_key, shape, DOCUMENTS, FRONT, WINDOW, BLOCK_M, BLOCK_N)
    dq = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    dheld = tl.zeros([BLOCK_M], tl.float32)  # of what is held, a sum over all keys ahead of the table
    dsums = tl.zeros([BLOCK_M], tl.float32)
    for part in tl.static_range(5):
        if (TERM != NOTHING or (part != EDGE and part != BAND)) and (FRONT != HIDDEN or part != AHEAD):
            dq, dheld, dsums = _dq_tiles(
                dq, dheld, dsums, q, grad, lse, delta, i, row, dlogits_row, document_q, own_sums, first_sums,
                k_ptr, v_ptr, term_ptr, dlogits_ptr, document_ptr, sums_ptr, stride_kn, stride_vn,
                parts[part], parts[part + 1], shape, num_positions, softmax_scale, exponent_scale,
                part, TERM, DOCUMENTS, FRONT, WINDOW, GATES, DLOGITS, HEAD_DIM, BLOCK_N,
            )  # fmt: skip
    dq_ptr += batch * stride_db + head.to(tl.int64) * stride_dh
    _store_rows(dq_ptr, first_row, stride_dm, num_queries, dq * softmax_scale, BLOCK_M, HEAD_DIM)
    if GATES:
        tl.store(dsums_ptr + places, dsums, mask=i < num_queries)
    if DLOGITS:  # entries of keys that the loop did not meet: before its start, past the last key
        before = tl.maximum(parts[0] - (query_offset + first_row - reach + 1), 0)
        first = parts[0] - tl.cdiv(before, BLOCK_N) * BLOCK_N
        _zero_tiles(dlogits_ptr, dlogits_row, i, first, parts[0], shape, BLOCK_N)
        past = tl.cdiv(parts[5], BLOCK_N) * BLOCK_N
        _zero_tiles(dlogits_ptr, dlogits_row, i, past, query_offset + first_row + BLOCK_M + ahead, shape, BLOCK_N)
    if DLOGITS and FRONT == HELD:
        tl.debug_barrier()  # every thread has read the entry that is overwritten
        dheld = (dheld * softmax_scale).to(dlogits_ptr.dtype.element_ty)
        tl.store(dlogits_ptr + dlogits_row + (query_offset + i + ahead + 1), dheld, mask=i < num_queries)


@triton.jit
def _dkdv_tiles(
    dk, dv, dsums, k, v, n, document_k, key_high, key_low, batch_head, head,
    q_ptr, grad_ptr, lse_ptr, delta_ptr, term_ptr, document_ptr, sums_ptr, stride_qm, stride_gm,
    start, end, shape, logits, num_positions, exponent_scale,
    PART: tl.constexpr, TERM: tl.constexpr, DOCUMENTS: tl.constexpr, FRONT: tl.constexpr, WINDOW: tl.constexpr,
    GATES: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    num_queries = shape[1]
    for first_row in range(start, end, BLOCK_M):
        first_row = tl.multiple_of(first_row, BLOCK_M)
        i = first_row + tl.arange(0, BLOCK_M)
        q = _load_rows(q_ptr, first_row, stride_qm, num_queries, BLOCK_M, HEAD_DIM, True)
        grad = _load_rows(grad_ptr, first_row, stride_gm, num_queries, BLOCK_M, HEAD_DIM, True)
        places = batch_head.to(tl.int64) * num_queries + i
        lse = tl.load(lse_ptr + places, mask=i < num_queries, other=float("inf"))
        delta = tl.load(delta_ptr + places, mask=i < num_queries, other=0.0)
        head_term_ptr, row = _find_term(term_ptr, first_row, i, batch_head, head, shape, logits, TERM, FRONT)
        term = _load_tile_term(head_term_ptr, row[None, :], i[None, :], n[:, None], shape, PART, TERM, FRONT)
        document_q, _, _ = _query_documents(document_ptr, i, shape, DOCUMENTS)
        if q.dtype == tl.float32:  # summed as in the forward pass: the weights of large scores feel it
            products = tl.trans(tl.dot(q, tl.trans(k), input_precision="ieee"))
        else:
            products = tl.dot(k, tl.trans(q), input_precision="ieee")
        high, low = _load_sums(sums_ptr, shape[0] + i, i < num_queries, num_positions, GATES)
        first_sums = _load_sums(sums_ptr, shape[0] + first_row, first_row < num_queries, num_positions, GATES)
        gate = _gate_differences(
            high[None, :], low[None, :], key_high[:, None], key_low[:, None], first_sums, PART, GATES
        )
        scores = _raw_scores(
            products, term, gate, i[None, :], n[:, None],
            document_q[None, :], document_k[:, None], shape, PART, TERM, DOCUMENTS, FRONT, WINDOW, GATES,
        )  # fmt: skip
        weights = tl.exp2(scores * exponent_scale - lse[None, :])
        dv = tl.dot(weights.to(grad.dtype), grad, dv, input_precision="ieee")
        dscores = weights * (tl.dot(v, tl.trans(grad), input_precision="ieee") - delta[None, :])
        dk = tl.dot(dscores.to(q.dtype), q, dk, input_precision="ieee")
        if GATES:
            dsums += tl.sum(dscores, 1)
    return dk, dv, dsums


@triton.jit
def _row_parts(
    first_key, first_row, end, shape,
    FRONT: tl.constexpr, WINDOW: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Where the parts of the loop over queries end, and its start, for the keys from first_key on: FAR comes last.

    first_row and end: of the keys' documents.
    """
    query_offset, _, _, reach, ahead, window = shape
    row = first_key - query_offset  # the row that stands at first_key's position
    start = first_row
    if FRONT == HIDDEN:
        start = tl.maximum(row, 0)
    if WINDOW:
        end = tl.minimum(end, row + BLOCK_N - 1 + window)
        if FRONT != HIDDEN:
            start = tl.maximum(start, row - window + 1)
    start = start // BLOCK_M * BLOCK_M
    diagonal = tl.maximum(tl.maximum(row - ahead, 0) // BLOCK_M * BLOCK_M, start)
    band = tl.maximum(tl.cdiv(tl.maximum(row + BLOCK_N - 1 - ahead, 0), BLOCK_M) * BLOCK_M, diagonal)
    edge = tl.maximum(tl.maximum(row + reach, 0) // BLOCK_M * BLOCK_M, band)
    far = tl.maximum(tl.cdiv(tl.maximum(row + reach + BLOCK_N - 1, 0), BLOCK_M) * BLOCK_M, edge)
    far, edge, band = tl.minimum(far, end), tl.minimum(edge, end), tl.minimum(band, end)
    return end, far, edge, band, tl.minimum(diagonal, end), tl.minimum(start, end)


@triton.jit(do_not_specialize=LENGTHS)
def dkdv_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, dsums_ptr, term_ptr, document_ptr, sums_ptr,
    stride_qb, stride_qh, stride_qm, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn,
    stride_gb, stride_gh, stride_gm, stride_db, stride_dh, stride_dn,
    num_heads, group_size, query_offset, num_queries, num_keys, reach, ahead, window,
    logits_rows, logits_pitch, key_column, num_positions,
    softmax_scale, exponent_scale,
    TERM: tl.constexpr, DOCUMENTS: tl.constexpr, FRONT: tl.constexpr, WINDOW: tl.constexpr, GATES: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dk and dv of a block of keys: the query heads of its group one after the other, no atomics.

    With GATES every key's sum of dS too, for each of these heads.
    """
    shape = (query_offset, num_queries, num_keys, reach, ahead, window)
    logits = (logits_rows, logits_pitch, key_column)
    num_blocks = tl.cdiv(num_keys, BLOCK_N)
    num_groups = num_heads // group_size
    batch_group = tl.program_id(0) // num_blocks
    first_key = tl.program_id(0) % num_blocks * BLOCK_N
    batch, group = (batch_group // num_groups).to(tl.int64), (batch_group % num_groups).to(tl.int64)
    document_ptr += batch * 2 * num_keys
    n = first_key + tl.arange(0, BLOCK_N)
    k_ptr += batch * stride_kb + group * stride_kh
    v_ptr += batch * stride_vb + group * stride_vh
    k = _load_rows(k_ptr, first_key, stride_kn, num_keys, BLOCK_N, HEAD_DIM, True)
    v = _load_rows(v_ptr, first_key, stride_vn, num_keys, BLOCK_N, HEAD_DIM, True)
    document_k, first_row, end = n, 0, num_queries
    if DOCUMENTS:
        document_k = tl.load(document_ptr + n, mask=n < num_keys, other=-1)
        first = tl.load(document_ptr + n, mask=n < num_keys, other=num_keys)
        last = tl.load(document_ptr + num_keys + n, mask=n < num_keys, other=0)
        first_row = tl.maximum(tl.min(first, 0) - query_offset, 0)
        end = tl.minimum(num_queries, tl.maximum(tl.max(last, 0) + 1 - query_offset, 0))
    parts = _row_parts(first_key, first_row, end, shape, FRONT, WINDOW, BLOCK_M, BLOCK_N)
    dk = tl.zeros([BLOCK_N, HEAD_DIM], tl.float32)
    dv = tl.zeros([BLOCK_N, HEAD_DIM], tl.float32)
    for member in range(group_size):
        head = (batch_group % num_groups) * group_size + member
        q_head = q_ptr + batch * stride_qb + head.to(tl.int64) * stride_qh
        grad_head = grad_ptr + batch * stride_gb + head.to(tl.int64) * stride_gh
        batch_head = (batch_group // num_groups) * num_heads + head
        head_sums = sums_ptr + batch_head.to(tl.int64) * 2 * num_positions
        key_high, key_low = _load_sums(head_sums, n, n < num_keys, num_positions, GATES)
        dsums = tl.zeros([BLOCK_N], tl.float32)
        for part in tl.static_range(4, -1, -1):
            if (TERM != NOTHING or (part != EDGE and part != BAND)) and (FRONT != HIDDEN or part != AHEAD):
                dk, dv, dsums = _dkdv_tiles(
                    dk, dv, dsums, k, v, n, document_k, key_high, key_low, batch_head, head,
                    q_head, grad_head, lse_ptr, delta_ptr, term_ptr, document_ptr, head_sums, stride_qm, stride_gm,
                    parts[part + 1], parts[part], shape, logits, num_positions, exponent_scale,
                    part, TERM, DOCUMENTS, FRONT, WINDOW, GATES, HEAD_DIM, BLOCK_M,
                )  # fmt: skip
        if GATES:
            tl.store(dsums_ptr + batch_head.to(tl.int64) * num_keys + n, dsums, mask=n < num_keys)
    head_start = batch * stride_db + group * stride_dh
    _store_rows(dk_ptr + head_start, first_key, stride_dn, num_keys, dk * softmax_scale, BLOCK_N, HEAD_DIM)
    _store_rows(dv_ptr + head_start, first_key, stride_dn, num_keys, dv, BLOCK_N, HEAD_DIM)
