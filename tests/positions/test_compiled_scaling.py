"""Rotations that follow the number of keys, in compiled code of any length."""

import pytest
import torch
from torch import Tensor

from wavepos import Rotary, attention
from wavepos.positions.rotary_scaling import DynamicNTKScaling, LongRopeScaling, RotaryScaling

SCALINGS: dict[str, RotaryScaling] = {
    "dynamic": DynamicNTKScaling(factor=4.0, max_position_embeddings=16),
    "longrope": LongRopeScaling(
        short_factor=(1.0,) * 4, long_factor=(4.0,) * 4, factor=4.0, original_max_position_embeddings=16
    ),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_one_graph_serves_lengths_on_both_sides_of_the_trained_one(name: str) -> None:
    torch.compiler.reset()
    position, graphs = Rotary(8, scaling=SCALINGS[name]), []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def run(q: Tensor) -> Tensor:
        return attention(q, q, q, position=position)

    compiled = torch.compile(run, backend=count, fullgraph=True, dynamic=True)
    for length in (12, 24, 40):
        q = torch.randn(1, 2, length, 8, requires_grad=True)
        (found,), (expected,) = (torch.autograd.grad(call(q).square().sum(), q) for call in (compiled, run))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(graphs) == 1
