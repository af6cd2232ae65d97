"""Running sums of log gates over the keys, c[h,n], and their differences c[h,m] − c[h,n]."""

import torch
from torch import Tensor

from wavepos.ops.mask import Mask


def gate_sums(gates_BHS: Tensor, num_keys: int) -> Tensor:
    """c[h,n] for every key, [B or 1,H,S].

    In float64: c grows with the length and the scores read its differences, which float32 would have lost after some
    ten thousand keys. Devices without float64 (MPS) sum in float32.
    """
    dtype = _sum_dtype(gates_BHS)
    if gates_BHS.shape[-1] == num_keys:
        return gates_BHS.to(dtype).cumsum(-1)
    return gates_BHS.to(dtype) * torch.arange(num_keys, device=gates_BHS.device)


def _sum_dtype(gates_BHS: Tensor) -> torch.dtype:
    return torch.float32 if gates_BHS.device.type == "mps" else torch.float64


def position_sums(gates_BHS: Tensor, mask: Mask, batch: int) -> Tensor:
    """c at every position up to the last query's, [B,H,P]; beyond the last key that one's holds."""
    sums_BHS = gate_sums(gates_BHS, mask.num_keys).expand(batch, -1, -1)
    missing = mask.query_offset + mask.num_queries - mask.num_keys
    if missing <= 0:
        return sums_BHS
    return torch.cat([sums_BHS, sums_BHS[..., -1:].expand(*sums_BHS.shape[:2], missing)], -1)


def gate_differences(gates_BHS: Tensor, num_keys: int, query_T: Tensor) -> Tensor:
    """c[h,m] − c[h,n], [B or 1,H,T,S] in float64.

    Only the keys between the two are summed: some keys beside each other, all that their queries see, do as all do. A
    query beyond the last key has that one's c: a constant per query, which the softmax does not see.

    Args:
        gates_BHS: of those keys, or [B or 1,H,1].
        num_keys: how many keys there are.
        query_T: the queries' positions, counted from the first of the keys.
    """
    sums_BHS = gate_sums(gates_BHS, num_keys)
    if num_keys == 0:
        return sums_BHS[:, :, None].expand(-1, -1, query_T.shape[0], -1)
    own_BHT = sums_BHS.index_select(-1, query_T.clamp_max(num_keys - 1))
    return own_BHT[..., None] - sums_BHS[..., None, :]


def query_differences(gates_BHS: Tensor, num_keys: int, query: int) -> Tensor:
    """`gate_differences` of a single query, [B or 1,H,1,S]; in generation each operation counts."""
    if gates_BHS.shape[-1] != 1:
        return gate_differences(gates_BHS, num_keys, torch.tensor([query], device=gates_BHS.device))
    last = min(query, num_keys - 1)
    dtype = _sum_dtype(gates_BHS)
    displacement_S = torch.arange(last, last - num_keys, -1, dtype=dtype, device=gates_BHS.device)
    return gates_BHS.to(dtype)[..., None] * displacement_S


def gates_of(gates_BHS: Tensor, keys: slice) -> Tensor:
    """Those of some keys; one that holds for every key is theirs too."""
    return gates_BHS if gates_BHS.shape[-1] == 1 else gates_BHS[..., keys]
