"""transformers' own relative logits of the Inkling models, in its SDPA attention as its layer calls it."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.peer import Built, Case, Peer, dense
from wavepos import LearnedRelative

RELATIVE_DIM, EXTENT = 16, 1024


def build(case: Case) -> Built:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.models.inkling.modeling_inkling import InklingRelativeLogits

    logits: Any = InklingRelativeLogits(RELATIVE_DIM, EXTENT)
    nn.init.normal_(logits.proj, std=0.3, generator=torch.Generator().manual_seed(case.seed))
    logits.to(case.device, case.dtype)
    layer = SimpleNamespace(num_key_value_groups=1, is_causal=True)
    states_BHLE = case.draw(case.batch, case.num_heads, case.seq_len, RELATIVE_DIM, stream=5).requires_grad_()
    places = torch.arange(case.seq_len, device=case.device)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bias = logits(states_BHLE.transpose(1, 2), places, places)
        out_BLHD, _ = sdpa_attention_forward(layer, q, k, v, None, scaling=case.softmax_scale, position_bias=bias)
        out: Tensor = out_BLHD.transpose(1, 2)
        return out

    position = LearnedRelative(relative_dim=RELATIVE_DIM, extent=EXTENT)
    with torch.no_grad():
        position.weight.copy_(logits.proj.mT)
    learned = (states_BHLE, logits.proj)
    return Built(run=run, position=position, learned=learned, arguments={"relative_states": states_BHLE})


PEER = Peer(
    name="inkling",
    title="transformers' Inkling layer",
    formula="q·k + r·p(δ), p learned",
    build=build,
    quadratic_bytes=dense(7, 9),
    module="transformers.models.inkling.modeling_inkling",
)
