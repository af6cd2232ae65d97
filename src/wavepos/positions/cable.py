"""CABLE's context-aware biases (Veisi et al., 2025)."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from torch.nn.functional import softplus

from wavepos.positions.config import PositionConfig
from wavepos.positions.terms import ReadsGates, ScoreTerms, at_least_float32, require_fit, require_positive_int


@dataclass(frozen=True, slots=True, kw_only=True)
class CableConfig(PositionConfig):
    """CABLE has nothing to set."""

    method: ClassVar[str] = "cable"

    def build(self, *, head_dim: int, num_heads: int) -> "Cable":
        return Cable(num_heads)

    @property
    def reads_gates(self) -> bool:
        return True


@final
class Cable(ReadsGates):
    """s = softmax_scale · q·k + c[h,m] − c[h,n], c the running sum of −softplus(w_h·x_n).

    w_h·x is a projection of the hidden state that belongs to the model: `attention(q, k, v, position=cable,
    gates=cable.gates(logits))` with logits [B,H,S]. As −softplus(z) = log σ(−z), this is `ForgetGate` with w negated
    and without f.

    Deviates from CABLE: the authors' code adds a bias to w·x, started at zero, and leaves out 1/√D from q·k.

    Args:
        num_heads: query heads H.
    """

    per_head = True

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        require_positive_int("num_heads", num_heads)
        self._num_heads = num_heads

    def gates(self, logits_BHS: Tensor) -> Tensor:
        """−softplus(w_h·x_n), [B,H,S] in float32 (float64 for float64 input).

        Args:
            logits_BHS: w_h·x_n.
        """
        return -softplus(at_least_float32(logits_BHS))

    def terms(
        self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0, gates_BHS: Tensor | None = None
    ) -> ScoreTerms:
        require_fit(self, q_BHTD, num_heads=self._num_heads)
        return ScoreTerms(q_BHTD=q_BHTD, k_BGSD=k_BGSD, gates_BHS=gates_BHS)

    def reset_parameters(self) -> None:
        return None
