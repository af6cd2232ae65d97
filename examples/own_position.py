"""A method and a wavelet of your own: registered, trained for some steps, saved, loaded again, evaluated.

The command line knows them too: wavepos train --import examples/own_position.py --method plateau
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from wavepos import Position, ScoreTerms, register_position, register_wavelet
from wavepos.positions import PositionConfig
from wavepos.wavelets import MotherWavelet


@register_position
@dataclass(frozen=True, slots=True, kw_only=True)
class PlateauConfig(PositionConfig):
    """How far the bias falls."""

    method: ClassVar[str] = "plateau"
    reach: int = 16

    def build(self, *, head_dim: int, num_heads: int) -> "Plateau":
        return Plateau(num_heads, self.reach)


class Plateau(Position):
    """b[h,δ] = −exp(ρ_h)·min(δ, reach), ρ_h learned per head."""

    per_head = True

    def __init__(self, num_heads: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.rho_H = torch.nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        bias_HR = -self.rho_H.exp()[:, None] * torch.arange(self.reach + 1, device=q_BHTD.device)
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, bias_HR=bias_HR, tail="clamp")

    def reset_parameters(self) -> None:
        torch.nn.init.constant_(self.rho_H, -2.0)


class Triangle(MotherWavelet):
    """ψ(u) = max(0, 1 − |u|)."""

    name = "triangle"

    def evaluate(self, x: Tensor, scale: float | Tensor) -> Tensor:
        return (1.0 - (x / scale).abs()).clamp_min(0.0)

    def support(self, scale: float, tolerance: float) -> tuple[float, float]:
        return -scale, scale


register_wavelet("triangle", Triangle)
LAYERS = {"local": {"method": "wavelet", "wavelet": "triangle", "window": 32}, "global": "plateau", "every": 2}


def main(out: Path, steps: int) -> None:
    """Train a small model, whose local layers have triangles and whose global ones plateaus, and read with it."""
    from wavepos.data import prepare
    from wavepos.evaluate.run import evaluate_run
    from wavepos.training.config import TrainConfig
    from wavepos.training.trainer import train

    model: dict[str, Any] = {"size": "tiny", "position": LAYERS, "corpus": f"text:{argparse.__file__}"}
    schedule: dict[str, Any] = {"seq_len": 64, "steps": steps, "batch_tokens": 512, "warmup_steps": 2}
    config = TrainConfig(**model, **schedule, tokenizer="bpe:400", learning_rate=3e-3)
    record = train(config, out, prepare(config.corpus, config.tokenizer), imports=[__file__])
    print("losses", [round(loss, 3) for _, loss in record["losses"]])
    results = evaluate_run(out, [64, 256], config.corpus, 1000, lambda *_: None)
    for entry in results["perplexities"]:
        print(f"{entry['kind']} {entry['seq_len']}: perplexity {entry['per_token']:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/own_position"))
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    main(given.out, given.steps)
