"""The paper's numbers as data: their shape, what they say of themselves, and the comparisons read off them."""

import pytest

from wavepos.experiments.published import (
    FIGURE11,
    LENGTHS,
    LENGTHS_1024,
    NOTES,
    SUSPECT_CELLS,
    TABLE1,
    TABLE2,
    TABLE3,
    TABLE4,
    TABLE5,
    Comparison,
    comparisons,
    verdict,
)


def test_tables_have_the_papers_rows_and_columns() -> None:
    assert [len(TABLE3), len(TABLE4), len(TABLE5), len(TABLE2)] == [23, 31, 9, 2]
    for protocol, rows in (("nonoverlapping", 6), ("whole", 10)):
        assert len(TABLE1[protocol][512]) == rows
        assert all(len(row) == len(LENGTHS) for row in TABLE1[protocol][512].values())
        assert all(len(row) == len(LENGTHS_1024) for row in TABLE1[protocol][1024].values())
    assert all(len(row) == len(LENGTHS) for row in (*TABLE3.values(), *TABLE4.values()))
    assert set(FIGURE11) == set(TABLE5)
    assert sum(one.samples for one in TABLE5.values()) == 1750


def test_up_to_the_trained_length_both_protocols_are_one() -> None:
    for train_len, upto in ((512, 3), (1024, 1)):
        for name, row in TABLE1["nonoverlapping"][train_len].items():
            assert row[:upto] == TABLE1["whole"][train_len][name][:upto]


def test_rows_that_stand_in_several_tables_agree() -> None:
    whole = TABLE1["whole"][512]
    for name, third, fourth in (
        ("Wavelet", "ricker-0-7", "ricker"),
        ("Gaussian", "gaussian-0-7", "gaussian"),
        ("Haar", "haar-0-7", "haar"),
        ("Morlet", "morlet-0-7", "morlet"),
    ):
        assert whole[name] == TABLE3[third] == TABLE4[fourth]
    assert whole["Haar, fixed scale"] == TABLE3["haar-fixed"]


def test_what_the_notes_say_of_the_numbers_is_so() -> None:
    beyond = TABLE1["nonoverlapping"]
    jumps = [row[1] - row[0] for row in beyond[1024].values()]
    assert 0.7 <= min(jumps) <= max(jumps) <= 1.1
    assert all(row[3] < row[2] for row in beyond[512].values())
    assert [name for name, row in TABLE4.items() if row[2] > row[1]] == ["bior1.3"]
    assert [name for name, row in TABLE3.items() if row[1] > row[0]] == ["gaussian-0-3"]
    falls = {name: round(row[0] - row[1], 2) for name, row in TABLE1["whole"][1024].items()}
    assert falls.pop("Wavelet") == 1.13
    assert 0.1 <= min(falls.values()) <= max(falls.values()) <= 0.53
    assert len(NOTES) == 9


def find(table: str, **fields: object) -> list[Comparison]:
    return [c for c in comparisons(table) if all(getattr(c, key) == value for key, value in fields.items())]


def test_comparisons_say_who_is_below_whom_at_which_length() -> None:
    (one,) = find("1", protocol="whole", train_len=512, length=2512, better="Wavelet", worse="ALiBi")
    assert (one.margin, one.suspect) == (0.42, False)
    assert one.factor == pytest.approx(2512 / 512)
    (gaussian,) = find("1", protocol="whole", train_len=512, length=2512, better="Gaussian", worse="Wavelet")
    assert gaussian.margin == 0.11
    assert not find("1", protocol="whole", train_len=512, length=2512, better="Wavelet", worse="Gaussian")
    assert [c.length for c in find("2", better="Wavelet", worse="RoPE 500k")] == [4096, 8192, 16384, 32768]


def test_of_every_two_rows_at_a_length_one_comparison_is_made_unless_they_tie() -> None:
    for table, rows in (("3", TABLE3), ("4", TABLE4)):
        expected = sum(
            len({first[column], second[column]}) == 2
            for column in range(6)
            for index, first in enumerate(rows.values())
            for second in list(rows.values())[:index]
        )
        assert len(comparisons(table)) == expected


def test_numbers_below_the_trained_length_are_compared_once() -> None:
    assert not [c for c in find("1", protocol="nonoverlapping") if c.length <= c.train_len]
    assert len(find("1", protocol="whole", length=128, better="Wavelet", worse="RoPE")) == 1


def test_comparisons_of_suspect_numbers_are_marked() -> None:
    assert all(c.suspect for c in find("1", protocol="nonoverlapping", train_len=1024))
    beyond = find("1", protocol="nonoverlapping", train_len=512)
    assert {c.suspect for c in beyond} == {True, False}
    assert all(c.suspect == (c.margin < 0.1) for c in beyond)
    marked = [c for c in comparisons("3") if c.suspect]
    assert marked
    assert all(
        ("3", "gaussian-0-3", c.length) in SUSPECT_CELLS and "gaussian-0-3" in (c.better, c.worse) for c in marked
    )
    assert not any(c.suspect for c in find("1", protocol="whole"))


def test_a_verdict_needs_an_interval_off_zero() -> None:
    assert [verdict(0.1, 0.5), verdict(-0.5, -0.1), verdict(-0.1, 0.2)] == ["holds", "fails", "cannot be told"]


def test_tables_without_comparisons_are_refused() -> None:
    with pytest.raises(ValueError, match="table must be one of 1, 2, 3, 4, got '5'"):
        comparisons("5")
