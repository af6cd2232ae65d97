"""A term of the scores that a backend does not compute is refused by name, never left out."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from wavepos import NoPE, Wavelet, attention
from wavepos.ops import checks
from wavepos.ops.attention import attention_map
from wavepos.ops.call import Call, Implementation
from wavepos.ops.choice import IMPLEMENTATIONS, run_backend
from wavepos.ops.mask import Mask
from wavepos.positions import Position, ScoreTerms

Extended: Any = dataclasses.make_dataclass(
    "Extended", [("gate_BHS", Tensor | None, None)], bases=(ScoreTerms,), frozen=True, kw_only=True
)


class Given(Position):
    """A position that gives the terms it was made with."""

    def __init__(self, kind: Any = ScoreTerms, **terms: Any) -> None:
        super().__init__()
        self.kind, self.given = kind, terms

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> ScoreTerms:
        return self.kind(q_BHTD=q_BHTD, k_BGSD=k_BGSD, **self.given)

    def reset_parameters(self) -> None:
        return None


Q = torch.randn(1, 2, 20, 64, generator=torch.Generator().manual_seed(0))
CALLS = {
    "auto": lambda position: attention(Q, Q, Q, position=position),
    "banded": lambda position: attention(Q, Q, Q, position=position, backend="banded"),
    "one query": lambda position: attention(Q[:, :, -1:], Q, Q, position=position, backend="banded"),
    "triton": lambda position: attention(Q, Q, Q, position=position, backend="triton"),
    "reference": lambda position: attention(Q, Q, Q, position=position, backend="reference"),
    "slots": lambda position: attention(Q[:, :, -1:], Q, Q, position=position, query_offset=torch.tensor(19)),
    "map": lambda position: attention_map(Q, Q, position=position),
    "map of slots": lambda position: attention_map(Q[:, :, -1:], Q, position=position, query_offset=torch.tensor(19)),
    "empty": lambda position: attention(Q[:, :, :0], Q, Q, position=position),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_new_term_is_refused_by_every_backend(name: str) -> None:
    gate = torch.zeros(1, 2, 20)
    with pytest.raises(ValueError, match="does not serve gate_BHS of the position's terms"):
        CALLS[name](Given(Extended, gate_BHS=gate))
    if name != "triton":  # which needs a GPU or its interpreter
        CALLS[name](Given(Extended))


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_direct_call_is_refused_too(name: str) -> None:
    """Benchmarks, tests and proofs build a call of their own; none of them gets by the declaration."""
    mask = Mask(num_queries=20, num_keys=20)
    terms = Extended(q_BHTD=Q, k_BGSD=Q, gate_BHS=torch.zeros(1, 2, 20))
    with pytest.raises(ValueError, match="does not serve gate_BHS of the position's terms"):
        run_backend(name, Call(terms=terms, v_BGSD=Q, mask=mask, softmax_scale=0.125))


@pytest.mark.parametrize("name", [name for name in IMPLEMENTATIONS if not name.startswith("slot")])
def test_an_offset_on_the_device_is_read_by_slots_only(name: str) -> None:
    terms, mask = ScoreTerms(q_BHTD=Q, k_BGSD=Q), Mask(num_queries=20, num_keys=20)
    call = Call(terms=terms, v_BGSD=Q, mask=mask, softmax_scale=0.125, device_offset=torch.tensor(0))
    with pytest.raises(ValueError, match="does not serve a tensor as query_offset"):
        run_backend(name, call)
    with pytest.raises(ValueError, match="must be int64 without dimensions, got none"):
        run_backend("slots", dataclasses.replace(call, device_offset=None))


@pytest.mark.parametrize("name", [name for name in CALLS if name != "triton"])
def test_a_call_is_checked_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    refusal, check = Implementation.refusal, checks.check_terms
    monkeypatch.setattr(
        Implementation, "refusal", lambda self, call: (asked.append(self.label), refusal(self, call))[1]
    )
    monkeypatch.setattr(checks, "check_terms", lambda *given: (asked.append("terms"), check(*given))[1])
    CALLS[name](Given())
    assert len(asked) == 2
    assert asked[0] == "terms"


def test_the_fields_in_use_are_those_that_say_something() -> None:
    always = {"q_BHTD", "k_BGSD"}
    assert NoPE().terms(Q, Q).in_use() == always
    assert Wavelet(64, scales=(1.0, 2.0)).terms(Q, Q).in_use() >= always | {"r_BHTE", "table", "tail"}
    assert ScoreTerms(q_BHTD=Q, k_BGSD=Q, first_displacement=-3).in_use() == always | {"first_displacement"}
    assert Extended(q_BHTD=Q, k_BGSD=Q, gate_BHS=Q[..., 0]).in_use() == always | {"gate_BHS"}


def test_the_specification_serves_every_term() -> None:
    assert IMPLEMENTATIONS["reference"].serves == {field.name for field in dataclasses.fields(ScoreTerms)}


def test_a_bias_of_zeros_at_displacements_ahead_changes_nothing() -> None:
    position = Given(bias_HR=torch.zeros(2, 39), first_displacement=-19)
    expected = attention(Q, Q, Q, position=NoPE())
    torch.testing.assert_close(attention(Q, Q, Q, position=position), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"table": torch.zeros(20, 64), "tail": "zero"}, "gives one of r and table: their product needs both"),
        ({"r_BHTE": torch.zeros(1, 2, 19, 8), "table": torch.zeros(20, 8)}, r"must give r of shape \(1, 2, 20, 8\)"),
        (
            {"bias_HR": torch.zeros(2, 20), "first_displacement": -20},
            "gives a bias of 20 entries from displacement -20 on: it must hold displacement 0",
        ),
        (
            {"r_BHTE": Q, "table": torch.zeros(20, 64), "first_displacement": 1},
            "gives a table of 20 entries from displacement 1 on: it must hold displacement 0",
        ),
        ({"bias_HR": torch.zeros(3, 20)}, "has num_heads=3 .* and q has 2 heads"),
        ({"bias_HR": torch.zeros(2, 20, device="meta")}, r"is on meta \(its bias_HR\) and q on cpu"),
    ],
    ids=["half", "r", "ahead", "behind", "heads", "device"],
)
def test_terms_that_do_not_fit_are_named(terms: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"position Given {message}"):
        attention(Q, Q, Q, position=Given(**terms))
