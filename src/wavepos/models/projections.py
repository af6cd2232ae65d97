"""What a position reads of the hidden state beside q, k and v, projected once per layer; what is per key is cached.

Shape suffixes: B batch, H query heads, G key/value heads, T queries, S keys, D head dim, E width of the relative term,
C width of hidden states, J query heads of a key/value head.
"""

from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.cache_utils import Cache

from wavepos.positions import Position, PositionConfig
from wavepos.positions.terms import ReadsGates, ReadsRelativeStates


@final
class RelativeProjection(nn.Linear):
    """The projection of hidden states to what a position reads of them: relative states, the logits of gates."""


def relative_projection(config: Any, layer: int, bias: bool) -> RelativeProjection | None:
    """The projection of a layer to what its position reads of the hidden state (`Projected`); None: it reads nothing.

    Args:
        config: a `PositionedConfig` with hidden_size and num_attention_heads.
        layer: its index.
        bias: whether the projection has one; to gates alone it has none, for theirs is the position's.
    """
    position: PositionConfig = config.position_configs[layer]
    width = (position.relative_states_dim or 0) + position.reads_gates
    if width == 0:
        return None
    bias = bias and position.relative_states_dim is not None
    with torch.random.fork_rng(devices=[]):
        return RelativeProjection(config.hidden_size, config.num_attention_heads * width, bias=bias)


class Projected(NamedTuple):
    """What a position reads of hidden states beside q and k: for every head, E relative states, then a gate's logit.

    Attributes:
        relative_states: [B,H,T,E] per query; None: it reads none.
        gates: log gates [B,H,T] per key, in the hidden states' dtype; None: it reads none.
    """

    relative_states: Tensor | None
    gates: Tensor | None

    @classmethod
    def of(cls, projection: nn.Module | None, position: Position, hidden_states: Tensor, num_heads: int) -> "Projected":
        """From hidden states [B,T,C] by the projection of their layer."""
        if projection is None:
            return cls(None, None)
        read: Tensor = projection(hidden_states)
        read_BHTE = read.view(*read.shape[:-1], num_heads, -1).transpose(1, 2)
        relative = read_BHTE if isinstance(position, ReadsRelativeStates) else None
        if not (isinstance(position, ReadsGates) and position.reads_gates):
            return cls(relative, None)
        gates_BHT = position.gates(read_BHTE[..., -1])
        # rounded before they are summed, so that what caches hold is what is read without one; finite in float16 too
        rounded = gates_BHT.clamp_min(torch.finfo(read.dtype).min).to(read.dtype)
        return cls(None if relative is None else relative[..., :-1], rounded)


_COLUMNS_MULTIPLE = 8
"""Kernels read rows of keys that begin at multiples of 16 bytes."""


def updated(
    cache: Cache, k_BGSD: Tensor, v_BGSD: Tensor, gates_BHS: Tensor | None, *where: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and gates of all tokens read so far, after these are put into the cache; `where` as `update` takes.

    The gates of a key/value head's query heads lie beside its keys, as further columns: so they are kept, cropped,
    reordered, offloaded and quantised wherever keys are.
    """
    if gates_BHS is None:
        return (*cache.update(k_BGSD, v_BGSD, *where), None)
    head_dim, per_group = k_BGSD.shape[-1], gates_BHS.shape[1] // k_BGSD.shape[1]
    batch, num_groups, length = k_BGSD.shape[:3]
    columns_BGSJ = gates_BHS.reshape(batch, num_groups, per_group, length).mT.to(k_BGSD.dtype)
    columns_BGSJ = pad(columns_BGSJ, (0, -(head_dim + per_group) % _COLUMNS_MULTIPLE))
    wide, v_BGSD = cache.update(torch.cat([k_BGSD, columns_BGSJ], -1), v_BGSD, *where)
    gates_BGSJ = wide[..., head_dim : head_dim + per_group]
    return wide[..., :head_dim], v_BGSD, gates_BGSJ.mT.flatten(1, 2)
