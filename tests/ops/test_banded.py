"""The banded backend as an operator: compiled, checkpointed, refused, linear in memory, and its parts."""

import pytest
import torch
from small_positions import BOTH_WAYS, GATED, HEAD_DIM, NUM_HEADS, POSITIONS, position, read
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from wavepos import LearnedRelative, NoPE, T5Bias, Wavelet, attention
from wavepos.ops.banded.far import flash_backward, flash_forward
from wavepos.ops.banded.operator import backward_operator, banded_operator
from wavepos.ops.call import Call
from wavepos.ops.choice import run_backend
from wavepos.ops.mask import Mask
from wavepos.positions import ScoreTerms
from wavepos.positions.tables import low_rank, row_tolerance
from wavepos.testing import Case

NAMES = [name for name in POSITIONS if name != "alibi-12"]


def leaves(length: int, **case) -> list[Tensor]:
    return [
        x.requires_grad_() for x in Case(num_queries=length, num_keys=length, head_dim=HEAD_DIM, **case).inputs()[:3]
    ]


def given_to(name: str, length: int) -> dict[str, Tensor | None]:
    return read(position(name), Case(num_queries=length, num_keys=length, head_dim=HEAD_DIM))


def given(terms: ScoreTerms, v: Tensor, causal: bool = True) -> Call:
    """A call of terms that no position gives."""
    mask = Mask(num_queries=terms.q_BHTD.shape[2], num_keys=v.shape[2], causal=causal)
    return Call(terms=terms, v_BGSD=v, mask=mask, softmax_scale=0.25)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "wavelet-haar"])
def test_compiled_is_eager(name):
    torch._dynamo.reset()
    built = position(name)

    def run(q: Tensor, k: Tensor, v: Tensor, more: dict[str, Tensor | None]) -> Tensor:
        return attention(q, k, v, position=built, backend="banded", **more)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for length in (40, 70, 90):
        inputs, more = leaves(length), given_to(name, length)
        read_leaves = [x.requires_grad_() for x in more.values() if x is not None]
        parameters = [*inputs, *read_leaves, *built.parameters()]
        out, expected = compiled(*inputs, more), run(*inputs, more)
        torch.testing.assert_close(out, expected, rtol=0.0, atol=1e-6)
        grads = [torch.autograd.grad(x.square().sum(), parameters, allow_unused=True) for x in (out, expected)]
        for ours, eager in zip(*grads, strict=True):  # f of a gate is not read where gates are given
            assert (ours is eager is None) or torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5) is None


@pytest.mark.parametrize("name", ["wavelet", "shaw", "transformer_xl"])
def test_operators_keep_their_contracts(name):
    inputs = leaves(30)
    terms = position(name).terms(*inputs[:2])
    table = terms.table if terms.table.dim() == 3 else terms.table[None]
    arguments = (
        terms.q_BHTD,
        terms.k_BGSD,
        inputs[2],
        terms.r_BHTE,
        table,
        None,
        None,
        None,
        None,
        0,
        True,
        None,
        0,
        0.25,
        0.25,
    )
    detached = tuple(x.detach().requires_grad_() if isinstance(x, Tensor) else x for x in arguments)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(banded_operator, detached, test_utils=checks)


@pytest.mark.parametrize("name", ["wavelet", "t5"])
def test_checkpointed_is_plain(name):
    built, inputs = position(name), leaves(70)

    def run(*qkv: Tensor) -> Tensor:
        return attention(*qkv, position=built, backend="banded")

    outs = [run(*inputs), checkpoint(run, *inputs, use_reentrant=False)]
    plain, again = ([x, *torch.autograd.grad(x.square().sum(), inputs)] for x in outs)
    assert all(torch.equal(x, y) for x, y in zip(plain, again, strict=True))


def test_second_derivatives_are_refused():
    q, k, v = leaves(30)
    out = attention(q, k, v, position=position("wavelet"), backend="banded")
    (gradient,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="banded attention has no second derivative; use backend='reference'"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", NAMES)
def test_one_query_with_a_cache_is_the_last_row(name):
    q, k, v = leaves(90)
    built, more = position(name), given_to(name, 90)
    r = more.pop("relative_states")
    whole = attention(q, k, v, position=built, backend="banded", relative_states=r, **more)
    last = attention(
        q[:, :, -1:],
        k,
        v,
        position=built,
        backend="banded",
        query_offset=89,
        relative_states=None if r is None else r[:, :, -1:],
        **more,
    )
    torch.testing.assert_close(last, whole[:, :, -1:], rtol=0.0, atol=2e-6)


def test_tables_made_in_inference_mode_can_be_trained_with():
    built, inputs = Wavelet(HEAD_DIM, scales=(1.0, 2.0)), leaves(60)
    with torch.inference_mode():
        attention(*inputs, position=built, backend="banded")
    attention(*inputs, position=built, backend="banded").sum().backward()
    assert torch.count_nonzero(inputs[0].grad) > 0


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any one tensor had, inside our operators too."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.operations = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations.add(func)
        inside = {operator._opoverload: operator._init_fn for operator in (banded_operator, backward_operator)}
        if func in inside:
            with self:
                return inside[func](*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize(
    ("name", "masked", "causal", "window"),
    [(name, False, True, None) for name in NAMES]
    + [(name, True, True, None) for name in ("nope", "alibi", "wavelet", "transformer_xl", "forget_gate")]
    + [(name, False, False, None) for name in BOTH_WAYS if name not in ("alibi-12", "nope", "rotary")]
    + [(name, False, True, 1500) for name in ("nope", "alibi", "wavelet", *GATED)],
)
def test_memory_is_linear(name, masked, causal, window):
    length = 4096
    case = Case(batch=1, num_heads=4, num_kv_heads=1, num_queries=length, num_keys=length, head_dim=HEAD_DIM)
    q, k, v, _ = case.inputs()
    inputs = [x.requires_grad_() for x in (q, k, v)]
    masks = {"key_padding_mask": torch.arange(length)[None] >= 5} if masked else {}
    with LargestTensor() as largest:
        out = attention(
            *inputs,
            position=position(name, not causal),
            causal=causal,
            window=window,
            backend="auto",
            **read(position(name, not causal), case),
            **masks,
        )
        out.sum().backward()
    assert torch.ops.aten.bmm.out in largest.operations or name in ("nope", "rotary")
    assert q.numel() <= largest.elements < length * length // 4


@pytest.mark.short_is_near
@pytest.mark.parametrize(("length", "dtype", "fused"), [(90, torch.float32, False), (90, torch.bfloat16, True)])
def test_short_calls_need_no_fused_kernel(length, dtype, fused):
    q, k, v = leaves(length, dtype=dtype)
    with LargestTensor() as seen:
        attention(q, k, v, position=position("wavelet"), backend="banded")
    assert (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default in seen.operations) == fused


def test_dropout_is_refused():
    q, k, v = leaves(20)
    with pytest.raises(ValueError, match=r"backend='banded' has no dropout .*, got dropout=0\.1"):
        attention(q, k, v, position=NoPE(), backend="banded", dropout=0.1)
    assert attention(q, k, v, position=NoPE(), dropout=0.1).shape == q.shape


def test_auto_never_goes_dense_in_silence():
    long = torch.zeros(1, 1, 1, 4).expand(1, 1, 2**14 + 1, 4)
    with pytest.raises(
        ValueError, match=r"auto' takes the dense reference up to 268435456 scores.*dropout|dropout.*auto"
    ):
        attention(long, long, long, position=NoPE(), dropout=0.1)


@pytest.mark.parametrize("tail", ["zero", "clamp"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("before", "behind"), [(0, 9), (7, 4), (20, 0), (120, 120)])
def test_tables_from_ahead_of_the_query_to_behind_it(before, behind, causal, tail):
    q, k, v = leaves(90)
    size = before + behind + 1
    given_terms = {"table": torch.randn(size, HEAD_DIM), "bias_HR": torch.randn(NUM_HEADS, size)}
    terms = ScoreTerms(q_BHTD=q, k_BGSD=k, r_BHTE=q, first_displacement=-before, tail=tail, **given_terms)
    outs = [run_backend(name, given(terms, v, causal)) for name in ("banded", "reference")]
    banded, reference = ([x, *torch.autograd.grad(x.square().sum(), (q, k, v))] for x in outs)
    for ours, expected in zip(banded, reference, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_table_and_a_bias_of_different_lengths():
    q, k, v = leaves(90)
    terms = ScoreTerms(
        q_BHTD=q, k_BGSD=k, r_BHTE=q, table=torch.randn(11, HEAD_DIM), bias_HR=torch.randn(NUM_HEADS, 25), tail="clamp"
    )
    outs = [run_backend(name, given(terms, v)) for name in ("banded", "reference")]
    banded, reference = ([x, *torch.autograd.grad(x.square().sum(), (q, k, v))] for x in outs)
    for ours, expected in zip(banded, reference, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 48), (torch.bfloat16, 32), (torch.float16, 40)])
def test_the_papers_table_is_of_low_rank(dtype, most):
    table = Wavelet(128).table(820)
    factors = low_rank(table, dtype)
    assert factors.basis_KE.shape == (most, 128)
    product = factors.coefficients_RK.double() @ factors.basis_KE.double()
    rounding = 2.0 * torch.finfo(dtype).eps * float(table.double().norm(dim=1).max())
    error = (product - table.double()).norm(dim=1).max()
    assert error <= row_tolerance(dtype) + rounding


def test_tables_of_full_rank_are_left_alone():
    table = torch.randn(200, 32)
    assert low_rank(table, torch.float32) is None
    assert low_rank(Wavelet(128).table(820), torch.float64) is None


def test_the_cpu_flash_signature_is_the_one_we_call():
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default._schema
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default._schema
    assert [x.name for x in forward.arguments] == [
        "query", "key", "value", "dropout_p", "is_causal", "attn_mask", "scale",
    ]  # fmt: skip
    assert [x.name for x in forward.returns] == ["output", "logsumexp"]
    assert [x.name for x in backward.arguments] == [
        "grad_out", "query", "key", "value", "out", "logsumexp", "dropout_p", "is_causal", "attn_mask", "scale",
    ]  # fmt: skip


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_cuda_adapters_give_what_the_far_part_reads(dtype, causal, gated):
    """Shapes, dtypes and devices, without a GPU: the numbers are for a machine that has one."""
    with FakeTensorMode():
        q = torch.empty(2, 4, 40, 16, dtype=dtype, device="cuda")
        k, v = (torch.empty(2, 2, 40, 16, dtype=dtype, device="cuda") for _ in range(2))
        row = torch.empty(2, 4, 1, 40, device="cuda") if gated else None
        out, lse = flash_forward(q, k, v, causal, 0.25, row)
        grads = flash_backward(torch.empty_like(out), (out, lse), (q, k, v), causal, 0.25, row)
    assert (out.shape, out.dtype, out.device) == (q.shape, dtype, q.device)
    assert (lse.shape, lse.dtype, lse.device) == (q.shape[:3], torch.float32, q.device)
    assert [(x.shape, x.dtype, x.device) for x in grads] == [(x.shape, dtype, q.device) for x in (q, k, v)]


@pytest.mark.parametrize("softmax_scale", [1.0, 0.0625])
def test_learned_relative_is_inklings_layer(softmax_scale):
    inkling = pytest.importorskip("transformers.models.inkling.modeling_inkling")
    length, extent, width = 60, 25, 4
    layer = inkling.InklingRelativeLogits(width, extent)
    ours = LearnedRelative(relative_dim=width, extent=extent)
    with torch.no_grad():
        layer.proj.copy_(torch.randn(width, extent))
        ours.weight.copy_(layer.proj.mT)
    q, k, v = leaves(length)
    r = torch.randn(2, NUM_HEADS, length, width, requires_grad=True)
    positions = torch.arange(length)
    bias = layer(r.transpose(1, 2), positions, positions)
    bias = bias.masked_fill(positions[:, None] < positions, -torch.inf)
    keys, values = (x.repeat_interleave(2, 1) for x in (k, v))
    theirs = torch.softmax(q @ keys.mT * softmax_scale + bias, -1) @ values
    out = attention(q, k, v, position=ours, backend="banded", softmax_scale=softmax_scale, relative_states=r)
    torch.testing.assert_close(out, theirs, rtol=1e-5, atol=1e-5)
    expected = torch.autograd.grad(theirs.square().sum(), (q, k, v, r, layer.proj))
    got = torch.autograd.grad(out.square().sum(), (q, k, v, r, ours.weight))
    for x, y in zip((*got[:4], got[4].mT), expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_relative_states_go_with_learned_relative_only():
    q, k, v = leaves(20)
    r = torch.zeros(2, NUM_HEADS, 20, 4)
    with pytest.raises(ValueError, match="relative_states go with LearnedRelative only, got position T5Bias"):
        attention(q, k, v, position=T5Bias(NUM_HEADS), relative_states=r)
    with pytest.raises(ValueError, match=r"LearnedRelative needs relative_states of shape .*, got None"):
        attention(q, k, v, position=LearnedRelative(relative_dim=4))
    with pytest.raises(ValueError, match=r"= \(2, 4, 20, 5\), got \(2, 4, 20, 4\)"):
        attention(q, k, v, position=LearnedRelative(relative_dim=5), relative_states=r)
    with pytest.raises(ValueError, match="relative_states must have q's dtype and device"):
        attention(q, k, v, position=LearnedRelative(relative_dim=4), relative_states=r.double())
