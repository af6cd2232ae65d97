"""Wavelets whose scales and shifts are trained: the grid at the start, exact gradients, a band that holds."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wavepos import Wavelet, attention
from wavepos.positions import Position, parse_position, position_dict
from wavepos.testing import Case, assert_within
from wavepos.wavelets import MotherWavelet, Ricker

HEADS, DIM, SCALES = 4, 16, (1.0, 2.0)
BOTH: Any = ("scales", "shifts")
FORMS: list[dict[str, Any]] = [
    {"learn": ("scales",)},
    {"learn": ("shifts",)},
    {"learn": BOTH},
    {"learn": BOTH, "learn_per_head": True},
    {"learn": BOTH, "query_bias": "recency", "direction": "future"},
    {"learn": BOTH, "amplitude": "inverse_sqrt", "stretch": 2.0},
    {"learn": ("shifts",), "amplitude": "unit_peak"},
    {"learn": BOTH, "wavelet": "gaussian"},
    {"learn": BOTH, "wavelet": "morlet"},
    {"learn": BOTH, "wavelet": "true_morlet"},
]


def wavelet(moved: bool = True, **form: Any) -> Wavelet:
    built = Wavelet(DIM, **{"scales": SCALES, "num_heads": HEADS, **form})
    if moved:
        generator = torch.Generator().manual_seed(0)
        for free in built.grid.parameters():
            nn.init.normal_(free, std=0.5, generator=generator)
    return built


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_it_starts_at_the_grid(form: dict[str, Any]) -> None:
    built = wavelet(moved=False, **form)
    fixed = Wavelet(
        DIM, scales=SCALES, **{k: v for k, v in form.items() if k in ("wavelet", "direction", "amplitude", "stretch")}
    )
    table = built.table(40)
    torch.testing.assert_close(table, fixed.table(40).expand_as(table), atol=1e-7, rtol=0.0)
    scales, shifts = built.grid()
    expected = [scale * form.get("stretch", 1.0) for scale in SCALES for _ in range(8)]
    assert scales.broadcast_to(HEADS, DIM)[0].tolist() == expected
    assert shifts.broadcast_to(HEADS, DIM)[-1].tolist() == [float(b) for b in range(8)] * 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["banded", "reference"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_backend_is_within_twice_the_dense_error_gradients_too(
    form: dict[str, Any], backend: Any, dtype: torch.dtype
) -> None:
    built = wavelet(**form)
    length = built.reach() + 20
    assert_within(built, Case(batch=1, num_queries=length, num_keys=length, dtype=dtype), backend)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("backend", ["reference", "banded"])
def test_both_directions_begin_with_the_grids_own_and_have_exact_gradients(form: dict[str, Any], backend: Any) -> None:
    case = Case(num_queries=70, num_keys=90, query_offset=10, head_dim=DIM)
    fixed = {key: value for key, value in form.items() if not key.startswith("learn")}
    q, k, v, _ = case.inputs()
    given = {"query_offset": 10, "causal": False, "backend": backend}
    plain = attention(q, k, v, position=Wavelet(DIM, scales=SCALES, num_heads=HEADS, **fixed), **given)
    torch.testing.assert_close(attention(q, k, v, position=wavelet(moved=False, **form), **given), plain)
    assert_within(wavelet(**form), case, backend, causal=False)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_gradients_are_those_of_finite_differences(form: dict[str, Any]) -> None:
    built = wavelet(**form).double()
    free = list(built.grid.parameters())
    q, k, v = torch.randn(3, 1, HEADS, 20, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def out(*values: Tensor) -> Tensor:
        for parameter, value in zip(free, values, strict=True):
            parameter.data = value.detach()
        names = [name for name, _ in built.named_parameters() if name.startswith("grid.")]
        return torch.func.functional_call(
            _Call(built), {f"position.{name}": value for name, value in zip(names, values, strict=True)}, (q, k, v)
        )

    assert torch.autograd.gradcheck(out, [x.detach().clone().requires_grad_() for x in free], atol=1e-6)


class _Call(nn.Module):
    def __init__(self, position: Wavelet) -> None:
        super().__init__()
        self.position = position

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, position=self.position, backend="reference")


@pytest.mark.parametrize("backend", ["banded", "reference"])
def test_gradients_are_the_tables_times_the_derivatives_of_the_ricker(backend: Any) -> None:
    """∂ψ/∂b = u(3 − u²)·exp(−u²/2)/a, ∂ψ/∂a = u·∂ψ/∂b, u = (δ − b)/a; at the start times a·log 2 and the span."""
    built = wavelet(moved=False, learn=BOTH).double()
    q, k, v, up = torch.randn(4, 2, HEADS, 60, DIM, dtype=torch.float64)
    (attention(q, k, v, position=built, backend=backend) * up).sum().backward()
    fixed = _WithTable(Wavelet(DIM, scales=SCALES), 60)
    (attention(q, k, v, position=fixed, backend=backend) * up).sum().backward()
    a, b = (x.detach() for x in built.grid())
    u = (torch.arange(60, dtype=torch.float64)[:, None] - b) / a
    slope = u * (3.0 - u.square()) * torch.exp(-0.5 * u.square()) / a
    da, db = (fixed.weight.grad * u * slope).sum(0), (fixed.weight.grad * slope).sum(0)
    torch.testing.assert_close(built.grid.free_scales.grad, da * a * math.log(2.0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(built.grid.free_shifts.grad, db * built.grid.span, atol=1e-6, rtol=1e-5)


class _WithTable(Position):
    """The wavelet's table as a learned one."""

    def __init__(self, wavelet: Wavelet, length: int) -> None:
        super().__init__()
        self.wavelet = wavelet
        displacement = torch.arange(length, dtype=torch.float64)
        columns = [Ricker().evaluate(displacement - b, a) for a in wavelet.scales for b in wavelet.shifts]
        self.weight = nn.Parameter(torch.stack(columns, -1))

    def terms(self, q_BHTD: Tensor, k_BGSD: Tensor, *, q_offset: int = 0) -> Any:
        return dataclasses.replace(
            self.wavelet.terms(q_BHTD, k_BGSD, q_offset=q_offset), table=self.weight, tail="none"
        )

    def reset_parameters(self) -> None:
        return None


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_band_holds_for_whatever_they_become(form: dict[str, Any]) -> None:
    built, fixed = wavelet(moved=False, **form), Wavelet(DIM, scales=SCALES, wavelet=form.get("wavelet", "ricker"))
    reach = built.reach()
    assert reach >= fixed.reach() if form.get("direction") != "future" else reach > 1
    for sign in (-1.0, 1.0):
        for other in (-1.0, 1.0):
            for name, value in ((("free_scales"), sign), (("free_shifts"), other)):
                free = getattr(built.grid, name)
                if free is not None:
                    nn.init.constant_(free, 40.0 * value)  # as far as it goes
            scales, shifts = built.grid()
            start = torch.tensor([scale for scale in built.scales for _ in built.shifts], dtype=torch.float64)
            assert bool(((scales / start >= 0.5) & (scales / start <= 2.0)).all())
            assert bool((shifts.abs() <= 14.0).all())
            far = built.table(reach + 200)[..., reach:, :]
            assert float(far.abs().max()) <= 1.01e-7


def test_attention_beyond_the_band_is_content_alone() -> None:
    built = wavelet(learn=BOTH)
    q, k, v = torch.randn(3, 1, HEADS, built.reach() + 50, DIM)
    banded = attention(q, k, v, position=built, backend="banded")
    torch.testing.assert_close(banded, attention(q, k, v, position=built, backend="reference"), atol=2e-6, rtol=1e-5)


class Bump(MotherWavelet):
    """One of a user's own, on one side of zero, with derivatives."""

    differentiable = True
    name = "bump"  # type: ignore[assignment]

    def evaluate(self, x: Tensor, scale: Any) -> Tensor:
        u = x / scale
        return torch.where(u < 0.0, (u * torch.exp(1.0 + u)), 0.0)

    def support(self, scale: float, tolerance: float) -> tuple[float, float]:
        return -40.0 * scale, 0.0


def test_a_wavelet_of_ones_own_learns_where_it_says_that_it_has_derivatives() -> None:
    built = wavelet(wavelet=Bump(), learn=BOTH)
    table = built.table(30)
    assert float(table.abs().max()) > 0.5, "it is mirrored to the causal side"
    assert_within(built, Case(batch=1, num_queries=60, num_keys=60), "banded")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            {"wavelet": "haar", "learn": BOTH},
            r"learn goes with wavelets that have derivatives .*got 'haar': it has no der",
        ),
        ({"wavelet": "db4", "scales": (1, 2), "learn": BOTH}, r"got 'db4': its scales are levels"),
        ({"learn": ("scale",)}, r"learn must be a sequence of 'scales', 'shifts', got \('scale',\)"),
        ({"learn": "scales"}, "learn must be a sequence of 'scales', 'shifts', got 'scales'"),
        ({"learn": ("scales", "scales")}, "learn must name each of scales and shifts at most once"),
        ({"learn_per_head": True}, r"learn_per_head goes with learn, got learn=\(\)"),
        ({"learn": BOTH, "amplitude": "unit_peak"}, "amplitude='unit_peak' divides by the peak of a fixed wavelet"),
        ({"learn": BOTH, "learn_per_head": True, "num_heads": None}, "num_heads must be given with learn_per_head"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(form: dict[str, Any], message: str) -> None:
    if form.get("wavelet") == "db4":
        pytest.importorskip("pywt")
    with pytest.raises(ValueError, match=message):
        Wavelet(DIM, **{"scales": SCALES, "num_heads": HEADS, **form})


def test_json_goes_in_and_out_whatever_the_order() -> None:
    config = parse_position({"method": "wavelet", "learn": ["shifts", "scales"], "learn_per_head": True})
    assert position_dict(config)["learn"] == ("scales", "shifts")
    assert (
        parse_position(position_dict(config))
        == config
        == parse_position({"method": "wavelet", "learn": BOTH, "learn_per_head": True})
    )


def test_nothing_is_learned_unless_asked_for() -> None:
    assert list(Wavelet(DIM, scales=SCALES).parameters()) == []


@pytest.mark.parametrize("form", [{"learn": BOTH}, {"learn": BOTH, "learn_per_head": True}], ids=str)
def test_a_compiled_call_and_one_with_a_tensor_offset_are_the_same(form: dict[str, Any]) -> None:
    torch.compiler.reset()
    built = wavelet(**form)
    q, k, v = torch.randn(3, 1, HEADS, 50, DIM)
    whole = attention(q, k, v, position=built)
    compiled = torch.compile(lambda q, k, v: attention(q, k, v, position=built), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), whole)
    step = attention(q[:, :, 30:31], k, v, position=built, query_offset=torch.tensor(30))
    torch.testing.assert_close(step, whole[:, :, 30:31], atol=2e-6, rtol=1e-5)
