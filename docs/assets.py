"""Files that the build writes beside its pages: the script of Vega-Lite, so that no page asks a network for it."""

from pathlib import Path
from typing import Any

import vl_convert

from wavepos.storage import write_text


def write_assets(app: Any, exception: Exception | None) -> None:
    """Sphinx's build-finished: Vega, Vega-Lite and vega-embed in one classic script, _static/vega.js."""
    if exception is None:
        bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        write_text(Path(app.outdir) / "_static" / "vega.js", f"(() => {{\n{bundle}\n}})();\n")
