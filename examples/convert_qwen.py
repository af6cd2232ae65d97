"""A Qwen3 with wavelets in place of its rotation: converted, trained for some updates, saved, loaded, asked."""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from wavepos.models import convert

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument(
    "model", nargs="?", help="a Qwen3 or its name on the hub; by default a tiny one with random weights"
)
parser.add_argument("--out", default="runs/qwen-wavelet")
given = parser.parse_args()

torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
source = given.model or Qwen3ForCausalLM(Qwen3Config(vocab_size=256, num_key_value_heads=2, **sizes))

same = convert(source, position="rotary")  # with its own rotation: the logits are the same
wavelets = convert(source, position={"method": "wavelet", "query_bias": "recency"})
tokens = torch.tensor([list(Path(argparse.__file__).read_bytes()[:512])])
with torch.no_grad():
    if isinstance(source, Qwen3ForCausalLM):
        off = float((same(tokens).logits - source(tokens).logits).abs().max())
        print(f"with its own rotation logits differ by {off:.1e}")

optimizer = torch.optim.AdamW(wavelets.parameters(), lr=1e-3)
for _ in range(5):
    loss = wavelets(tokens[:, :128], labels=tokens[:, :128]).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
wavelets.save_pretrained(given.out)

reloaded = AutoModelForCausalLM.from_pretrained(given.out)
written = reloaded.generate(tokens[:, :32], max_new_tokens=8, do_sample=False, pad_token_id=0)
print(f"{type(reloaded).__name__} with {reloaded.config.position['method']}: {written.shape[1] - 32} tokens more")
