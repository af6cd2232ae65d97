"""A decoder as a graph for elsewhere: torch.export and ONNX give its logits at lengths that the example had not."""

import pytest
import torch
from small_families import positioned, tokens
from torch import Tensor, nn

LENGTHS = (8, 40, 150)
SHORT = {"method": "wavelet", "scales": [1.0, 2.0, 4.0, 8.0], "query_bias": "recency"}
"""Its table ends within the lengths that are read."""


class Logits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = positioned("qwen3", SHORT, num_hidden_layers=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids, attention_mask, use_cache=False).logits
        return logits


def padded(length: int) -> tuple[Tensor, Tensor]:
    mask = torch.ones(2, length, dtype=torch.int64)
    mask[0, :3] = 0
    return tokens(2, length), mask


def shapes() -> dict[str, dict[int, object]]:
    length = torch.export.Dim("length", min=2, max=512)
    return {"input_ids": {1: length}, "attention_mask": {1: length}}


def test_an_exported_decoder_reads_padded_rows_of_any_length_within_its_dimension() -> None:
    model = Logits()
    exported = torch.export.export(model, padded(20), dynamic_shapes=shapes()).module()
    for length in LENGTHS:
        given = padded(length)
        torch.testing.assert_close(exported(*given), model(*given), atol=1e-6, rtol=0.0)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)  # torch.onnx's
def test_onnx_gives_the_models_logits_at_any_length() -> None:
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnx and onnxscript")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime reads the graph")
    model = Logits()
    program = torch.onnx.export(model, padded(20), dynamo=True, dynamic_shapes=shapes(), verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    for length in LENGTHS:
        given, mask = padded(length)
        feeds = dict(zip(names, (given.numpy(), mask.numpy()), strict=True))
        found = torch.from_numpy(session.run(None, feeds)[0])
        seen = mask.bool()
        torch.testing.assert_close(found[seen], model(given, mask).detach()[seen], atol=1e-5, rtol=0.0)
