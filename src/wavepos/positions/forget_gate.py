"""The forget gate of the Forgetting Transformer, FoX (Lin et al., 2025)."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from wavepos.positions.config import PositionConfig
from wavepos.positions.terms import ReadsGates, ScoreTerms, at_least_float32, require_fit, require_positive_int
from wavepos.positions.typed import LONGEST, require_between


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetGateConfig(PositionConfig):
    """How the gate starts.

    Attributes:
        decay_times: the shortest and the longest time, in tokens, in which a head forgets by a factor of e where the
            projection says nothing; None: f starts at zero, as in the authors' code.
    """

    method: ClassVar[str] = "forget_gate"
    aliases: ClassVar[tuple[str, ...]] = ("fox", "forgetting_transformer")
    decay_times: tuple[float, ...] | None = None

    def check(self) -> None:
        if self.decay_times is None:
            return
        if len(self.decay_times) != 2:
            raise ValueError(f"decay_times must be the shortest and the longest one, got {self.decay_times}")
        for time in self.decay_times:
            require_between("decay_times", time, 1e-2, LONGEST)

    def build(self, *, head_dim: int, num_heads: int) -> "ForgetGate":
        return ForgetGate(num_heads, decay_times=self.decay_times)

    @property
    def reads_gates(self) -> bool:
        return True


@final
class ForgetGate(ReadsGates):
    """s = softmax_scale · q·k + c[h,m] − c[h,n], c the running sum of log σ(w_h·x_n + f_h): each key forgets the past.

    w_h·x is a projection of the hidden state that belongs to the model, f_h is learned here:
    `attention(q, k, v, position=gate, gates=gate.gates(logits))` with logits [B,H,S]. Models of this package make the
    projection, and round the log gates to their dtype before they are summed and cached.

    Deviates from FoX: neither the output gate nor the QK-norm and the shifts of its "Pro" block are the position's. The
    authors' data-dependent gate starts with f = 0, their data-independent one so that head h forgets in T_h tokens,
    f_h = −log(e^(1/T_h) − 1) with T_h spaced as logarithms: `decay_times` gives the one the other's start.

    Args:
        num_heads: query heads H.
        decay_times: the shortest and the longest T_h, in tokens; None: f starts at zero.
    """

    per_head = True

    def __init__(self, num_heads: int, decay_times: tuple[float, ...] | None = None) -> None:
        super().__init__()
        require_positive_int("num_heads", num_heads)
        self.config = ForgetGateConfig(decay_times=decay_times)
        self.bias_H = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def gates(self, logits_BHS: Tensor) -> Tensor:
        """log σ(w_h·x_n + f_h), [B,H,S] in float32 (float64 for float64 input).

        Args:
            logits_BHS: w_h·x_n.
        """
        wide = at_least_float32(logits_BHS)
        return logsigmoid(wide + self.bias_H.to(wide.dtype)[:, None])

    def terms(
        self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0, gates_BHS: Tensor | None = None
    ) -> ScoreTerms:
        require_fit(self, q_BHTD, num_heads=self.bias_H.shape[0])
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, gates_BHS=gates_BHS)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias_H)
        if self.config.decay_times is None or self.bias_H.is_meta:
            return
        first, last = (math.log(time) for time in self.config.decay_times)
        times_H = torch.linspace(first, last, self.bias_H.shape[0], dtype=torch.float64).exp()
        with torch.no_grad():
            self.bias_H.copy_(-times_H.reciprocal().expm1().log())
