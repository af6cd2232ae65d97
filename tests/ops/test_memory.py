"""What a call holds at once: that of RoPE and plain attention, and buffers that do not grow with the length."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.measure import peak_bytes
from wavepos import Rotary, Wavelet, attention
from wavepos.positions import Position


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_forward_and_backward_hold_a_tenth_more_than_rope_at_most(dtype: torch.dtype) -> None:
    """Made before the far part's own gradients were let go, the totals took it to 1.18 of RoPE's in bfloat16."""

    def call(position: Position) -> Callable[[], object]:
        q, k, v, grad = torch.randn(4, 1, 2, 4096, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
        leaves = [x.requires_grad_() for x in (q, k, v)]
        return lambda: torch.autograd.grad(attention(*leaves, position=position, backend="banded"), leaves, grad)

    peaks = []
    for position in (Rotary(128), Wavelet(128)):
        once = call(position)
        once()  # tables are made and kept
        peaks.append(peak_bytes(once, "cpu"))
    assert peaks[1] <= 1.10 * peaks[0]
