"""Tables 3 and 4 as studies at cpu size: 23 grids of scales and shifts, 31 types of wavelet, at half the tokens."""

import dataclasses
from typing import Any

from wavepos.experiments.ablations import Ablation, AblationTable, ablations
from wavepos.experiments.study import Evaluation, Method, Study, StudyOptions, StudyRun, select_methods, with_baseline
from wavepos.experiments.table1 import CPU_STEPS, WIKIPEDIA, cpu_config

HEAD_DIM = 64
"""Of the tiny model."""
SEQ_LEN = 256
STEPS = CPU_STEPS // 2


def table3(options: StudyOptions) -> Study:
    """Table 3: which scales and shifts? 23 grids, with how much of each is alive inside L_train."""
    return _study("3", options)


def table4(options: StudyOptions) -> Study:
    """Table 4: which type of wavelet? 31 types, with how much of each is alive inside L_train."""
    return _study("4", options)


def _study(table: AblationTable, options: StudyOptions) -> Study:
    name = f"table{table}"
    options.size_among(name, ("cpu",))
    rows = {row.name: row for row in ablations(table, HEAD_DIM)}
    methods = select_methods(options.methods, {name: Method(position=row.position) for name, row in rows.items()})
    read = Evaluation(lengths=tuple(SEQ_LEN * 2**i // 2 for i in range(6)), protocols=("whole",))
    runs = tuple(
        StudyRun(
            name=method,
            config=cpu_config(chosen.position, options.corpus or WIKIPEDIA, seed, STEPS),
            evaluations=(read,),
        )
        for seed in range(options.num_seeds(1))
        for method, chosen in methods.items()
    )
    baseline = next(iter(rows))
    return Study(
        name=name,
        title=f"Table {table} at size cpu: {len(methods)} {'grids of scales' if table == '3' else 'types of wavelet'}",
        runs=runs,
        baseline=with_baseline(baseline, methods),
        needs=f"as table1 --size cpu; half its tokens: 2 minutes a run on 2 CPU cores, {len(rows)} runs",
        notes=(
            "Grids and types differ in more than the scales or the wavelet: dimensions that are dead inside L_train, "
            "the rank of the table, how far it reaches. They stand beside each perplexity.",
        ),
        published=table,
        facts={name: row_facts(rows[name]) for name in methods if name in rows},
    )


def row_facts(row: Ablation) -> dict[str, Any]:
    """Dead dimensions, rank and band of a row's table at L_train, as the report shows them."""
    found = dataclasses.asdict(row.statistics(SEQ_LEN))
    return {
        "dead dimensions": f"{found['dead']} of {found['dims']}",
        "rank": found["centred_rank"],
        "band": found["band"],
        "largest value": f"{found['peak']:.3g}",
    }
