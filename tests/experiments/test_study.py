"""Studies as data: what options change, which names are understood, and what the project's own ones hold."""

import dataclasses
from collections.abc import Callable

import pytest

from wavepos.experiments.catalogue import STUDIES, load_study
from wavepos.experiments.methods import fit_scales, table1_methods
from wavepos.experiments.study import Evaluation, Method, Study, StudyOptions, select_methods
from wavepos.experiments.table1 import WIKIPEDIA, cpu_config, ladder, table1
from wavepos.runs import fingerprint
from wavepos.training.config import TrainConfig

KNOWN = {"RoPE": Method(position={"method": "rotary"}), "Wavelet, fit grid": Method(position={"method": "wavelet"})}


def test_methods_are_named_in_three_ways() -> None:
    chosen = select_methods(["rope", "shaw", '{"method": "wavelet", "direction": "future"}'], KNOWN)
    assert chosen["RoPE"] is KNOWN["RoPE"]
    assert chosen["shaw"].position["max_distance"] == 32
    assert chosen['{"method": "wavelet", "direction": "future"}'].position["direction"] == "future"


def test_a_pattern_of_layers_is_a_method_of_a_study() -> None:
    pattern = '{"local": {"method": "wavelet", "window": 64}, "global": "nope", "every": 4}'
    chosen = select_methods([pattern, '["rope", "nope"]'], KNOWN)
    assert list(chosen) == [pattern, '["rope", "nope"]']
    assert chosen[pattern].position["local"]["window"] == 64
    assert [one["method"] for one in chosen['["rope", "nope"]'].position] == ["rotary", "nope"]


def test_spelling_does_not_matter() -> None:
    chosen = select_methods(["ROPE", "wavelet fit-grid", "Transformer-XL", "transformerXL", "T5-bias"], KNOWN)
    assert list(chosen) == ["RoPE", "Wavelet, fit grid", "transformer_xl", "t5"]


@pytest.mark.parametrize(
    ("name", "hint"), [("ropes", "did you mean 'RoPE'"), ('{"method": "wavelet", "side": 1}', "unknown key 'side'")]
)
def test_unknown_methods_are_named_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"methods takes 'RoPE', .* got .*{hint}"):
        select_methods([name], KNOWN)


def test_rows_are_chosen_by_name_or_number(small_study: Callable[..., Study]) -> None:
    study = small_study(("nope", "alibi", "rotary"), seeds=2)
    assert study.only(["2", "ROTARY"]).rows == ("alibi", "rotary")
    with pytest.raises(ValueError, match="number 1 … 3, got 'rotery'; did you mean 'rotary'"):
        study.only(["rotery"])


def test_two_runs_in_one_cell_of_a_table_are_refused(small_study: Callable[..., Study]) -> None:
    run = small_study(("nope",)).runs[0]
    other = dataclasses.replace(run, config=dataclasses.replace(run.config, learning_rate=5e-3))
    with pytest.raises(ValueError, match="must have names of their own, got two runs 'nope' of seed 0"):
        Study(name="twice", title="Twice", runs=(run, other), baseline="nope")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lengths": ()}, "lengths must hold at least one positive number"),
        ({"lengths": (8,), "protocols": ("all",)}, "protocols must be some of nonoverlapping, whole, sliding"),
        ({"lengths": (8,), "tokens": 0}, "tokens must be at least 1"),
    ],
)
def test_evaluations_that_say_nothing_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluation(**fields)


@pytest.mark.parametrize("name", STUDIES)
def test_the_projects_studies_name_what_they_need(name: str) -> None:
    study, path = load_study(name, StudyOptions())
    assert study.name == name
    assert study.needs
    assert study.baseline in study.rows
    assert path is None


def test_unknown_studies_are_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="got 'tabel1'; did you mean 'table1'"):
        load_study("tabel1", StudyOptions())
    with pytest.raises(ValueError, match="size of study 'ladder' must be one of cpu, got 'paper'"):
        load_study("ladder", StudyOptions(size="paper"))


def test_table_1_at_cpu_size_is_the_agreed_training() -> None:
    expected = TrainConfig(
        model="baevski-auli",
        size="tiny",
        position={"method": "rotary"},
        corpus="jsonl:../shared/data/enwiki.jsonl.xz",
        tokenizer="bpe:4096",
        max_tokens=24_000_000,
        seq_len=256,
        steps=1000,
        batch_tokens=2048,
        learning_rate=3e-3,
        warmup_steps=50,
        final_learning_rate=3e-4,
        save_every=100,
        log_every=10,
        precision="auto",
        seed=2,
        **({"validate_every": 100} if "validate_every" in TrainConfig.__dataclass_fields__ else {}),
    )
    runs = [run for run in table1(StudyOptions(size="cpu")).runs if run.name == "RoPE"]
    assert [run.config.seed for run in runs] == [0, 1, 2]
    assert runs[2].config == expected
    own, *others = runs[0].evaluations
    assert own.corpus is None and own.lengths == (128, 256, 512, 1024, 2048, 4096) and own.tokens == 65_536
    assert [other.corpus for other in others] == ["wikitext103-plain:../shared/data/wikitext-103", "stdlib"]


def test_the_first_methods_have_three_seeds_and_come_first() -> None:
    runs = table1(StudyOptions()).runs
    seeds = {name: sorted(run.config.seed for run in runs if run.name == name) for name in table1(StudyOptions()).rows}
    assert seeds["Wavelet, fit grid"] == [0, 1, 2] and seeds["T5"] == [0]
    order = [(seeds[run.name] != [0], run.config.seed) for run in runs]
    assert order == sorted(order, key=lambda pair: (not pair[0], pair[1]))


def test_yarn_at_reading_time_is_the_run_of_rope() -> None:
    by_name = {run.name: run for run in table1(StudyOptions(seeds=1)).runs}
    read = by_name["RoPE, read with YaRN 8x"]
    assert fingerprint(read.config) == fingerprint(by_name["RoPE"].config)
    assert read.evaluations[0].read_with is not None
    assert read.evaluations[0].read_with["scaling"]["original_max_position_embeddings"] == 256


def test_the_fit_grid_is_the_papers_at_512_and_half_of_it_at_256() -> None:
    assert fit_scales(512) == tuple(2.0**i for i in range(8))
    assert fit_scales(256) == (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    assert not [name for name in table1_methods(512) if "fit grid" in name]


def test_the_ladder_shares_its_second_rung_with_table_1() -> None:
    rungs = [run.config for run in ladder(StudyOptions()).runs if run.name == "ALiBi"]
    assert [config.steps * config.batch_tokens for config in rungs] == [1_024_000, 2_048_000, 4_096_000, 16_384_000]
    assert rungs[1] == cpu_config({"method": "alibi"}, WIKIPEDIA, 0)
    assert rungs[1] in [run.config for run in table1(StudyOptions()).runs]


def test_the_papers_size_is_its_recipe_at_both_lengths() -> None:
    runs = [run for run in table1(StudyOptions(size="paper", seeds=1)).runs if run.name == "Wavelet"]
    assert [(run.config.seq_len, run.config.steps, run.config.optimizer) for run in runs] == [
        (512, 286_000, "nag"),
        (1024, 286_000, "nag"),
    ]
    assert runs[0].evaluations[0].lengths == (512, 1012, 1512, 2512)
    assert runs[1].evaluations[0].lengths == (512, 1012, 1024, 1512, 2512)
    assert runs[0].evaluations[0].tokens is None


def test_seeds_below_one_are_named() -> None:
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        StudyOptions(seeds=0)
