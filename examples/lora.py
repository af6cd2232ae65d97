"""A RoPE Llama converted to wavelets, then trained on by LoRA (PEFT), what its position learns whole: pip install peft.

`wavepos train --start-from MODEL --lora rank=16` does the same with checkpoints, many GPUs and a corpus.
"""

import argparse
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from wavepos.models import convert

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", nargs="?", help="a Llama or its name on the hub; by default a tiny one of random weights")
parser.add_argument("--out", default="runs/llama-lora")
given = parser.parse_args()

torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
source = given.model or LlamaForCausalLM(LlamaConfig(vocab_size=256, **sizes))
model = convert(source, position={"method": "wavelet", "query_bias": "recency"})
targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets))
for name, parameter in model.named_parameters():
    if ".position." in name:  # few numbers that no low-rank update reaches
        parameter.requires_grad_(True)
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
print(f"trains {sum(p.numel() for p in trained):,} of {sum(p.numel() for p in model.parameters()):,} parameters")

tokens = torch.tensor([list(Path(argparse.__file__).read_bytes()[:512])]).view(4, 128)
optimizer = torch.optim.AdamW(trained, lr=5e-3)
losses = []
for _ in range(8):
    loss = model(input_ids=tokens, labels=tokens).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(float(loss.detach()))
print(f"loss {losses[0]:.2f} to {losses[-1]:.2f}")

with torch.no_grad():
    expected = model(input_ids=tokens).logits
    model.merge_and_unload().save_pretrained(given.out)
    reloaded = AutoModelForCausalLM.from_pretrained(given.out)
    off = float((reloaded(tokens).logits - expected).abs().max())
print(f"merged and reloaded it is {type(reloaded).__name__}; logits differ by {off:.1e}")
