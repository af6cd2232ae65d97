"""wavepos generate: text from a trained model."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

from tyro.conf import Positional

from wavepos.cli.command import Command, check_unicode
from wavepos.console import console


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Generate(Command):
    """Continue a prompt with a trained model."""

    path: Annotated[Path, Positional]
    """A run of `wavepos train`, or a saved transformers model."""
    prompt: str = "def "
    """The text to continue."""
    max_new_tokens: int = 100
    """Tokens to add."""
    temperature: float = 0.8
    """0: the likeliest token each time."""
    seed: int = 0
    """Of the sampling."""

    def run(self) -> None:
        """Print the prompt and its continuation."""
        from wavepos.evaluate.generate import generate_text

        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be at least 0 and finite, got {self.temperature}: 0.8 would do")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie between 0 and 2**32 - 1, got {self.seed}")
        check_unicode("prompt", self.prompt)
        text = generate_text(self.path, self.prompt, self.max_new_tokens, self.temperature, self.seed)
        console.print(text, markup=False, highlight=False)
