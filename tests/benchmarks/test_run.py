"""The benchmarks as a user runs them, at sizes that show nothing but that they work."""

import dataclasses
import json
import statistics
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import attention, decode, first_look, generate, run, yardstick
from benchmarks.attention import AttentionConfig
from benchmarks.decode import DecodeConfig, bench_decode
from benchmarks.figures import summary_table, write_figures
from benchmarks.generate import GenerateConfig
from benchmarks.parity import ParityError
from benchmarks.peers import find_peer, nope
from benchmarks.record import Record
from benchmarks.train_step import TrainStepConfig, bench_train_step
from benchmarks.yardstick import YardstickConfig, try_backends
from wavepos import NoPE
from wavepos.ops import choice
from wavepos.ops.call import Call
from wavepos.ops.reference import REFERENCE

RESULTS = Path(__file__).resolve().parents[2] / "results"
SMALL = ["--lengths", "32", "64", "--repeats", "3", "--seconds", "0", "--device", "cpu"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`python -m benchmarks` in an empty directory: its exit status and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("benchmarks.record.ROUNDS", 1)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
        status = 0
        try:
            command.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return call


def test_attention_writes_its_cells_and_plots_and_resumes(bench: Callable[..., Any], tmp_path: Path) -> None:
    options = ["--peers", "nope", "wavelet", "gather", "rope-cudnn", "--dtypes", "fp32", "--head-dim", "16"]
    status, output = bench("attention", *SMALL, *options, "--max-gib", "1e-4")
    assert status == 0, output
    folder = tmp_path / "results"
    names = {path.name for path in folder.iterdir()}
    plots = {f"attention_cpu_{kind}.{form}" for kind in ("ratio", "memory") for form in ("svg", "png")}
    assert names == {"attention_cpu.json", *plots}
    assert (folder / "attention_cpu_ratio.svg").read_text().startswith("<svg")
    result = json.loads((folder / "attention_cpu.json").read_text())
    assert {"commit", "command", "cpu", "threads", "packages"} <= set(result["environment"])
    assert "allocator" in result["memory"]
    assert "perf_counter" in result["timing"]
    assert result["left_out"] == [
        {"peer": "rope-cudnn", "dtype": "fp32", "reason": "cuDNN attention takes bf16 and fp16 on CUDA", "call": 0}
    ]
    assert {entry["peer"] for entry in result["parity"]} == {"nope", "wavelet", "gather"}
    assert len(result["cells"]) == 3 * 2 * 2
    _judge_cells(result["cells"])
    skipped = [cell for cell in result["cells"] if "skipped" in cell]
    assert {(cell["peer"], cell["seq_len"]) for cell in skipped} == {("gather", 64)}
    assert "the bound is 0.0001 GiB" in skipped[0]["skipped"]
    assert "wavepos: Wavelet" in output
    assert "Left out: rope-cudnn: cuDNN" in output
    status, output = bench("attention", *SMALL, *options, "--max-gib", "1e-4", "--resume")
    assert status == 0, output
    assert json.loads((folder / "attention_cpu.json").read_text())["cells"] == result["cells"]


def test_a_wrong_peer_ends_the_benchmark_without_a_result(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wavelet = find_peer("wavelet")
    wrong = dataclasses.replace(
        wavelet, build=lambda case: dataclasses.replace(wavelet.build(case), run=nope.build(case).run)
    )
    monkeypatch.setattr(attention, "find_peer", lambda name: wrong if name == "wavelet" else find_peer(name))
    status, output = bench("attention", *SMALL, "--peers", "nope", "wavelet", "--head-dim", "16")
    assert status == 2
    assert "wavelet differs from the reference, so nothing is measured" in " ".join(output.split())
    assert not (tmp_path / "results").exists()


def test_an_interruption_keeps_the_cells_before_it(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.record.ROUNDS", 3)
    measured = attention._measured
    calls = count()

    def stop(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return measured(*arguments)

    monkeypatch.setattr(attention, "_measured", stop)
    options = ["--peers", "nope", "--dtypes", "fp32", "--head-dim", "16"]
    status, _ = bench("attention", *SMALL, *options)
    assert status == 130
    path = tmp_path / "results" / "attention_cpu.json"
    before = json.loads(path.read_text())["cells"]
    assert [cell["rounds"] for cell in before] == [1, 1]
    status, _ = bench("attention", *SMALL, *options, "--resume")
    after = json.loads(path.read_text())["cells"]
    assert status == 0
    assert [cell["rounds"] for cell in after] == [3, 3, 3, 3]
    for cell, old in zip(after, before, strict=False):
        assert cell["samples"][: len(old["samples"])] == old["samples"]
        assert len(cell["samples"]) == len(cell["baseline_samples"]) > len(old["samples"])
        assert cell["milliseconds"]["median"] == pytest.approx(statistics.median(cell["samples"]), rel=1e-4)


def test_every_cell_says_which_call_made_it(bench: Callable[..., Any], tmp_path: Path) -> None:
    options = ["--dtypes", "fp32", "--head-dim", "16", "--device", "cpu", "--repeats", "3", "--seconds", "0"]
    assert bench("attention", "--lengths", "32", "--peers", "nope", "rope-cudnn", *options)[0] == 0
    assert bench("attention", "--lengths", "64", "--peers", "wavelet", "--resume", *options)[0] == 0
    result = json.loads((tmp_path / "results" / "attention_cpu.json").read_text())
    calls = result["calls"]
    assert [call["config"]["lengths"] for call in calls] == [[32], [64]]
    assert ["--lengths 32" in call["environment"]["command"] for call in calls] == [True, False]
    assert all("commit" in call["environment"] for call in calls)
    assert (result["config"], result["environment"]) == (calls[0]["config"], calls[0]["environment"])
    for cell in result["cells"]:
        config = calls[cell["call"]]["config"]
        assert cell["seq_len"] in config["lengths"]
        assert cell["peer"] in config["peers"]
    assert {(entry["peer"], entry["call"]) for entry in result["parity"]} == {("nope", 0), ("wavelet", 1)}
    assert [entry["call"] for entry in result["left_out"]] == [0]


TIMED = [path for path in sorted(RESULTS.glob("*_cpu.json")) if path.stem != "yardstick_cpu"]


@pytest.mark.parametrize("path", TIMED, ids=lambda path: path.stem)
def test_results_that_are_here_are_read_and_drawn(path: Path, tmp_path: Path) -> None:
    result = json.loads(path.read_text())
    written = write_figures(result, tmp_path / path.name)
    assert {p.suffix for p in written} == {".svg", ".png"}
    assert summary_table(result).row_count > 0
    copy = tmp_path / path.name
    copy.write_text(path.read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.record.environment", lambda: {**result["environment"], "command": "again"})
        keys = ("peer", "seq_len", "dtype")
        record = Record(copy, result["benchmark"], result["config"], keys, ("lengths",), resume=True)
    assert record.result["cells"] == result["cells"]
    assert record.found(result["cells"][0]) == result["cells"][0]
    before = [call["environment"]["command"] for call in result.get("calls", ())]
    assert [call["environment"]["command"] for call in record.result["calls"]] == [*before, "again"]


def test_decode_measures_a_token(bench: Callable[..., Any], tmp_path: Path) -> None:
    status, output = bench("decode", *SMALL, "--num-heads", "2", "--head-dim", "16")
    assert status == 0, output
    result = json.loads((tmp_path / "results" / "decode_cpu.json").read_text())
    assert len(result["cells"]) == 2 * 2 * 5
    _judge_cells(result["cells"])
    assert (tmp_path / "results" / "decode_cpu_ratio.png").stat().st_size > 1000


def test_a_wrong_decoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(decode.ROPE, position=lambda _: NoPE())
    monkeypatch.setattr(decode, "DECODERS", (wrong,))
    config = DecodeConfig(device="cpu", lengths=(64,), peers=("rope",), num_heads=2, head_dim=16)
    with pytest.raises(ParityError, match="rope differs from the reference"):
        bench_decode(config, tmp_path / "decode.json", False, lambda *_: None)
    assert not list(tmp_path.iterdir())


def test_train_step_measures_tokens_a_second(bench: Callable[..., Any], tmp_path: Path) -> None:
    options = ("--peers", "rotary", "wavelet", "--batch-tokens", "64")
    status, output = bench("train-step", *SMALL[:2], *SMALL[3:], *options)
    assert status == 0, output
    result = json.loads((tmp_path / "results" / "train_step_cpu.json").read_text())
    _judge_cells(result["cells"])
    assert [cell["peer"] for cell in result["cells"]] == ["rotary", "wavelet"]
    for cell in result["cells"]:
        seconds = cell["milliseconds"]["median"] / 1000.0
        assert cell["tokens_per_second"] == pytest.approx(cell["tokens"] / seconds, rel=1e-3, abs=0.06)


def test_generate_measures_tokens_a_second_beside_transformers_llama(bench: Callable[..., Any], tmp_path: Path) -> None:
    options = ["--sizes", "tiny", "--dtypes", "fp32", "--peers", "rotary", "wavelet", "--new-tokens", "4"]
    status, output = bench("generate", *SMALL, *options)
    assert status == 0, output
    result = json.loads((tmp_path / "results" / "generate_cpu.json").read_text())
    assert {(cell["peer"], cell["seq_len"]) for cell in result["cells"]} == {
        (peer, length) for peer in ("rotary", "wavelet") for length in (32, 64)
    }
    for cell in result["cells"]:
        tokens = result["config"]["new_tokens"] * 1000.0
        assert cell["tokens_per_second"] == pytest.approx(tokens / cell["milliseconds"]["median"], rel=0.01)
        baseline = cell["baseline_milliseconds"]["median"]
        assert cell["baseline_tokens_per_second"] == pytest.approx(tokens / baseline, rel=0.01)


def test_cached_logits_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GenerateConfig(device="cpu")
    assert generate.check_cached_logits(config, "wavelet", "fp32")
    real = generate.DynamicCache.update

    def shifted(self: Any, k: Any, v: Any, *rest: Any) -> Any:
        keys, values = real(self, k, v, *rest)
        return keys, values.roll(1, 2)

    monkeypatch.setattr(generate.DynamicCache, "update", shifted)
    with pytest.raises(ParityError, match="wavelet differs from the reference"):
        generate.check_cached_logits(config, "wavelet", "fp32")


def test_a_model_that_loses_its_position_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wavepos.ops.attention import attention as attend

    def without(*tensors: Any, position: Any, backend: Any, **options: Any) -> Any:
        return attend(*tensors, position=NoPE() if backend == "auto" else position, backend=backend, **options)

    monkeypatch.setattr("wavepos.models.base.attention", without)
    config = TrainStepConfig(device="cpu", lengths=(32,), peers=("wavelet",))
    with pytest.raises(ParityError, match="wavelet differs from the reference"):
        bench_train_step(config, tmp_path / "train_step.json", False, lambda *_: None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("attention", "--peers", "ropes"), "peers takes rope, nope"),
        (("attention", "--dtypes", "int8"), "dtypes takes fp32, bf16, fp16, got 'int8'"),
        (("attention", "--sizes", "tiny"), "Unrecognized options: --sizes"),
        (("train-step", "--num-heads", "2"), "Unrecognized options: --num-heads"),
        (("all", "--lengths", "32"), "Unrecognized options: --lengths"),
        (("decode", "--peers", "gather"), "peers of decode takes rope, nope"),
        (("train-step", "--peers", "learned_relative"), "peers of train-step takes nope, rotary"),
        (("decode", "--lengths", "1"), "lengths must be at least 2"),
        (("attention", "--device", "tpu"), "device must be cpu, or cuda where there is one, got 'tpu'"),
        (("attention", "--seconds", "nan"), "seconds must be finite and at least 0, got nan: seconds=2 would do"),
        (("decode", "--seconds", "inf"), "seconds must be finite and at least 0, got inf"),
        (("gpu", "--minutes", "inf"), "minutes must be finite and positive, got inf: --minutes 8 would do"),
        (("gpu", "--minutes", "nan"), "minutes must be finite and positive, got nan"),
        (("attention", "--out", ""), "--out must not be empty, got ''"),
    ],
    ids=str,
)
def test_wrong_input_is_one_clear_line(
    arguments: tuple[str, ...], message: str, bench: Callable[..., Any], tmp_path: Path
) -> None:
    device = () if "--device" in arguments else ("--device", "cpu")
    status, output = bench(*arguments, *device)
    assert status == 2
    assert message in " ".join(output.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "typed", "names"),
    [
        (
            AttentionConfig,
            ("RoPE", "Rotary", "learned_relative"),
            ("rope", "rope", "learned-relative"),
        ),
        (AttentionConfig, ("T5@reference", "Alibi-Mask"), ("t5@reference", "alibi-mask")),
        (DecodeConfig, ("RoPE", "NoPE", "alibi_mask"), ("rope", "nope", "alibi-mask")),
        (TrainStepConfig, ("RoPE", "Transformer-XL"), ("rotary", "transformer_xl")),
        (GenerateConfig, ("rope", "WAVELET"), ("rotary", "wavelet")),
    ],
)
def test_peers_are_understood_as_people_type_them(config: Any, typed: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert config(device="cpu", lengths=(64,), peers=typed).peers == names


def test_help_shows_the_settings_of_the_device(bench: Callable[..., Any]) -> None:
    for device, default in (("cpu", "1024 2048 4096 8192)"), ("cuda", "1024 2048 4096 8192 16384 32768 65536)")):
        status, output = bench("attention", "--device", device, "--help")
        assert status == 0
        text = " ".join(output.replace("│", " ").split())
        assert f"L, tokens. (default: {default}" in text
        assert "Pairs of interleaved runs" in text


def test_without_a_name_all_are_run_with_settings_of_their_own(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, Any]] = []
    monkeypatch.setattr(run, "run_benchmark", lambda benchmark, config, *_: ran.append((benchmark.name, config)))
    assert bench("--device", "cpu", "--repeats", "4")[0] == 0
    assert [name for name, _ in ran] == ["attention", "decode", "train-step", "generate"]
    assert [config.repeats for _, config in ran] == [4] * 4
    assert ran[1][1] == dataclasses.replace(decode.decode_config("cpu"), repeats=4)


def _judge_cells(cells: list[dict[str, Any]]) -> None:
    for cell in cells:
        if "skipped" in cell:
            continue
        assert cell["seq_len"] in (32, 64)
        for name in ("milliseconds", "baseline_milliseconds", "ratio"):
            assert 0.0 < cell[name]["lower"] <= cell[name]["median"] <= cell[name]["upper"]
        assert len(cell["samples"]) == len(cell["baseline_samples"]) == 3
        assert "peak_bytes" not in cell or cell["peak_bytes"] >= 4 * cell["seq_len"]


def test_the_first_look_judges_every_backend_and_then_measures(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = YardstickConfig(device="cpu", dtypes=("fp32",), head_dims=(16,), positions=("RoPE", "Wavelet"))
    monkeypatch.setattr(first_look, "yardstick_config", lambda device: small)
    monkeypatch.setattr(yardstick, "CALLS", {name: yardstick.CALLS[name] for name in ("near", "cache", "decode")})
    monkeypatch.setattr(first_look, "LENGTHS", (64,))
    monkeypatch.setattr(first_look, "PEERS", ("rope", "wavelet"))
    status, output = bench("gpu", "--device", "cpu", "--out", str(tmp_path / "gpu"))
    assert status == 0, output
    found = json.loads((tmp_path / "gpu" / "yardstick_cpu.json").read_text())
    verdicts = {(cell["position"], cell["backend"]): set() for cell in found["cells"]}
    for cell in found["cells"]:
        verdicts[cell["position"], cell["backend"]].add(cell["verdict"])
    assert verdicts["Wavelet", "banded"] == verdicts["RoPE", "auto"] == {"within"}
    assert verdicts["Wavelet", "triton"] == {"refused"}
    assert {"commit", "packages"} <= set(found["environment"])
    assert json.loads((tmp_path / "gpu" / "attention_cpu.json").read_text())["cells"]
    before = (tmp_path / "gpu" / "yardstick_cpu.json").read_text()
    assert bench("gpu", "--device", "cpu", "--out", str(tmp_path / "gpu"), "--resume")[0] == 0
    assert json.loads((tmp_path / "gpu" / "yardstick_cpu.json").read_text())["cells"] == json.loads(before)["cells"]


def test_the_first_look_ends_in_time_and_says_what_it_left_out(bench: Callable[..., Any], tmp_path: Path) -> None:
    status, output = bench("gpu", "--device", "cpu", "--minutes", "1e-9", "--out", str(tmp_path))
    assert status == 0
    assert "yardstick: time is up, before NoPE fp32 D=64; --resume goes on with it" in output
    message = "Error: minutes must be finite and positive, got 0.0: --minutes 8 would do\n"
    assert bench("gpu", "--device", "cpu", "--minutes", "0") == (2, message)


def test_the_yardstick_tells_a_wrong_backend_and_one_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong(call: Call) -> torch.Tensor:
        return REFERENCE.compute(call) * (1.01 if call.mask.num_queries > 200 else 1.0)

    def failing(call: Call) -> torch.Tensor:
        raise RuntimeError("no such instruction\nat line 3")

    for name, compute in (("banded", wrong), ("triton", failing)):
        monkeypatch.setitem(choice.IMPLEMENTATIONS, name, dataclasses.replace(REFERENCE, compute=compute))
    shorter = {
        name: (
            {key: -(-size // 5) for key, size in sizes.items()},
            {key: value and value // 5 for key, value in told.items()},
        )
        for name, (sizes, told) in yardstick.CALLS.items()
    }
    monkeypatch.setattr(yardstick, "CALLS", shorter)
    config = YardstickConfig(device="cpu", dtypes=("fp32",), head_dims=(16,), positions=("ALiBi",))
    cells = try_backends(config, tmp_path / "found.json", False, lambda *_: None)["cells"]
    of_banded = {cell["call"]: cell["verdict"] for cell in cells if cell["backend"] == "banded"}
    beyond = {"near and far": "beyond", "window": "beyond", "both ways": "beyond"}
    assert of_banded == {"near": "within", "cache": "within", "decode": "within"} | beyond
    (reason,) = {cell["reason"] for cell in cells if cell["backend"] == "triton"}
    assert reason == "RuntimeError: no such instruction"
