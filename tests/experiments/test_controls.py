"""The controls are what they say: equal to the wavelets where they should be, and of their band and rank."""

import math

import pytest
import torch

from wavepos import ALiBi, Wavelet, attention
from wavepos.experiments import controls
from wavepos.experiments.controls import (
    BAND,
    RANK,
    LearnedLowRankConfig,
    LearnedSlopes,
    RandomSmooth,
    WaveletBias,
    control_methods,
    smooth_table,
)
from wavepos.experiments.methods import fit_scales
from wavepos.positions import Position

SCALES = (1.0, 2.0, 4.0, 8.0)
DIM, HEADS, LENGTH = 16, 4, 96


def states(length: int = LENGTH) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, HEADS, length, DIM, generator=generator) for _ in range(3))


def low_rank(start: str, rank: int = DIM, extent: int = 40) -> Position:
    config = LearnedLowRankConfig(extent=extent, rank=rank, start=start, scales=SCALES)
    return config.build(head_dim=DIM, num_heads=HEADS)


@pytest.mark.parametrize(
    "position",
    [
        LearnedSlopes(HEADS),
        WaveletBias(DIM, HEADS, SCALES),
        low_rank("wavelet"),
        low_rank("smooth"),
        RandomSmooth(DIM, SCALES),
    ],
    ids=lambda position: type(position).__name__,
)
def test_every_backend_computes_the_same_and_parameters_get_gradients(position: Position) -> None:
    q, k, v = states()
    outputs = {}
    for backend in ("reference", "banded"):
        position.zero_grad()
        out = attention(q, k, v, position=position, backend=backend)
        out.square().sum().backward() if list(position.parameters()) else None
        gradients = [parameter.grad for parameter in position.parameters()]
        assert all(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients)
        outputs[backend] = (out.detach(), [g.clone() for g in gradients if g is not None])
    torch.testing.assert_close(outputs["banded"][0], outputs["reference"][0], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(outputs["banded"][1], outputs["reference"][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_learned_slopes_start_as_alibi() -> None:
    q, k, v = states()
    ours = attention(q, k, v, position=LearnedSlopes(HEADS))
    torch.testing.assert_close(ours, attention(q, k, v, position=ALiBi(HEADS)), rtol=1e-4, atol=1e-5)


def test_a_learned_table_of_full_rank_starts_as_the_wavelets() -> None:
    wavelet = Wavelet(DIM, scales=SCALES)
    position = low_rank("wavelet", extent=wavelet.reach(1e-7))
    q, k, v = states()
    theirs = attention(q, k, v, position=wavelet)
    torch.testing.assert_close(attention(q, k, v, position=position), theirs, rtol=1e-3, atol=1e-4)


def test_a_learned_table_has_no_more_than_its_rank_and_ends_with_its_band() -> None:
    position = low_rank("smooth", rank=5)
    q, k, _ = states()
    terms = position.terms(q, k)
    assert terms.table is not None and terms.tail == "zero"
    assert terms.table.shape == (40, DIM)
    assert int(torch.linalg.matrix_rank(terms.table)) == 5


def test_the_recency_bias_alone_is_what_the_wavelet_adds_to_zero_queries() -> None:
    bias, wavelet = WaveletBias(DIM, HEADS, SCALES), Wavelet(DIM, scales=SCALES, query_bias="recency", num_heads=HEADS)
    _, k, v = states()
    zero = torch.zeros_like(k)
    ours, theirs = (attention(zero, k, v, position=position) for position in (bias, wavelet))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    q, _, _ = states()
    terms = bias.terms(q, k)
    assert terms.table is None and terms.r_BHTE is None


def test_band_and_rank_of_the_controls_are_those_of_the_wavelets() -> None:
    wavelet = Wavelet(64, scales=fit_scales(256))
    assert wavelet.reach(1e-3) == BAND
    singular = torch.linalg.svdvals(wavelet.table(BAND).double())
    assert int((singular > 1e-3 * singular[0]).sum()) == RANK
    for name in ("Learned table, wavelet start", "Learned table, random smooth start"):
        position = control_methods(256)[name].position
        assert (position["extent"], position["rank"]) == (BAND, RANK)


def test_random_smooth_functions_are_smooth_end_with_the_band_and_do_not_depend_on_the_length() -> None:
    table = smooth_table(DIM, SCALES, 200, draw=0)
    assert torch.equal(smooth_table(DIM, SCALES, 50, draw=0), table[:50])
    assert not torch.equal(smooth_table(DIM, SCALES, 200, draw=1), table)
    assert float(table.abs().amax()) == pytest.approx(1.0)
    for index, scale in enumerate(SCALES):
        columns = table[:, 4 * index : 4 * index + 4]
        assert float(columns[math.ceil(5 * scale) :].abs().amax()) < 1e-3
        assert float(columns.diff(dim=0).abs().amax()) <= 2.0 / scale


def test_a_grid_that_does_not_fit_the_head_is_named() -> None:
    with pytest.raises(ValueError, match="head_dim must be a multiple of the number of scales, got head_dim=15 and 4"):
        smooth_table(15, SCALES, 10, draw=0)
    with pytest.raises(ValueError, match=r"start must be one of .*wavelet.*, got 'random'"):
        LearnedLowRankConfig(extent=3, rank=2, start="random", scales=SCALES)


def test_the_study_holds_all_controls_that_the_library_knows() -> None:
    from wavepos.experiments.study import StudyOptions

    study = controls.controls(StudyOptions())
    assert {*study.rows, *(note.partition(" is left out")[0] for note in study.notes)} == set(control_methods(256))
