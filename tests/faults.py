"""Faults put upon real commands: signals as kill -9, full disks, little memory, read-only folders, two at once.

`python -m tests.faults --kills 50` from the root of the checkout. After each fault the same command has to end in the
same result bit by bit, and a command that could not go on has to have said why in one line.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # processes are forked, which threads of torch would not survive

import wavepos.experiments.catalogue
import wavepos.experiments.demo as demo
import wavepos.training.trainer
from wavepos.cli import main as wavepos
from wavepos.training.config import TrainConfig

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STUDY = """
from wavepos.experiments.study import Evaluation, Study, StudyRun
from wavepos.training.config import TrainConfig
def study(options):
    fields = dict(size="tiny", corpus="text:corpus.txt", tokenizer="bpe:300", seq_len=16, steps=4, batch_tokens=64)
    fields |= dict(learning_rate=1e-3, warmup_steps=1, save_every=2, log_every=1)
    made = {name: TrainConfig(position={"method": name}, **fields) for name in ("nope", "alibi")}
    read = (Evaluation(lengths=(16, 32), tokens=128),)
    runs = tuple(StudyRun(name=name, config=config, evaluations=read) for name, config in made.items())
    return Study(name="small", title="A small study", runs=runs, baseline="nope")
"""
TRAIN = [
    *("train", "--method", "nope", "--corpus", "text:corpus.txt", "--tokenizer", "bpe:300", "--seq-len", "16"),
    *("--steps", "12", "--batch-tokens", "64", "--save-every", "3", "--log-every", "1", "--out", "out/run"),
]
COMMANDS = {
    "train": TRAIN,
    "study": ["study", "study.py", "--out", "out", "--report", "report"],
    "eval": ["eval", "out/run", "--lengths", "16", "32"],
    "demo": ["demo", "--methods", "nope", "alibi", "--corpus", "text:corpus.txt", "--out", "out"],
}
"""`train` and the others begin with preparing the corpus; `eval` reads a run that `train` has made before."""


def small_demo(demo_config: Callable[..., TrainConfig] = demo.demo_config) -> None:
    """Make a demo's runs as small as the others."""
    fields = {"tokenizer": "bpe:300", "seq_len": 16, "steps": 4, "batch_tokens": 64, "warmup_steps": 1, "save_every": 2}
    demo.demo_config = lambda *args: dataclasses.replace(demo_config(*args), **fields)
    demo.LENGTHS, demo.SCORED_TOKENS = (16, 32), 128


small_demo()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit status, negative for a signal, and what it printed."""

    status: int
    output: str

    @property
    def said_why(self) -> bool:
        """Whether it failed as commands fail."""
        return self.status == 2 and "Error: " in self.output and "Traceback" not in self.output


def prepared(folder: Path) -> Path:
    """An empty working directory with a corpus and a study."""
    rng = random.Random(0)
    folder.mkdir()
    lines = [" ".join(rng.choices(["wave", "near", "far", "and", "of", "the"], k=9)) for _ in range(200)]
    (folder / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    os.utime(folder / "corpus.txt", (0, 0))
    (folder / "study.py").write_text(STUDY, encoding="utf-8")
    return folder


def start(folder: Path, arguments: list[str], before: Callable[[], None] = lambda: None) -> int:
    """Begin a command in a process of its own; its output goes to a file named after the process."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        log = os.open(folder / f"{os.getpid()}.log", os.O_CREAT | os.O_WRONLY, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        os.environ["WAVEPOS_CACHE"] = str(folder / "cache")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before()
        sys.argv = ["wavepos", *arguments]
        wavepos()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(folder: Path, pid: int) -> Ended:
    """Wait for a command."""
    _, status = os.waitpid(pid, 0)
    log = folder / f"{pid}.log"
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace") if log.exists() else "")


def result(folder: Path) -> dict[str, str]:
    """What must not depend on faults: of every run its weights, losses and evaluations."""
    found = {}
    for path in sorted((folder / "out").rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "model.safetensors" and path.parent.name == "model":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "run.json":
            found[name] = json.dumps([json.loads(path.read_text())[key] for key in ("status", "losses", "last_loss")])
        elif path.parent.name == "evaluations" or path.name.startswith("perplexity-"):
            found[name] = json.dumps(json.loads(path.read_text())["perplexities"])
    return found


class Bench:
    """Tries faults in folders of their own, and counts those survived."""

    def __init__(self, root: Path, names: Sequence[str], seed: int) -> None:
        self.root, self.rng = root, random.Random(seed)
        self.tried = self.survived = 0
        self.expected: dict[str, dict[str, str]] = {}
        self.seconds: dict[str, float] = {}
        for name in names:
            folder = prepared(root / name)
            if name == "eval":
                ended(folder, start(folder, TRAIN))
                self.trained = shutil.copytree(folder, root / "trained")
            begun = time.monotonic()
            done = ended(folder, start(folder, COMMANDS[name]))
            if done.status:
                raise SystemExit(f"{name} fails without any fault:\n{done.output}")
            self.seconds[name] = time.monotonic() - begun
            self.expected[name] = result(folder)

    def judge(self, what: str, name: str, folder: Path, *, well: bool, output: str) -> None:
        """Give the same command again, compare, and clear away."""
        again = ended(folder, start(folder, COMMANDS[name]))
        same = again.status == 0 and result(folder) == self.expected[name]
        left = [path.name for path in folder.rglob(".*") if path.is_dir() and path.name != ".locks"]
        self.tried += 1
        self.survived += well and same and not left
        verdict = "survived" if well and same and not left else "NOT SURVIVED"
        print(f"{verdict}: {what}", flush=True)
        if verdict != "survived":
            print(f"{output}\n--- again: {again.status}\n{again.output}\n--- left over: {left}", flush=True)
        shutil.rmtree(folder)

    def folder(self, name: str) -> Path:
        """A working directory in which the command was not given yet."""
        folder = self.root / f"fault-{self.tried}"
        return shutil.copytree(self.trained, folder) if name == "eval" else prepared(folder)

    def kill(self, name: str) -> None:
        """A signal at a random moment."""
        folder, number = self.folder(name), self.rng.choice(SIGNALS)
        pid, moment = start(folder, COMMANDS[name]), self.rng.uniform(0.0, self.seconds[name])
        time.sleep(moment)
        os.kill(pid, number)
        done = ended(folder, pid)
        self.judge(f"{name}, {number.name} after {moment:.2f} s", name, folder, well=True, output=done.output)

    def full_disk(self, name: str) -> None:
        """No file may grow beyond a random size."""
        folder, size = self.folder(name), int(2 ** self.rng.uniform(8, 24))

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        done = ended(folder, start(folder, COMMANDS[name], limit))
        self.judge(
            f"{name}, files of at most {size:,} bytes",
            name,
            folder,
            well=done.status == 0 or done.said_why or "left out" in done.output or len(done.output) >= size,
            output=done.output,
        )

    def little_memory(self, name: str) -> None:
        """A random number of bytes beyond what the process has, and no more; Linux alone says how many it has."""
        folder, more = self.folder(name), int(2 ** self.rng.uniform(16, 30))

        def limit() -> None:
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + more, held + more))

        done = ended(folder, start(folder, COMMANDS[name], limit))
        well = done.status <= 0 or done.said_why  # a library may abort, as where the system kills for memory
        self.judge(f"{name}, {more:,} bytes more of memory", name, folder, well=well, output=done.output)

    def two_at_once(self, name: str) -> None:
        """The same command twice, the second a random time after the first."""
        folder = self.folder(name)
        first = start(folder, COMMANDS[name])
        wait = self.rng.uniform(0.0, self.seconds[name] / 2)
        time.sleep(wait)
        second = start(folder, COMMANDS[name])
        done = [ended(folder, pid) for pid in (first, second)]
        well = any(each.status == 0 for each in done) and all(each.status == 0 or each.said_why for each in done)
        output = "\n---\n".join(each.output for each in done)
        self.judge(f"{name}, twice, {wait:.2f} s apart", name, folder, well=well, output=output)

    def read_only(self, name: str) -> None:
        """A folder that may be read and not written; root, who may write everywhere, becomes nobody."""
        folder = self.folder(name)
        (folder / "out").mkdir(exist_ok=True)
        (folder / "out").chmod(0o555)

        def become_nobody() -> None:
            if os.getuid() == 0:
                os.environ["HOME"] = tempfile.gettempdir()
                folder.chmod(0o777)
                os.setuid(65534)

        done = ended(folder, start(folder, COMMANDS[name], become_nobody))
        (folder / "out").chmod(0o755)
        self.judge(f"{name}, read-only", name, folder, well=done.said_why, output=done.output)


def faults(bench: Bench, kills: int) -> Iterator[Callable[[], None]]:
    """As many kills, half of the first command, a fifth as many of three other faults, and a read-only folder."""
    names = list(bench.expected)
    for number in range(kills):
        yield partial(bench.kill, names[0] if number % 2 == 0 else names[number // 2 % len(names)])
    for number in range(max(len(names), kills // 5)):
        name = names[number % len(names)]
        yield from (partial(fault, name) for fault in (bench.full_disk, bench.two_at_once))
        if sys.platform == "linux":
            yield partial(bench.little_memory, name)
    yield partial(bench.read_only, names[0])


def main() -> None:
    """Try them all; exit status 1 if one was not survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        bench = Bench(Path(root), given.commands, given.seed)
        for fault in faults(bench, given.kills):
            fault()
    print(f"{bench.survived} of {bench.tried} faults survived")
    sys.exit(bench.survived != bench.tried)


if __name__ == "__main__":
    main()
