"""Saved Llama directories that tools load without importing wavepos: a `modeling_wavepos.py` beside the weights.

With trust_remote_code=True transformers follows config.json's `auto_map` to that file. It imports the installed
package instead of carrying a copy of it: attention and positions are two dozen modules with operators of their own, and
a copy would stay at the state of the day it was saved. Where wavepos is not installed transformers says so and names
the command that installs it.
"""

from pathlib import Path

AUTO_MAP = {
    "AutoConfig": "modeling_wavepos.WaveposLlamaConfig",
    "AutoModel": "modeling_wavepos.WaveposLlamaModel",
    "AutoModelForCausalLM": "modeling_wavepos.WaveposLlamaForCausalLM",
    "AutoModelForSequenceClassification": "modeling_wavepos.WaveposLlamaForSequenceClassification",
}

_CODE = '''"""Loads this model with the installed package wavepos."""

from wavepos.models import (
    WaveposLlamaConfig,
    WaveposLlamaForCausalLM,
    WaveposLlamaForSequenceClassification,
    WaveposLlamaModel,
)
'''


def write_remote_code(directory: Path) -> None:
    """Put modeling_wavepos.py into the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / ".modeling_wavepos.py"
    temporary.write_text(_CODE, encoding="utf-8")
    temporary.replace(directory / "modeling_wavepos.py")
