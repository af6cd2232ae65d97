"""Documents keep up with the code."""

import doctest
import importlib
import json
import re
from pathlib import Path

import pytest

from docs.tables import BLOCKS_OF_README, with_blocks
from wavepos import wavelets
from wavepos.models import WaveposLlamaConfig
from wavepos.positions import registry

ROOT = Path(__file__).resolve().parent.parent
WITH_EXAMPLES = [path for path in sorted((ROOT / "src").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


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


def test_the_readmes_blocks_are_those_of_the_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- made: (\w+) -->", readme)) == set(BLOCKS_OF_README)
    assert with_blocks(readme) == readme, "python -m docs.tables makes them anew"


def test_a_mark_of_the_readme_without_a_block_or_an_end_is_named() -> None:
    with pytest.raises(ValueError, match="must be one of table1, got 'table9'"):
        with_blocks("<!-- made: table9 -->\n<!-- end -->")
    with pytest.raises(ValueError, match="no <!-- end -->"):
        with_blocks("<!-- made: table1 -->\n")


def test_the_positions_of_layers_in_the_mathematics_are_configs() -> None:
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "math.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        config = WaveposLlamaConfig(num_hidden_layers=8, position=json.loads(block))
        assert config.layer_types == (["sliding_attention"] * 3 + ["full_attention"]) * 2


def test_files_that_the_guide_to_adding_names_exist() -> None:
    text = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.(?:py|md)|tests/[\w/]*)`", text)) - {"kerple.py"}
    places = ("", "src/wavepos/", "src/", "src/wavepos/positions/", "src/wavepos/experiments/", "src/wavepos/analysis/")
    absent = {name for name in named if not any((ROOT / place / name).exists() for place in places)}
    assert absent == {"experiments/NAME.py", "analysis/NAME.py"}, "these two stand for a name of one's own"


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_of_docstrings_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (registry, wavelets):
        monkeypatch.setattr(module, "_registered", dict(module._registered))
    name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted and not found.failed
