"""The study of stretched positions: what is read, what goes on from what, and at which length."""

import pytest

from wavepos.experiments.stretch import FACTORS, SEQ_LEN, UPDATES, stretch, stretch_methods
from wavepos.experiments.study import StudyOptions
from wavepos.experiments.table1 import table1
from wavepos.positions import parse_position


def test_what_it_goes_on_from_is_trained_by_table_1() -> None:
    trained = [run.config for run in table1(StudyOptions(seeds=3)).runs]
    study = stretch(StudyOptions())
    assert {run.config.seed for run in study.runs} == {0, 1, 2}
    for run in study.runs:
        assert (run.begins_with or run.config) in trained


def test_a_scaling_is_trained_at_the_length_it_is_for_and_beside_it_what_is_not_scaled() -> None:
    lengths: dict[str, list[int]] = {}
    for run in stretch(StudyOptions(seeds=1)).runs:
        if run.begins_with is not None:
            assert (run.config.steps, run.config.batch_tokens) == (UPDATES, 2048)
            lengths.setdefault(run.name, []).append(run.config.seq_len)
    for factor in FACTORS:
        assert lengths[f"Wavelet, stretched {factor}x"] == [factor * SEQ_LEN]
        assert lengths[f"RoPE, YaRN {factor}x"] == [factor * SEQ_LEN]
    assert lengths["RoPE"] == lengths["Wavelet"] == [SEQ_LEN, *(factor * SEQ_LEN for factor in FACTORS)]
    assert lengths["RoPE, dropped"] == [SEQ_LEN]
    assert "RoPE, dynamic NTK" not in lengths


@pytest.mark.parametrize("name", [name for name, method in stretch_methods().items() if method.read_with is not None])
def test_every_row_is_read_with_another_position_than_it_was_trained_with(name: str) -> None:
    method = stretch_methods()[name]
    read, trained = (
        parse_position(each).build(head_dim=64, num_heads=3) for each in (method.read_with, method.position)
    )
    assert parse_position(method.read_with) != parse_position(method.position)
    if "stretched" in name:
        factor = int(name.rpartition(" ")[2].removesuffix("x"))
        assert read.reach() > 0.9 * factor * (trained.reach() - 8)
