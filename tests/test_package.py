"""What is published: the wheel carries the package and nothing else, the core imports nothing but torch and numpy."""

import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest
from hatchling import build

ROOT = Path(__file__).resolve().parents[1]
BESIDE_CODE = {
    "wavepos/py.typed",
    "wavepos/analysis/assets/attention_page.html",
    "wavepos/evaluate/harness/tasks/long_text_perplexity.yaml",
    "wavepos/evaluate/harness/tasks/passkey_retrieval.yaml",
    "wavepos/evaluate/longbench/prompts.json",
}
NOT_THERE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("transformers", "tyro", "rich", "pywt", "safetensors", "tokenizers", "datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_the_wheel_carries_the_package_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        names, entries = set(wheel.namelist()), wheel.infolist()
    packaged = {name for name in names if not name.startswith("wavepos-")}
    assert {name for name in packaged if not name.endswith(".py")} == BESIDE_CODE
    assert packaged - BESIDE_CODE == {str(path.relative_to(ROOT / "src")) for path in ROOT.glob("src/**/*.py")}
    assert sum(entry.compress_size for entry in entries) < 2**20
    assert {name.partition("/")[2] for name in names - packaged} == {
        *("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }


def test_the_source_distribution_carries_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with tarfile.open(tmp_path / build.build_sdist(str(tmp_path))) as sdist:
        names = [PurePosixPath(*PurePosixPath(name).parts[1:]) for name in sdist.getnames()]
    files = {".gitignore", "CHANGELOG.md", "CITATION.cff", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert {str(name) for name in names if len(name.parts) == 1} == files
    assert {name.parts[0] for name in names if len(name.parts) > 1} == {
        "benchmarks",
        "docs",
        "examples",
        "src",
        "tests",
    }
    assert not [name for name in names if name.suffix in (".safetensors", ".bin", ".npy", ".pyc", ".gz")]


def test_the_core_computes_without_the_packages_of_the_lab_and_the_command_says_what_it_needs() -> None:
    code = (
        f"{NOT_THERE}\nimport torch\nfrom wavepos import Wavelet, attention\nq = torch.ones(1, 2, 5, 8)\n"
        "print(attention(q, q, q, position=Wavelet(8, scales=(1.0,))).shape)\nfrom wavepos.__main__ import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "torch.Size([1, 2, 5, 8])\n")
    assert done.stderr == "Error: the command needs tyro: pip install 'wavepos[lab]'\n"
