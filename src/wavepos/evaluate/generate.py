"""Text from a trained model."""

from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from wavepos.models.loading import load_model, load_saved_tokenizer
from wavepos.runs import MODEL, finished_run


def generate_text(run_dir: Path, prompt: str, max_new_tokens: int, temperature: float, seed: int) -> str:
    """The prompt and its continuation.

    Args:
        run_dir: directory of a finished run.
        prompt: the text to continue; empty: the model begins a document.
        max_new_tokens: tokens to add, at most; an end of document ends it.
        temperature: 0 takes the likeliest token each time.
        seed: of the sampling.
    """
    finished_run(run_dir)
    tokenizer: Any = load_saved_tokenizer(run_dir / MODEL)
    model: Any = load_model(run_dir / MODEL)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids.to(torch.int64)
    ids = torch.cat([torch.full((1, 1), tokenizer.eos_token_id), ids], dim=1)
    set_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0.0 else {"do_sample": False}
    out = model.generate(
        ids,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **sampling,
    )
    return str(tokenizer.decode(out[0, 1:], skip_special_tokens=True))
