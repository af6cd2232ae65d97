"""Pages and scripts of the site, run as a reader's browser runs them: by Chromium without a window, by node."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--virtual-time-budget=60000",  # of the page's own clock: timers do not wait
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed, which opens the pages")
needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="node is not installed, which runs the site's scripts"
)


def node(script: str) -> Any:
    """What a script for node prints as JSON."""
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True, cwd=ROOT, timeout=600)
    return json.loads(done.stdout)


def in_browser(folder: Path, body: str, script: str) -> Any:
    """What an async function's body returns, run in a page after the page's own scripts.

    Args:
        folder: an empty one, for the page, the site's own files and the browser's profile.
        body: HTML as the site has it.
        script: which may await, and returns what JSON can hold.
    """
    assert CHROMIUM is not None
    shutil.copytree(ROOT / "docs" / "_static", folder / "_static", dirs_exist_ok=True)
    ask = (
        f"<script>(async () => {{ {script} }})().then((found) => JSON.stringify(found), (error) => "
        "JSON.stringify({ error: String(error) })).then((text) => { const out = document.createElement('output');"
        " out.id = 'found'; out.textContent = text; document.body.append(out); });</script>"
    )
    page = folder / "page.html"
    page.write_text(f'<!doctype html><meta charset="utf-8"><body>{body}{ask}</body>', encoding="utf-8")
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found = re.search(r'<output id="found">(.*?)</output>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    answer = json.loads(unescape(found[1]))
    assert not (isinstance(answer, dict) and "error" in answer), answer
    return answer
