"""transformers' own common tests on our classes; they are not vendored (CONTRIBUTING says how they are run).

The environment variable TRANSFORMERS_SDIST names the unpacked sdist of the installed transformers, FAMILY a family of
`wavepos.models.FAMILIES` (llama) or baevski_auli.
"""

import inspect
import os
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import torch
import transformers

from wavepos.models import BaevskiAuliForCausalLM, WaveposLlamaConfig, convert
from wavepos.models.decoder.families import family_models

SDIST = Path(os.environ["TRANSFORMERS_SDIST"])
FAMILY = os.environ.get("FAMILY", "llama")
if not (SDIST / "tests" / "test_modeling_common.py").is_file() or not SDIST.name.endswith(transformers.__version__):
    raise FileNotFoundError(f"TRANSFORMERS_SDIST must be the sdist of transformers {transformers.__version__}")

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
sys.path.insert(0, str(SDIST))
for _name, _mixin in (
    ("exporters.test_export", "ExportTesterMixin"),
    ("generation.test_utils", "GenerationTesterMixin"),
):
    _module = types.ModuleType(f"tests.{_name}")  # the sdist lacks them; what they test is not among these tests
    setattr(_module, _mixin, type(_mixin, (), {}))
    sys.modules[f"tests.{_name.partition('.')[0]}"] = types.ModuleType(f"tests.{_name.partition('.')[0]}")
    sys.modules[_module.__name__] = _module

import tests.test_modeling_common as common  # noqa: E402 - these need the paths above
from small_families import small_model  # noqa: E402
from small_models import small  # noqa: E402
from tests.test_modeling_common import ModelTesterMixin, ids_tensor  # noqa: E402

_less_flaky = common.set_config_for_less_flaky_test


def _known_fields_only(config: Any) -> None:
    """transformers' own sets fields of all models, which a config of ours refuses to read again."""
    before = set(vars(config))
    _less_flaky(config)
    for name in set(vars(config)) - before:
        delattr(config, name)


common.set_config_for_less_flaky_test = _known_fields_only
# some tests set a window on every config that has the field; our Llama's follows from its position
WaveposLlamaConfig.sliding_window = property(WaveposLlamaConfig.sliding_window.fget, lambda *_: None)

POSITION = {"method": "wavelet", "query_bias": "recency"}
BAEVSKI_AULI = FAMILY == "baevski_auli"
MODELS = (BaevskiAuliForCausalLM,) if BAEVSKI_AULI else tuple(family_models(FAMILY).values())


class Tester:
    """What the mixin asks for: sizes, a config and a batch."""

    batch_size, seq_length, is_training = 3, 7, True

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent
        config = self.get_config()
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
            setattr(self, name, getattr(config, name))

    def get_config(self) -> Any:
        return (small("baevski-auli", POSITION) if BAEVSKI_AULI else convert(small_model(FAMILY), POSITION)).config

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        input_ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size - 3) + 3
        return self.get_config(), {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


class DecoderTest(ModelTesterMixin, unittest.TestCase):  # type: ignore[misc] # transformers is untyped here
    all_model_classes = MODELS
    all_generative_model_classes = tuple(model for model in MODELS if model.__name__.endswith("ForCausalLM"))

    def setUp(self) -> None:
        self.model_tester = Tester(self)


assert not inspect.isabstract(DecoderTest)
