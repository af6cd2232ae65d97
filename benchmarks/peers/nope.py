"""NoPE + SDPA: no positions at all, the floor."""

from torch.nn.functional import scaled_dot_product_attention

from benchmarks.peers.peer import Built, Case, Peer
from wavepos import NoPE


def build(case: Case) -> Built:
    return Built(run=lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True), position=NoPE())


PEER = Peer(name="nope", title="NoPE + SDPA", formula="q·k", build=build)
