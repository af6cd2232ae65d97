"""A small Llama with wavelets, trained by transformers' Trainer on a text file of yours or Python's argparse.py."""

import argparse
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

from wavepos.models import WaveposLlamaConfig, WaveposLlamaForCausalLM

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("text", nargs="?", type=Path, default=Path(argparse.__file__))
parser.add_argument("--out", default="runs/trainer_llama")
given = parser.parse_args()
bpe = ByteLevelBPETokenizer()
bpe.train([str(given.text)], vocab_size=1000, special_tokens=["<eos>"], show_progress=False)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<eos>", pad_token="<eos>")
ids = tokenizer(given.text.read_text(encoding="utf-8"))["input_ids"]
blocks = [{"input_ids": ids[i : i + 128], "labels": ids[i : i + 128]} for i in range(0, len(ids) - 128, 128)]
config = WaveposLlamaConfig(len(tokenizer), 128, 344, num_hidden_layers=2, num_attention_heads=4, position="wavelet")
model = WaveposLlamaForCausalLM(config)
arguments = TrainingArguments(given.out, max_steps=60, learning_rate=3e-3, logging_steps=20, report_to="none")
trainer = Trainer(model, arguments, train_dataset=blocks, processing_class=tokenizer)
trainer.train()
trainer.save_model(given.out)
if trainer.is_world_process_zero():  # the only process, unless torchrun or accelerate started several
    reloaded = AutoModelForCausalLM.from_pretrained(given.out)
    prompt = tokenizer("def ", return_tensors="pt", return_token_type_ids=False)
    print(tokenizer.decode(reloaded.generate(**prompt, max_new_tokens=20, do_sample=False)[0]))
