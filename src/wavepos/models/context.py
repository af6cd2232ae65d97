"""What attention needs to know of a batch: where its queries stand, which keys are padding, where documents begin.

Tokens stand at their slots, counted from the first of the row or of the cache, padding included: every method here
sees displacements only, and within a row slots and `position_ids` differ by a constant.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache

from wavepos.positions import Position

PACKED_WITH_CACHE = (
    "packed rows (position_ids that begin again) cannot be read into a cache, for later tokens would see every "
    "document: give use_cache=False and no past_key_values"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the layers of one forward pass share.

    Attributes:
        query_offset: slot of the first query; a tensor in a compiled step with a static cache.
        key_padding_mask: bool [B,S], True where a key takes part; None: all do.
        document_ids: int64 [B,S] of packed rows; None: every row is one document.
        output_attentions: whether the caller asked for the weights [B,H,T,S] of each layer.
    """

    query_offset: int | Tensor
    key_padding_mask: Tensor | None
    document_ids: Tensor | None
    output_attentions: bool = False

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> "Context":
        """On another device, as accelerate asks of what it hands to a layer there."""

        def moved(x: Any) -> Any:
            return x.to(device, non_blocking=non_blocking) if isinstance(x, Tensor) else x

        return replace(
            self,
            query_offset=moved(self.query_offset),
            key_padding_mask=moved(self.key_padding_mask),
            document_ids=moved(self.document_ids),
        )


def read_context(
    tokens_BT: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, past_key_values: Cache | None
) -> Context:
    """The context of a forward pass.

    Args:
        tokens_BT: anything of shape [B,T,…].
        attention_mask: [B,S], 1 where a key takes part, S the keys of the cache and this call's.
        position_ids: [B,T] or [1,T]. Without a cache, a token whose position is not the last one's plus 1 begins a
            document, and its position must be 0. With a cache they say nothing that slots do not.
        past_key_values: a cache, before this call's keys are put in.

    Raises:
        ValueError: a mask of another shape; positions that jump to anything but 0; packed rows with a cache.
    """
    batch, length = tokens_BT.shape[:2]
    offset = _query_offset(past_key_values)
    mask = _key_padding_mask(attention_mask, batch, offset, length, past_key_values)
    documents = None
    unseen = torch.compiler.is_compiling() and past_key_values is not None  # a graph cannot look, a cache has no packs
    if position_ids is not None and length > 1 and not unseen:
        assert isinstance(offset, int)
        documents = _documents(_checked_positions(position_ids, batch, length), mask, offset)
        if documents is not None and past_key_values is not None:
            raise ValueError(PACKED_WITH_CACHE)
    return Context(query_offset=offset, key_padding_mask=_needed(mask, offset), document_ids=documents)


def check_padding(config: Any, position: Position, context: Context) -> None:
    """Raise ValueError for left padding that would change a rotation that follows the length."""
    mask = context.key_padding_mask
    if mask is None or not position.follows_length:
        return
    slots, fewest = mask.shape[1], int(mask.sum(1).min())
    if not position.rotates_alike(slots, fewest):
        raise ValueError(
            f"left padding is not served where it changes the rotation of {config.position}, which follows the length: "
            f"a row of {fewest} tokens is padded to {slots}; give rows of one length, or one at a time"
        )


def padded_to_cache(attention_mask: Tensor | None, past_key_values: Cache) -> Tensor | None:
    """A mask [B,S] as long as a static cache, so that a compiled step meets one shape; empty slots take no part."""
    if attention_mask is None:
        return None
    missing = num_slots(past_key_values) - attention_mask.shape[1]
    return pad(attention_mask.bool(), (0, max(0, missing)))


def num_slots(past_key_values: Cache) -> int:
    """Slots of a static cache; of others, the keys that it holds and one more."""
    return int(past_key_values.get_mask_sizes(1, _whole_layer(past_key_values))[0])


def first_kept(query_offset: int | Tensor, num_queries: int, num_keys: int) -> int | Tensor:
    """The slot of the first key that a cache gave: a sliding one has dropped those before; the last is the newest."""
    end = query_offset + num_queries
    return max(0, end - num_keys) if isinstance(end, int) else (end - num_keys).clamp_min(0)


def of_kept(mask_BS: Tensor | None, first: int | Tensor, num_keys: int) -> Tensor | None:
    """The part of a mask over all slots that belongs to `num_keys` keys from slot `first` on."""
    if mask_BS is None or isinstance(first, int):
        return None if mask_BS is None else mask_BS[:, first : first + num_keys]
    slots = torch.arange(num_keys, device=mask_BS.device) + first
    return mask_BS.index_select(1, slots.clamp_max(mask_BS.shape[1] - 1))  # what lies beyond is in no query's past


def _whole_layer(past_key_values: Cache) -> int:
    """A layer whose cache drops nothing; the first, where all slide."""
    sliding = past_key_values.is_sliding
    return sliding.index(False) if False in sliding else 0


def _query_offset(past_key_values: Cache | None) -> int | Tensor:
    """Read before `update`, and copied: a static cache hands out its live counter."""
    if past_key_values is None:
        return 0
    offset = past_key_values.get_seq_length(_whole_layer(past_key_values))
    if not isinstance(offset, Tensor):
        return int(offset)
    return offset.to(torch.int64).clone() if torch.compiler.is_compiling() else int(offset)


def _key_padding_mask(
    attention_mask: Tensor | None, batch: int, offset: int | Tensor, length: int, past_key_values: Cache | None
) -> Tensor | None:
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        got = tuple(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise ValueError(
            f"attention_mask must be [batch, keys] with 1 where a key takes part, got {got}: masks over pairs of "
            "tokens are not served, causality and documents are known already"
        )
    if isinstance(offset, Tensor):
        assert past_key_values is not None
        mask = padded_to_cache(attention_mask, past_key_values)
        assert mask is not None
        return mask
    keys = offset + length
    if attention_mask.shape[0] != batch or attention_mask.shape[1] < keys:
        raise ValueError(
            f"attention_mask must be [batch, keys] = {(batch, keys)}, the keys of the cache and of this call, "
            f"got {tuple(attention_mask.shape)}"
        )
    return attention_mask[:, :keys].bool()


def _needed(mask: Tensor | None, offset: int | Tensor) -> Tensor | None:
    """None where the mask hides nothing from a token that takes part: all ones, or padding at the right of a row."""
    if mask is None or torch.compiler.is_compiling():
        return mask
    hides_nothing = (mask[:, 1:] <= mask[:, :-1]).all() if offset == 0 else mask.all()
    return None if bool(hides_nothing) else mask


def _checked_positions(position_ids: Tensor, batch: int, length: int) -> Tensor:
    if position_ids.dim() == 1:
        position_ids = position_ids[None]
    if position_ids.dim() != 2 or position_ids.shape[0] not in (1, batch) or position_ids.shape[1] != length:
        raise ValueError(f"position_ids must be [batch, tokens] = {(batch, length)}, got {tuple(position_ids.shape)}")
    return position_ids.expand(batch, length)


def _documents(position_BT: Tensor, mask: Tensor | None, offset: int) -> Tensor | None:
    """Numbers of the documents that positions tell apart, int64 [B,T]; None where there is one per row."""
    begins = position_BT[:, 1:] != position_BT[:, :-1] + 1
    if mask is not None:
        begins = begins & mask[:, offset + 1 :] & mask[:, offset:-1]
    if not torch.compiler.is_compiling():
        if not bool(begins.any()):
            return None
        if bool((begins & (position_BT[:, 1:] != 0)).any()):
            raise ValueError(
                "position_ids must count 0, 1, 2, … in each document: a jump to another position than 0 is not served, "
                "for tokens stand at their slots"
            )
    return pad(begins.to(torch.int64), (1, 0)).cumsum(1)
