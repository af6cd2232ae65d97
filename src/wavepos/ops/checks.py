"""What the attention call asks of its arguments: each check names the argument, what it got and what is taken."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, NoReturn, get_args

import torch
from torch import Tensor

from wavepos.ops.call import Backend
from wavepos.ops.mask import Mask
from wavepos.positions.tables import no_mode_is_active
from wavepos.positions.terms import Position, ReadsGates, ReadsRelativeStates, ScoreTerms

LAYOUT = "[batch, heads, length, head_dim]"
LARGEST_SCALE = 1e6
"""Of the factor on q·k: far beyond any use, far from where float32 overflows."""


def check_position(position: object) -> None:
    """Raise TypeError unless it is a position that is built."""
    if isinstance(position, Position):
        return
    what = "position must be a Position, such as Wavelet(head_dim) or Rotary(head_dim)"
    if isinstance(position, str):
        raise TypeError(
            f"{what}, got the string {position!r}: build it first, with "
            f"build_position(parse_position({position!r}), head_dim=..., num_heads=...) of wavepos.positions"
        )
    if isinstance(position, type):
        raise TypeError(f"{what}, got the class {position.__name__}: build it first")
    raise TypeError(f"{what}, got {type(position).__name__}")


def require_tensor(name: str, x: object) -> None:
    """Raise TypeError unless it is a tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless q is [B,H,T,D] and k and v are [B,G,S,D] of its dtype and device, G dividing H."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        require_tensor(name, x)
        if x.dim() != 4:
            raise ValueError(f"{name} must be {LAYOUT}, got shape {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"{name} must be of a floating-point dtype, got {x.dtype}")
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(f"{name} must have q's dtype and device {q.dtype}, {q.device}, got {x.dtype}, {x.device}")
    if k.shape != v.shape:
        raise ValueError(f"k and v must have the same shape, got {tuple(k.shape)} and {tuple(v.shape)}")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k must share batch and head_dim, got {tuple(q.shape)} and {tuple(k.shape)}")
    heads, groups = q.shape[1], k.shape[1]
    if (heads != 0) if groups == 0 else (heads % groups != 0):
        raise ValueError(
            f"k's heads must divide q's, got {heads} query and {groups} key/value heads{_layout_hint(q, k)}"
        )


def checked_scale(softmax_scale: float | None, head_dim: int) -> float:
    """The factor on q·k, 1/√D where none is given; ValueError unless it is positive and keeps scores finite."""
    if softmax_scale is None:
        return 1.0 / math.sqrt(max(head_dim, 1))
    if not isinstance(softmax_scale, (int, float, Real)) or not 0.0 < softmax_scale <= LARGEST_SCALE:
        raise ValueError(
            f"softmax_scale must be a number above 0 and at most {LARGEST_SCALE:g}, or None for 1/√head_dim, got "
            f"{softmax_scale}"
        )
    return float(softmax_scale)


def check_arguments(
    position: Position,
    causal: bool,
    backend: str = "auto",
    dropout: float = 0.0,
    query_offset: int | Tensor | None = None,
    window: int | None = None,
) -> None:
    """Raise ValueError for arguments that are no values of theirs or do not go together, whatever the tensors.

    Raises:
        TypeError: causal is neither True nor False.
    """
    if not isinstance(causal, bool):
        raise TypeError(f"causal must be True or False, got {causal!r}")
    if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 1):
        raise ValueError(
            "window must be a whole number of at least 1 (a query sees keys less than that many tokens away) or None, "
            f"got {window!r}"
        )
    if not isinstance(dropout, (int, float, Real)) or not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout!r}")
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if isinstance(query_offset, Tensor) and backend != "auto":
        raise ValueError(f"a tensor as query_offset goes with backend='auto' only, got {backend!r}")
    if isinstance(query_offset, Tensor) and position.rotates:
        raise ValueError(
            "a tensor as query_offset goes with keys that are rotated already: give Rotary.rotated's q and k and NoPE()"
        )


def checked_offset(q: Tensor, k: Tensor, query_offset: int | Tensor | None, placed: bool) -> int:
    """The position of the first query: the given one, or that with which the last query stands at the last key.

    For a position that the device alone knows the last one that there can be. `placed`: whether anything depends on it.
    """
    num_queries, num_keys = q.shape[2], k.shape[2]
    if isinstance(query_offset, Tensor):
        return max(0, num_keys - num_queries)
    if query_offset is not None:
        if not isinstance(query_offset, int) or isinstance(query_offset, bool):
            raise ValueError(
                f"query_offset must be a whole number, an int64 tensor without dimensions or None, got {query_offset!r}"
            )
        if query_offset < 0:
            raise ValueError(f"query_offset must be at least 0, got {query_offset}")
        return query_offset
    if num_queries <= num_keys:
        return num_keys - num_queries
    if num_keys == 0 or not placed:
        return 0
    raise ValueError(
        f"without query_offset the queries stand at the last positions of the keys, and {num_queries} queries do not "
        f"fit on {num_keys} keys: give query_offset, the position of the first query{_layout_hint(q, k)}"
    )


def checked_mask(
    q: Tensor,
    k: Tensor,
    query_offset: int,
    causal: bool,
    key_padding_mask: Tensor | None,
    document_ids: Tensor | None,
    window: int | None = None,
) -> Mask:
    """Which keys a query sees, without a window that hides nothing.

    Raises:
        TypeError: padding or documents are no tensors.
        ValueError: padding or documents do not fit.
    """
    num_queries, num_keys = q.shape[2], k.shape[2]
    farthest = max(query_offset + num_queries, 0 if causal else num_keys - query_offset) - 1
    mask = Mask(
        num_queries=num_queries,
        num_keys=num_keys,
        query_offset=query_offset,
        causal=causal,
        window=None if window is None or window > farthest else window,
        key_padding_BS=key_padding_mask,
        document_ids_BS=document_ids,
    )
    check_mask(mask, q)
    return mask


def check_mask(mask: Mask, q: Tensor) -> None:
    """Raise ValueError unless padding and documents are [B,S] of bool and of integers, on q's device."""
    expected = (q.shape[0], mask.num_keys)
    for name, x in (("key_padding_mask", mask.key_padding_BS), ("document_ids", mask.document_ids_BS)):
        if x is not None:
            require_tensor(name, x)
        if x is not None and tuple(x.shape) != expected:
            raise ValueError(f"{name} must have shape [batch, keys] = {expected}, got {tuple(x.shape)}")
        if x is not None and x.device != q.device:
            raise ValueError(f"{name} must be on q's device {q.device}, got {x.device}")
    if mask.key_padding_BS is not None and mask.key_padding_BS.dtype != torch.bool:
        raise ValueError(f"key_padding_mask must be bool, True where a key takes part, got {mask.key_padding_BS.dtype}")
    ids = mask.document_ids_BS
    if ids is None:
        return
    if ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
        raise ValueError(f"document_ids must be of an integer dtype, got {ids.dtype}")
    if mask.query_offset + mask.num_queries > mask.num_keys:
        raise ValueError(
            f"document_ids cover {mask.num_keys} key positions, but queries end at position "
            f"{mask.query_offset + mask.num_queries - 1}"
        )


def checked_terms(
    position: Position,
    q: Tensor,
    k: Tensor,
    query_offset: int,
    relative_states: Tensor | None,
    gates: Tensor | None,
    causal: bool,
) -> ScoreTerms:
    """The position's terms, on q's device and of its heads and sizes; ValueError unless they are."""
    check_states(position, q, relative_states)
    check_gates(position, q, k, gates)
    given: dict[str, Any] = {}
    if isinstance(position, ReadsRelativeStates):
        given["relative_states_BHTE"] = relative_states
    if isinstance(position, ReadsGates):
        given["gates_BHS"] = gates
    try:
        if causal:
            terms = position.terms(q, k, q_offset=query_offset, **given)
        else:
            terms = position.terms_both_ways(q, k, q_offset=query_offset)
    except RuntimeError as error:  # PyTorch's own words for tensors on two devices name neither
        check_parameters(position, q, error)
        raise
    check_terms(terms, position, q, k)
    return terms


def check_states(position: Position, q: Tensor, relative_states: Tensor | None) -> None:
    """Raise ValueError for relative states that no one reads, or of another dtype or device than q."""
    if relative_states is None:
        return
    require_tensor("relative_states", relative_states)
    if not isinstance(position, ReadsRelativeStates):
        raise ValueError(f"relative_states go with LearnedRelative only, got position {type(position).__name__}")
    if relative_states.dtype != q.dtype or relative_states.device != q.device:
        raise ValueError(
            f"relative_states must have q's dtype and device {q.dtype}, {q.device}, "
            f"got {relative_states.dtype}, {relative_states.device}"
        )


def check_gates(position: Position, q: Tensor, k: Tensor, gates: Tensor | None) -> None:
    """Raise ValueError for gates that no one reads, that are missing, or that are no log gates of these keys."""
    reads = isinstance(position, ReadsGates) and position.reads_gates
    name, expected = type(position).__name__, (q.shape[0], q.shape[1], k.shape[2])
    if gates is None:
        if reads:
            raise ValueError(f"{name} needs gates of shape [batch, heads, keys] = {expected}, got None")
        return
    require_tensor("gates", gates)
    if not reads:
        raise ValueError(f"gates go with positions that read them (ForgetGate, Cable, Wavelet(gate=...)), got {name}")
    if tuple(gates.shape) != expected:
        raise ValueError(f"gates must have shape [batch, heads, keys] = {expected}, got {tuple(gates.shape)}")
    if gates.dtype not in (q.dtype, torch.float32) or gates.device != q.device:
        raise ValueError(
            f"gates must be of float32 or q's dtype and on its device, {q.dtype}, {q.device}, "
            f"got {gates.dtype}, {gates.device}"
        )
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    if gates.device.type != "cpu" or not no_mode_is_active() or wrapped(gates):  # looking costs, or cannot be done
        return
    if not bool(((gates <= 0.0) & gates.isfinite()).all()):
        lowest, highest = (float(x) for x in gates.detach().aminmax())
        raise ValueError(
            "gates must be logarithms of gates between 0 and 1, so finite and at most 0, got values from "
            f"{lowest:.3g} to {highest:.3g}: position.gates makes them of a projection"
        )


def check_parameters(position: Position, q: Tensor, error: Exception) -> None:
    """Raise ValueError where a learned parameter is on another device than q."""
    for name, x in position.named_parameters():
        if x.device != q.device:
            raise _elsewhere(position, name, x, q) from error


def check_terms(terms: ScoreTerms, position: Position, q: Tensor, k: Tensor) -> None:
    """Raise ValueError unless what the position gave is on q's device and of q's heads and sizes."""
    for name, x in terms.tensors():
        if x.device != q.device:
            raise _elsewhere(position, name, x, q)
    r, table, bias = terms.r_BHTE, terms.table, terms.bias_HR
    for name, given, x in (("q", terms.q_BHTD, q), ("k", terms.k_BGSD, k)):
        if given is not x and given.shape != x.shape:
            _refuse_terms(position, name, given.shape, x.shape)
    shapes = [(batch, q.shape[1], length) for batch in (1, q.shape[0]) for length in (1, k.shape[2])]
    if terms.gates_BHS is not None and tuple(terms.gates_BHS.shape) not in shapes:
        _refuse_terms(position, "gates", terms.gates_BHS.shape, shapes[-1])
    if r is None and table is None and bias is None:
        return
    if (table is None) != (r is None):
        raise ValueError(f"position {type(position).__name__} gives one of r and table: their product needs both")
    if r is not None and r is not q and r.shape[:3] != q.shape[:3]:
        _refuse_terms(position, "r", r.shape, (*q.shape[:3], r.shape[-1]))
    _check_displacements(terms, position)
    heads = {"table": table.shape[0] if table is not None and table.dim() == 3 else None}
    heads["bias"] = None if bias is None else bias.shape[0]
    for name, number in heads.items():
        if number is not None and number != q.shape[1]:
            turned = f"; q's shape {tuple(q.shape)} {_LOOKS}" if number == q.shape[2] else ""
            raise ValueError(
                f"position {type(position).__name__} has num_heads={number} (its {name}), and q has {q.shape[1]} "
                f"heads: build it with num_heads={q.shape[1]}. q must be {LAYOUT}{turned}"
            )
    if r is not None and table is not None and r.shape[3] != table.shape[-1]:
        raise ValueError(
            f"position {type(position).__name__} has a table {table.shape[-1]} wide, and it multiplies "
            f"{r.shape[3]} entries (q's head_dim is {q.shape[3]}): build it with head_dim={q.shape[3]}. "
            f"q must be {LAYOUT}, got {tuple(q.shape)}"
        )


def _check_displacements(terms: ScoreTerms, position: Position) -> None:
    for name, values, dim in (("table", terms.table, -2), ("bias", terms.bias_HR, -1)):
        if values is not None and not -max(1, values.shape[dim]) < terms.first_displacement <= 0:
            raise ValueError(
                f"position {type(position).__name__} gives a {name} of {values.shape[dim]} entries from displacement "
                f"{terms.first_displacement} on: it must hold displacement 0"
            )


def _elsewhere(position: Position, name: str, x: Tensor, q: Tensor) -> ValueError:
    return ValueError(
        f"position {type(position).__name__} is on {x.device} (its {name}) and q on {q.device}: move one of them, as "
        "in position.to(q.device)"
    )


def _refuse_terms(position: Position, what: str, got: Sequence[int], expected: Sequence[int]) -> NoReturn:
    raise ValueError(
        f"position {type(position).__name__} must give {what} of shape {tuple(expected)} to these q and k, "
        f"got {tuple(got)}"
    )


_LOOKS = "looks like [batch, length, heads, head_dim]: transpose(1, 2)"


def _layout_hint(q: Tensor, k: Tensor) -> str:
    """What is added to a refusal where the sizes fit with heads and length swapped."""
    if k.shape[2] == 0 or q.shape[2] % k.shape[2] or q.shape[1] > k.shape[1]:
        return ""
    return f". q must be {LAYOUT}; got {tuple(q.shape)}, which {_LOOKS}"
