"""Which keys a query may see."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """Query position m = query_offset + i may see key position n if every given condition holds.

    Attributes:
        num_queries: T.
        num_keys: S.
        query_offset: position of the first query; keys stand at 0 … S − 1.
        causal: n ≤ m.
        window: |m − n| < window; None: any distance.
        key_padding_BS: bool [B,S], True where a key takes part.
        document_ids_BS: integers [B,S], one a key position; queries read theirs at their own positions.
    """

    num_queries: int
    num_keys: int
    query_offset: int = 0
    causal: bool = True
    window: int | None = None
    key_padding_BS: Tensor | None = None
    document_ids_BS: Tensor | None = None

    def displacement_TS(self, device: torch.device) -> Tensor:
        """δ = m − n, int64 [T,S]."""
        query = torch.arange(self.num_queries, device=device) + self.query_offset
        return query[:, None] - torch.arange(self.num_keys, device=device)

    def allowed(self, device: torch.device) -> Tensor:
        """Whether query m sees key n, bool, broadcastable to [B,H,T,S]."""
        allowed = self.allowed_by_distance(self.displacement_TS(device))
        by_key = self.allowed_by_key(slice(0, self.num_queries), slice(0, self.num_keys))
        return allowed if by_key is None else allowed & by_key

    def allowed_by_distance(self, displacement_TS: Tensor) -> Tensor:
        """What direction and window allow at displacements δ = m − n: bool, of their shape."""
        ahead = displacement_TS < 0
        allowed = ~ahead if self.causal else torch.ones_like(ahead)
        if self.window is not None:
            allowed = allowed & (displacement_TS < self.window) & (displacement_TS > -self.window)
        return allowed

    def displacements(self) -> tuple[int, int]:
        """The least and the greatest displacement at which some query may see a key; 0 lies between them."""
        lowest = 0 if self.causal else min(0, self.query_offset - self.num_keys + 1)
        highest = self.query_offset + self.num_queries - 1
        if self.window is None:
            return lowest, highest
        return max(lowest, 1 - self.window), min(highest, self.window - 1)

    def allowed_by_key(self, rows: slice, keys: slice) -> Tensor | None:
        """What padding and documents allow queries `rows` of keys `keys`: bool [B,1,1 or C,K]; None: everything."""
        allowed: Tensor | None = None
        if self.key_padding_BS is not None:
            allowed = self.key_padding_BS[:, None, None, keys]
        if self.document_ids_BS is not None:
            ids = self.document_ids_BS
            of_query = ids[:, self.query_offset + rows.start : self.query_offset + rows.stop]
            same = (of_query[:, :, None] == ids[:, None, keys])[:, None]
            allowed = same if allowed is None else allowed & same
        return allowed

    def first_keys(self) -> list[int] | None:
        """For every query a key before which neither it nor a later one sees any; None without padding and documents.

        Leading padding and documents in order (ids that never fall) make it rise: what they hide need not be computed.
        """
        given = self.document_ids_BS if self.key_padding_BS is None else self.key_padding_BS
        if given is None:
            return None
        position = torch.arange(self.num_queries, device=given.device) + self.query_offset
        first = torch.zeros_like(position)
        if self.key_padding_BS is not None:
            first = first + (~self.key_padding_BS).int().cumprod(1).sum(1).amin()
        ids = self.document_ids_BS
        if ids is not None and ids.shape[1] > 1 and bool((ids[:, 1:] >= ids[:, :-1]).all()):  # differences may wrap
            begins = torch.arange(1, ids.shape[1], device=ids.device) * (ids[:, 1:] > ids[:, :-1])
            start_S = torch.nn.functional.pad(begins, (1, 0)).cummax(1).values.amin(0)
            first = torch.maximum(first, start_S[self.query_offset : self.query_offset + self.num_queries])
        return torch.minimum(first, position).tolist()


def hide(scores: Tensor, allowed: Tensor, seen: Tensor) -> Tensor:
    """Scores with −inf where a key is hidden: no finite number lies below every score of a narrow dtype.

    Args:
        scores: what is added to scores, or the scores.
        allowed: whether the query sees the key, broadcastable to `scores`.
        seen: whether the query sees any, [..., 1]; queries that do not get zeros, whose softmax is finite and unread.
    """
    return torch.where(allowed, scores, torch.where(seen, -torch.inf, 0.0).to(scores.dtype))
