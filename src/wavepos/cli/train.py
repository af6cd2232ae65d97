"""wavepos train: one model. What is not given is the recipe's of the model and size, and stands so in the help."""

import dataclasses
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final, get_args

import tyro
from tyro.conf import OmitArgPrefixes, arg

from wavepos.cli.command import CORPUS_HELP, JSON_HELP, METHOD_HELP, Command
from wavepos.console import console, is_first_process, num_processes, progress
from wavepos.names import SIZES, AnySize, ModelName
from wavepos.training.config import Recipe, TrainConfig
from wavepos.training.lora import read_lora
from wavepos.training.recipes import recipe_position, size_recipe


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Train(Command):
    """Train a model with a positional method on a corpus. The same command again resumes, or finds it finished.

    What is not given follows from model and size: "paper" is the paper's whole recipe (A.7), a Llama's "7b" that of
    A.8. Processes that torchrun starts train together.
    """

    method: Annotated[str, arg(help=f"{METHOD_HELP}, {JSON_HELP}")]
    model: ModelName = "baevski-auli"
    """The family of the model; the decoders are llama and qwen3."""
    size: AnySize = "tiny"
    """tiny (minutes on a CPU), small (minutes on a GPU), baevski-auli's paper (247M parameters), llama's 1b and 7b."""
    start_from: str | None = None
    """Directory or hub name of a trained model to go on from, with its tokenizer: of the family, or with a decoder
    of any decoder that `convert` serves (Llama, Qwen3, Mistral, …), whose size then names the recipe alone."""
    freeze: bool = False
    """Train only what the position learns; the weights of --start-from, a decoder's, stay as they are."""
    native_rotation: bool | None = None
    """Keep the rotation of the decoder's own family beside the method (nope: it alone). By default a model of wavepos
    keeps what it was saved with, and any other loses it; a Llama's own is the method rotary."""
    lora: Annotated[tuple[str, ...], arg(metavar="rank=16 ...", help_behavior_hint="(optional)")] = ()
    """Train low-rank updates of the decoder of --start-from, and what the position learns: rank=16, and if you like
    alpha=32 (2 rank) and targets=q_proj,v_proj (all linear layers). Needs wavepos[lora]."""
    corpus: Annotated[str, arg(help=CORPUS_HELP)] = "stdlib"
    out: Path | None = None
    """Run directory; by default runs/[llama-]SIZE-POSITION-CORPUS-SEED."""
    report_to: tuple[str, ...] = ()
    """Trackers that get the losses beside TensorBoard: wandb, trackio, or another that transformers' Trainer knows."""
    dry_run: bool = False
    """Print the whole config, the parameters and a memory plan; train nothing, read no data."""
    devices: int | None = None
    """Devices to plan for in a dry run; otherwise torchrun's."""
    recipe: OmitArgPrefixes[Recipe]

    def config(self) -> TrainConfig:
        """All that the run depends on.

        Raises:
            ValueError: no such position, or values that do not go together.
        """
        position = recipe_position(
            self.size,
            self.method,
            model=self.model,
            start_from=self.start_from,
            native_rotation=self.native_rotation,
        )
        return TrainConfig(
            **dataclasses.asdict(self.recipe),
            model=self.model,
            size=self.size,
            start_from=self.start_from,
            freeze=self.freeze,
            lora=read_lora(self.lora),
            native_rotation=self.native_rotation,
            position=position,
            corpus=self.corpus,
        )

    def run(self) -> None:
        """Train, or print the plan."""
        if self.devices is not None and (self.devices < 1 or not self.dry_run):
            raise ValueError(f"devices takes at least 1, with --dry-run, got {self.devices}: torchrun starts real ones")
        devices, config = _num_devices(self.devices), self.config()
        if self.dry_run:
            from wavepos.training.memory import print_plan

            print_plan(config, devices)
            return
        from wavepos.data import prepare_training
        from wavepos.runs import position_name, run_name
        from wavepos.training.processes import leave
        from wavepos.training.trainer import train

        is_first_process()  # an environment that is not torchrun's is named before anything is read
        out = self.out or Path("runs") / run_name(config)
        with progress("Reading the corpus") as update:
            data = prepare_training(config.corpus, config.tokenizer, max_tokens=config.max_tokens, update=update)
        with progress(f"Training {self.size} with {position_name(config)}") as update:
            record = train(config, out, data, update, self.report_to, imports=self.imported)
        leave()
        if is_first_process():
            last = record.get("last_loss", record["losses"][-1][1])  # older versions kept logged losses alone
            console.print(f"{record['parameters']:,} parameters, last loss {last:.3f}, in {out}")


def train_defaults(arguments: Sequence[str]) -> Train:
    """What `wavepos train` takes where the command line says nothing: the recipe of the model and size that it names.

    Args:
        arguments: of the command; those that choose the recipe are read, and refused by nobody but the whole parser.

    Raises:
        ValueError: the model has no such size.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--model", "--size", "--start-from", "--steps"):
        parser.add_argument(name, name.replace("-", "_").replace("__", "--"), nargs="?")
    given, _ = parser.parse_known_args(arguments)
    model: ModelName = given.model if given.model in SIZES else "baevski-auli"
    size = given.size if given.size in get_args(AnySize) else "tiny"
    steps = _positive(given.steps)
    found = size_recipe(size, model=model, start_from=given.start_from)
    if steps is not None:  # a warm-up fits the updates, unless it is given as well
        found = dataclasses.replace(found, steps=steps, warmup_steps=min(found.warmup_steps, steps // 10))
    return Train(method=tyro.MISSING, recipe=found)


def _positive(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and int(text) else None


def _num_devices(planned: int | None) -> int:
    return num_processes() if planned is None else planned
