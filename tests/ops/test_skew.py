"""The skewed logits beside the products that it holds."""

import pytest
import torch
from torch import Tensor

from wavepos.ops.fused import skew
from wavepos.ops.fused.skew import SkewLayout

SHAPES = [(37, 9, 0), (1, 5, 30), (48, 50, 7), (33, 1, 0), (16, 17, 1000)]


def entries(logits: Tensor, layout: SkewLayout, batch: int, heads: int) -> Tensor:
    """logits[b,h,i,δ], read by the formula that the kernel uses: by key."""
    rows = logits.view(batch, heads, layout.rows, layout.pitch)
    i = torch.arange(layout.num_queries)[:, None]
    key = layout.query_offset + i - torch.arange(layout.reach)
    return rows[:, :, i, key - i // skew.SKEW * skew.SKEW + layout.key_column]


@pytest.mark.parametrize("num_queries, reach, query_offset", SHAPES)
def test_logits_and_their_gradients(num_queries: int, reach: int, query_offset: int) -> None:
    layout = SkewLayout(reach=reach, num_queries=num_queries, query_offset=query_offset)
    torch.manual_seed(0)
    r, table = torch.randn(2, 3, num_queries, 8).double(), torch.randn(reach, 8).double()
    logits = skew.relative_logits(r, table, layout)
    torch.testing.assert_close(entries(logits, layout, 2, 3), r @ table.mT)
    assert torch.isfinite(logits).all()
    assert logits.abs().sum() == pytest.approx(float((r @ table.mT).abs().sum()))  # unused entries are zero

    grad = entries(logits, layout, 2, 3)  # its own gradient: that of half its squared length
    torch.testing.assert_close(skew.grad_r(logits, table, layout, r.shape), grad @ table)
    expected = torch.einsum("bhtr,bhte->re", grad, r).float()
    torch.testing.assert_close(skew.grad_table(logits, r, layout), expected)
    by_row = logits.view(2, 3, layout.rows, layout.pitch)
    torch.testing.assert_close(skew.grad_bias(by_row, layout), grad.sum((0, 2)).float())


def test_consecutive_keys_are_consecutive_aligned_columns() -> None:
    for query_offset in range(40):
        layout = SkewLayout(reach=23, num_queries=50, query_offset=query_offset)
        assert layout.key_column % skew.SKEW == 0
        assert layout.pitch % skew.SKEW == 0
        assert layout.rows % skew.SKEW == 0
        assert layout.pitch <= layout.reach + 46
