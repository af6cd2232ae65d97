"""Running sums of log gates over the keys, c[h,n], and their differences c[h,m] − c[h,n]."""

import torch
from torch import Tensor

from wavepos.ops.call import Call


def gate_sums(gates_BHS: Tensor, num_keys: int) -> Tensor:
    """c[h,n] for every key, [B or 1,H,S].

    In float64: c grows with the length and the scores read its differences, which float32 would have lost after some
    ten thousand keys. Devices without float64 (MPS) sum in float32.
    """
    dtype = torch.float32 if gates_BHS.device.type == "mps" else torch.float64
    if gates_BHS.shape[-1] == num_keys:
        return gates_BHS.to(dtype).cumsum(-1)
    return gates_BHS.to(dtype) * torch.arange(num_keys, device=gates_BHS.device)


def gate_differences(call: Call, query_T: Tensor) -> Tensor | None:
    """c[h,m] − c[h,n] of queries at the given positions and all keys, [B or 1,H,T,S] in float64; None: nothing.

    A query beyond the last key has that one's c: a constant per query, which the softmax does not see.
    """
    if call.terms.gates_BHS is None or call.mask.num_keys == 0:
        return None
    sums_BHS = gate_sums(call.terms.gates_BHS, call.mask.num_keys)
    own_BHT = sums_BHS.index_select(-1, query_T.clamp_max(call.mask.num_keys - 1))
    return own_BHT[..., None] - sums_BHS[..., None, :]
