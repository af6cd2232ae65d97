"""Sphinx: the site, built without network and with every warning an error (`make docs`)."""

import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"

import wavepos  # noqa: E402
from docs.assets import write_assets  # noqa: E402 - found by the line above
from docs.computed import Computed, Drawn  # noqa: E402

project = "wavepos"
version = release = wavepos.__version__
project_copyright = "the wavepos authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "wavepos"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["demo.svg"]
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "cache"  # a notebook runs anew when it has changed
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings of libraries, which name paths of the machine
nb_execution_timeout = 600
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def as_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code` in it: bars and stars mean themselves, a formula set off stays as it is."""
    code = re.compile(r"(`[^`]*`)")
    for index, line in enumerate(lines):
        parts = code.split(line)
        parts[::2] = [re.sub(r"([|*\\])", r"\\\1", part) for part in parts[::2]]
        parts[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\\_", part) for part in parts[::2]]
        lines[index] = "".join(parts) if not line.lstrip().startswith((">>>", "...")) else line
    for index in range(len(lines) - 2):
        head, gap, body = lines[index : index + 3]
        indent = len(head) - len(head.lstrip())
        formula = not gap.strip() and body.startswith(" " * (indent + 4)) and not body.lstrip().startswith(">>>")
        if formula and head.rstrip().endswith((":", ",")):
            lines[index] = head.rstrip().rstrip(",") + ("::" if not head.rstrip().endswith(":") else ":")
            for inner in range(index + 2, len(lines)):
                if lines[inner].strip() and not lines[inner].startswith(" " * (indent + 4)):
                    break
                lines[inner] = re.sub(r"\\([|*_\\])", r"\1", lines[inner])


def setup(app: Any) -> None:
    """What Sphinx calls first."""
    app.add_directive("computed", Computed)
    app.add_directive("drawn", Drawn)
    app.connect("autodoc-process-docstring", as_rst, priority=1)
    app.connect("build-finished", write_assets)
