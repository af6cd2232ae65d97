"""`python -m benchmarks`, from a checkout: attention | decode | train-step | generate | yardstick | gpu | all."""

import sys
from abc import ABC, abstractmethod
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tyro.conf import OmitArgPrefixes

from benchmarks.attention import AttentionConfig, attention_config
from benchmarks.decode import DecodeConfig, decode_config
from benchmarks.first_look import first_look
from benchmarks.generate import GenerateConfig, generate_config
from benchmarks.run import BENCHMARKS, run_all, run_benchmark
from benchmarks.train_step import TrainStepConfig, train_step_config
from benchmarks.yardstick import YardstickConfig, yardstick_config
from wavepos.cli.command import quiet, read_command, told
from wavepos.models.loading import default_device

ALL = "all"
DESCRIPTION = """Measure time and memory beside other ways to do the same.

Every method is first checked against the reference; if one is wrong, nothing is measured (exit status 2). What is not
given follows from the device. The result is written after each measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(ABC):
    """What all benchmarks share."""

    out: Path = Path("results")
    """Directory of the result and its plots."""
    resume: bool = False
    """Keep what the same commit measured on this machine with the same settings."""

    @abstractmethod
    def run(self) -> None:
        """Measure."""

    def measured(self, name: str, config: Any) -> None:
        """Run the benchmark of that name."""
        (benchmark,) = (each for each in BENCHMARKS if each.name == name)
        run_benchmark(benchmark, config, self.out, self.resume)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Output):
    """A call of attention at several lengths."""

    config: OmitArgPrefixes[AttentionConfig]

    def run(self) -> None:
        self.measured("attention", self.config)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Decode(Output):
    """A token with a cache of keys."""

    config: OmitArgPrefixes[DecodeConfig]

    def run(self) -> None:
        self.measured("decode", self.config)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep(Output):
    """A training step of a small model."""

    config: OmitArgPrefixes[TrainStepConfig]

    def run(self) -> None:
        self.measured("train-step", self.config)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Generate(Output):
    """Tokens per second of a Llama."""

    config: OmitArgPrefixes[GenerateConfig]

    def run(self) -> None:
        self.measured("generate", self.config)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick(Output):
    """How far every backend is from the reference in float64 on a device; nothing is timed."""

    config: OmitArgPrefixes[YardstickConfig]

    def run(self) -> None:
        self.measured("yardstick", self.config)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu(Output):
    """The first look at a GPU: the yardstick, then attention beside RoPE, cuDNN, FlexAttention and our bare kernel."""

    device: str
    """cuda; cpu tries the same at small sizes."""
    minutes: float = 8.0
    """What is not begun by then is left out; --resume goes on with it."""

    def run(self) -> None:
        first_look(self.device, self.minutes, self.out, self.resume)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class All(Output):
    """All of them, each with its own settings."""

    device: str
    """cpu, or cuda."""
    repeats: int | None = None
    """Pairs of interleaved runs of each measurement, at most."""
    seconds: float | None = None
    """Time after which a measurement begins no more pairs, once it has three."""

    def run(self) -> None:
        settings = {"repeats": self.repeats, "seconds": self.seconds}
        given = {name: value for name, value in settings.items() if value is not None}
        run_all(self.device, given, self.out, self.resume)


COMMANDS: Mapping[str, type[Output]] = {
    "attention": Attention,
    "decode": Decode,
    "train-step": TrainStep,
    "generate": Generate,
    "yardstick": Yardstick,
    "gpu": Gpu,
    ALL: All,
}


def parsed(arguments: Sequence[str]) -> Output:
    """The benchmark that the words of a command line stand for; defaults are those of the device that it names.

    Raises:
        SystemExit: they ask for help, or stand for none.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--device", nargs="?")
    device = parser.parse_known_args(arguments)[0].device or default_device()
    defaults: dict[str, Output] = {
        "attention": Attention(config=attention_config(device)),
        "decode": Decode(config=decode_config(device)),
        "train-step": TrainStep(config=train_step_config(device)),
        "generate": Generate(config=generate_config(device)),
        "yardstick": Yardstick(config=yardstick_config(device)),
        "gpu": Gpu(device=device),
        ALL: All(device=device),
    }
    return read_command(arguments, COMMANDS, defaults, prog="python -m benchmarks", description=DESCRIPTION)


def main() -> None:
    """Entry point."""
    quiet()
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and not {"-h", "--help"} & set(arguments)):
        arguments = [ALL, *arguments]
    told(lambda: parsed(arguments).run())


if __name__ == "__main__":
    main()
