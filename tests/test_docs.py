"""Documents keep up with the code."""

import json
import re
from pathlib import Path

import pytest

from wavepos.experiments.report import markdown, read_result
from wavepos.positions import registry

ROOT = Path(__file__).resolve().parent.parent


def test_every_equation_cited_stands_in_the_mathematics() -> None:
    mathematics = (ROOT / "docs" / "math.md").read_text(encoding="utf-8")
    known = set(re.findall(r"\*\*Eq\. (\w+)\.\*\*", mathematics))
    cited: dict[str, list[str]] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for numbers in re.findall(r"(?:Eqs?\.|Equations?) ((?:\w+(?:–\w+)?(?:, | and )?)+)", text):
            for number in _expanded(numbers):
                cited.setdefault(number, []).append(path.name)
    assert len(cited) >= 8
    assert not {number: files for number, files in cited.items() if number not in known}


def _expanded(numbers: str) -> list[str]:
    found: list[str] = []
    for part in re.findall(r"\d+(?:–\d+)?", numbers):
        low, _, high = part.partition("–")
        found += [str(number) for number in range(int(low), int(high or low) + 1)]
    return found


def test_every_result_says_where_it_came_from() -> None:
    for path in (ROOT / "results").glob("*.json"):
        environment = json.loads(path.read_text(encoding="utf-8"))["environment"]
        for key in ("command", "commit", "packages", "cpu", "threads"):
            assert environment.get(key), f"{path.name}: {key}"


def test_the_readmes_tables_are_those_of_the_result() -> None:
    report = markdown(read_result(ROOT / "results" / "demo.json"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\n)+", report, re.MULTILINE)
    assert len(tables) >= 2
    for table in tables[:2]:  # perplexities, and differences to RoPE
        assert table in readme


def test_the_readmes_table_1_is_that_of_the_result() -> None:
    report = markdown(read_result(ROOT / "results" / "table1-cpu.json"))
    rows = re.findall(r"(?:^\|.*\n)+", report, re.MULTILINE)[0].partition("*Sequences read whole*")[2].splitlines()[1:]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("## The paper's Table 1")[2].partition("\n## ")[0]
    found = [line for line in shown.splitlines() if line.startswith("| ") and "128" not in line]
    assert len(found) >= 10
    assert found == rows[: len(found)]
    counts = re.findall(r"(\d+) (?:holds?|fails?|cannot be told)", report.partition("Of the paper's comparisons")[2])
    assert re.findall(r"(\d+) (?:hold|fail|cannot be told)", shown) == counts[:3]


def test_pictures_and_files_that_the_readme_shows_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#)([^)]+)\)", readme):
        assert (ROOT / target).exists(), target


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, head_dim=16, **sizes)).save_pretrained(tmp_path / "path/to/a/llama")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_the_python_of_the_guide_to_adding_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {"__name__": "adding"}
    for block in blocks:
        exec(compile(block, "docs/adding.md", "exec"), names)
    assert registry.parse_position("Plateau") == names["PlateauConfig"]()  # type: ignore[operator]


def test_files_that_the_guide_to_adding_names_exist() -> None:
    text = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.(?:py|md)|tests/[\w/]*)`", text)) - {"kerple.py"}
    places = ("", "src/wavepos/", "src/", "src/wavepos/positions/", "src/wavepos/experiments/", "src/wavepos/analysis/")
    absent = {name for name in named if not any((ROOT / place / name).exists() for place in places)}
    assert absent == {"experiments/NAME.py", "analysis/NAME.py"}, "these two stand for a name of one's own"
