"""Both families in transformers' Trainer and among its tables of names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_llama import config, tokens
from small_models import FAMILIES, small
from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from wavepos.models import BaevskiAuliForCausalLM, WaveposLlamaForSequenceClassification


def smoothed(logits_BTV: Tensor, targets_BT: Tensor, epsilon: float) -> Tensor:
    """(1 − ε)·(−log p(target)) + ε·mean over words of −log p, averaged over targets."""
    log_p = logits_BTV.log_softmax(-1)
    losses = -(1 - epsilon) * log_p.gather(-1, targets_BT[..., None])[..., 0] - epsilon * log_p.mean(-1)
    return losses.mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_label_smoothing_scores_the_next_token(family: str, tmp_path: Path) -> None:
    model, x = small(family), tokens(4, 20)
    arguments = TrainingArguments(
        str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True, label_smoothing_factor=0.1
    )
    trainer = Trainer(model, arguments, eval_dataset=[{"input_ids": row, "labels": row} for row in x])
    with torch.no_grad():
        logits = model(x).logits
        expected, copying = smoothed(logits[:, :-1], x[:, 1:], 0.1), smoothed(logits, x, 0.1)
        loss = trainer.compute_loss(model, {"input_ids": x, "labels": x})
    torch.testing.assert_close(loss, expected)
    assert abs(float(copying - expected)) > 1e-3
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_metrics_are_computed_from_the_logits_of_an_evaluation(family: str, tmp_path: Path) -> None:
    model, x = small(family), tokens(4, 20)
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True)

    def accuracy(found: Any) -> dict[str, float]:
        return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}

    rows = [{"input_ids": row, "labels": row} for row in x]
    trainer = Trainer(model, arguments, eval_dataset=rows, compute_metrics=accuracy)
    with torch.no_grad():
        expected = float((model(x).logits.argmax(-1) == x).float().mean())
    assert trainer.evaluate()["eval_accuracy"] == pytest.approx(expected)


def test_training_with_labels_makes_logits_where_asked() -> None:
    model, x = small("baevski-auli-adaptive"), tokens(2, 20)
    with torch.no_grad():
        evaluated = model(x, labels=x)
        torch.testing.assert_close(evaluated.logits, model(x).logits)
        assert model(x, labels=x, skip_logits=True).logits is None
        model.train()
        assert model(x, labels=x).logits is None
        assert model(x, labels=x, skip_logits=False).logits.shape == (2, 20, 97)
        assert model(x).logits.shape == (2, 20, 97)


def test_transformers_tables_of_names_hold_both_families() -> None:
    assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["wavepos_llama"] == type(small("llama")).__name__
    assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["wavepos_baevski_auli"] == BaevskiAuliForCausalLM.__name__
    classifier = WaveposLlamaForSequenceClassification(config(num_labels=3))
    assert MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["wavepos_llama"] == type(classifier).__name__
