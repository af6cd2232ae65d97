"""The pages of the site: their code runs, commands are understood, links lead somewhere, scripts compute."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from wavepos import wavelets
from wavepos.cli import parsed
from wavepos.positions import registry

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "reference").glob("*.md"), ROOT / "README.md"])
NOT_RUN = re.compile(r"<!-- not run: .+ -->\n\Z")


def blocks(path: Path, language: str) -> Iterator[str]:
    """The code of a page, but for what is marked as not run."""
    text = path.read_text(encoding="utf-8")
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if not NOT_RUN.search(text[: found.start()]):
            yield found[1]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=named)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one namespace, in a folder with a Llama of random weights."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(wavelets, "_registered", dict(wavelets._registered))
    monkeypatch.chdir(tmp_path)
    found = list(blocks(page, "python"))
    if any("path/to/a/llama" in block for block in found):
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        LlamaForCausalLM(LlamaConfig(vocab_size=64, head_dim=16, **sizes)).save_pretrained("path/to/a/llama")
    names: dict[str, object] = {"__name__": page.stem}
    for block in found:
        exec(compile(block, named(page), "exec"), names)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command of a page, without comments."""
    import shlex

    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=named)
def test_the_commands_of_a_page_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in commands(page):
        match words:
            case ["wavepos" | ".venv/bin/wavepos", *rest]:
                parsed(rest)
            case ["torchrun", *rest]:
                parsed(rest[rest.index("wavepos") + 1 :])
            case ["make", target]:
                assert target in targets
            case ["pip", "install", "-e", what]:
                assert set(re.findall(r"\w+", what)) <= extras
            case ["git", "clone", *_]:
                pass
            case _:
                raise AssertionError(f"neither run nor marked why not: {' '.join(words)}")


def test_every_block_of_the_site_is_run_shown_or_marked() -> None:
    told = {"python", "bash", "json", "text", "{computed}", "{drawn}", "{toctree}", "{include}", "{literalinclude}"}
    told |= {"{eval-rst}", "{raw}"}
    told |= {"{code-cell}"}  # of a notebook: the build runs it
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        opened = re.findall(r"^```(\S*)", text, re.MULTILINE)[::2]
        assert set(opened) <= told, named(page)


def test_links_of_pages_lead_to_files_and_headings() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), f"{named(page)}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
                assert anchor in slugs, f"{named(page)}: {target}"


def test_every_page_stands_in_the_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {
        line for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL) for line in block.splitlines()
    }
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in PAGES if page.name != "README.md"}
    assert pages - listed == {"index"}


def test_what_a_page_asks_to_be_computed_is_there() -> None:
    from docs.computed import called

    wanted = {
        tuple(words.split())
        for page in PAGES
        for words in re.findall(r"^```\{(?:computed|drawn)\} (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(wanted) >= 30
    quick = [words for words in wanted if words[0].startswith(("tables:", "choice:", "speed:"))]
    assert len(quick) >= 10
    for words in quick:
        assert "|" in called(*words) or called(*words).endswith("."), words


def test_what_is_computed_is_computed_anew_in_each_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    application = pytest.importorskip("sphinx.application", reason="the site is built with Sphinx")
    from docs.computed import Computed  # needs Sphinx

    (tmp_path / "conf.py").write_text("extensions = ['myst_parser']\n")
    (tmp_path / "index.md").write_text("# Page\n\n```{computed} facts:corpora\n```\n")
    for said in ("before", "a later result"):
        monkeypatch.setattr("docs.computed.called", lambda *_, said=said: said)
        build = application.Sphinx(
            tmp_path, tmp_path, tmp_path / "html", tmp_path / "trees", "html", status=None, warningiserror=True
        )
        build.add_directive("computed", Computed, override=True)
        build.build()
        assert said in (tmp_path / "html" / "index.html").read_text()
