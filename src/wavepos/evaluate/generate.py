"""Text from a trained model."""

from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from wavepos.models.loading import load_model, load_saved_tokenizer
from wavepos.runs import model_directory


def generate_text(path: Path, prompt: str, max_new_tokens: int, temperature: float, seed: int) -> str:
    """The prompt and its continuation.

    Args:
        path: directory of a finished run, or of a saved model with its tokenizer.
        prompt: the text to continue; empty: the model begins a document.
        max_new_tokens: tokens to add, at most; an end of document ends it.
        temperature: 0 takes the likeliest token each time.
        seed: of the sampling.
    """
    directory = model_directory(path)
    tokenizer: Any = load_saved_tokenizer(directory)
    model: Any = load_model(directory, local_files_only=True)
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
