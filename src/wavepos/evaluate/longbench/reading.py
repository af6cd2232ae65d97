"""A model on LongBench's items: prompts cut in the middle, greedy answers, and the loss of the right answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from wavepos.evaluate.longbench.tasks import Item, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldLoss:
    """What the first right answer costs after its prompt, with the context and without.

    Attributes:
        tokens: of the answer.
        with_context: nats of these tokens after the prompt that was read.
        without_context: nats of the same tokens after the prompt with an empty context.
    """

    tokens: int
    with_context: float
    without_context: float


@final
class Reader:
    """A causal language model that answers.

    Args:
        model: of transformers, in evaluation; ours or any whose forward takes logits_to_keep.
        tokenizer: its own; a prompt gets the special tokens that it adds itself, and no chat template.
        max_length: tokens of a prompt, at least 2; from longer ones the middle is taken.
        device: where the model is.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int, device: str | torch.device = "cpu") -> None:
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2, for half of it is taken from each end, got {max_length}")
        self.model, self.tokenizer, self.max_length, self.device = model, tokenizer, max_length, device

    def prompt(self, task: Task, item: Item, *, context: bool = True) -> tuple[str, bool]:
        """The prompt as it is read, and whether its middle was cut out.

        Of more than max_length tokens int(max_length / 2) from each end are decoded, joined as texts and tokenised
        again, so that a few tokens more or less may be read.

        Args:
            task: of the item.
            item: what is asked.
            context: whether the long text stands in it.
        """
        text = task.prompt.format(context=item.context if context else "", input=item.input)
        ids = self._ids(text)
        if len(ids) <= self.max_length:
            return text, False
        half = self.max_length // 2
        ends = (self.tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:half], ids[-half:]))
        return "".join(ends), True

    @torch.inference_mode()
    def answer(self, task: Task, prompt: str) -> str:
        """The greedy answer."""
        ids = torch.tensor([self._ids(prompt)], device=self.device)
        end = self.tokenizer.eos_token_id
        options: dict[str, Any] = {}
        if task.ends_at_newline:
            newline = self.tokenizer.encode("\n", add_special_tokens=False)[-1]
            options = {"min_length": ids.shape[1] + 1, "eos_token_id": [*([] if end is None else [end]), newline]}
        elif self.model.generation_config.eos_token_id is None and end is not None:
            options = {"eos_token_id": end}
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=task.answer_tokens,
            num_beams=1,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id if end is None else end,
            **options,
        )
        return str(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))

    def gold_loss(self, task: Task, item: Item) -> GoldLoss | None:
        """The loss of the first right answer, after a space where the prompt ends in none; None for an empty answer."""
        prompt, _ = self.prompt(task, item)
        alone, _ = self.prompt(task, item, context=False)
        before = prompt.rstrip()
        gap = prompt[len(before) :] or " "
        head = self._ids(before)
        answer = self._ids(before + gap + item.answers[0])[len(head) :]
        if not answer or not item.answers[0].strip():
            return None
        return GoldLoss(
            tokens=len(answer),
            with_context=self._nats(head, answer),
            without_context=self._nats(self._ids(alone.rstrip()), answer),
        )

    @torch.inference_mode()
    def _nats(self, head: Sequence[int], answer: Sequence[int]) -> float:
        ids = torch.tensor([[*head, *answer]], device=self.device)
        logits = self.model(ids[:, :-1], use_cache=False, logits_to_keep=len(answer)).logits[0]
        targets = torch.tensor(answer, device=logits.device)
        return float(torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum"))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, truncation=False).input_ids
        return ids
