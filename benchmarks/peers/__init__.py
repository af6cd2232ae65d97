"""The peers, each in its own file; here they are listed."""

from benchmarks.peers import (
    alibi_mask,
    flex,
    gather,
    inkling,
    masked,
    nope,
    paper_tip1,
    paper_tip2,
    rope,
    x_transformers_bias,
)
from benchmarks.peers.ours import TITLES, ours
from benchmarks.peers.peer import PASSES, Attend, Built, Case, Pass, Peer, is_called

BASELINE = rope.PEER
PEERS: tuple[Peer, ...] = (
    rope.PEER,
    nope.PEER,
    *(ours(name) for name in TITLES),
    paper_tip1.PEER,
    paper_tip2.PEER,
    gather.PEER,
    flex.PEER,
    inkling.PEER,
    x_transformers_bias.PEER,
    alibi_mask.PEER,
    rope.CUDNN,
    *masked.PEERS,
)


def find_peer(name: str) -> Peer:
    """The peer of a name; NAME@BACKEND is a position of ours with a backend of choice.

    Raises:
        ValueError: an unknown name.
    """
    for peer in PEERS:
        if is_called(name, peer.name):
            return peer
    if "@" in name:
        return ours(*name.split("@", 1))
    known = ", ".join(peer.name for peer in PEERS)
    raise ValueError(f"peers takes {known}, or NAME@BACKEND for those of wavepos, got {name!r}")


__all__ = ["BASELINE", "PASSES", "PEERS", "Attend", "Built", "Case", "Pass", "Peer", "find_peer"]
