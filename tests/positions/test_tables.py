"""Fixed tables stay plain tensors whatever traces them, and threads that share a position do not mix them up."""

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from small_positions import HEAD_DIM, POSITIONS, heads, position, read
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from wavepos import ALiBi, Rotary, Wavelet, attention
from wavepos.positions import Position, build_position, parse_position
from wavepos.positions.tables import TableCache
from wavepos.testing import Case

DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "max_position_embeddings": 16}
LONG = {
    "rope_type": "longrope",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "short_factor": [1.0] * (HEAD_DIM // 2),
    "long_factor": [4.0] * (HEAD_DIM // 2),
}


@pytest.fixture
def slow_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads have a turn whenever a rotation has set one of its attributes."""

    def set_slowly(self: Rotary, name: str, value: object) -> None:
        nn.Module.__setattr__(self, name, value)
        time.sleep(1e-4)

    monkeypatch.setattr(Rotary, "__setattr__", set_slowly, raising=False)


class Layer(nn.Module):
    """Attention with a position, as a model calls it."""

    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position = position

    def forward(self, q: Tensor, more: dict[str, Tensor | None]) -> Tensor:
        return attention(q, q, q, position=self.position, **more)


class TwoLayers(nn.Module):
    """Two positions of one kind, each with a table of its own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(position(name)) for _ in range(2))

    def forward(self, q: Tensor, more: dict[str, Tensor | None]) -> Tensor:
        for layer in self.layers:
            q = layer(q, more)
        return q


def inputs(name: str, length: int = 20) -> tuple[Tensor, dict[str, Tensor | None]]:
    q = torch.randn(1, heads(name), length, HEAD_DIM)
    case = Case(batch=1, num_heads=heads(name), num_queries=length, num_keys=length, head_dim=HEAD_DIM)
    return q, read(position(name), case)


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
@pytest.mark.parametrize("name", POSITIONS)
def test_exporting_leaves_a_live_model_as_it_was(name: str, strict: bool) -> None:
    given = inputs(name)
    expected = Layer(position(name))(*given)
    layer = Layer(position(name))
    exported = torch.export.export(layer, given, strict=strict)
    torch.testing.assert_close(exported.module()(*given), expected)
    after = layer(*given)
    assert not isinstance(after, FakeTensor)
    assert torch.equal(after, expected)
    longer = inputs(name, 150)
    assert torch.equal(layer(*longer), Layer(position(name))(*longer))


def exported_at(name: str, length: Any) -> Any:
    given = inputs(name, 40)
    shapes = ({2: length}, {key: None if x is None else {2: length} for key, x in given[1].items()})
    return torch.export.export(Layer(position(name)), given, dynamic_shapes=shapes).module()


@pytest.mark.parametrize("name", ["rotary", "alibi", "t5", "shaw", "transformer_xl", "wavelet", "learned_relative"])
def test_an_exported_position_is_read_at_any_length_within_its_dimension(name: str) -> None:
    length = torch.export.Dim("length", min=2, max=1024)  # short tables end within it
    exported = exported_at(name, length)
    for tokens in (2, 30, 65, 1000):
        other = inputs(name, tokens)
        torch.testing.assert_close(exported(*other), Layer(position(name))(*other))


def test_a_length_without_a_maximum_is_exported_where_the_table_has_an_end() -> None:
    exported = exported_at("wavelet", torch.export.Dim("length"))
    for tokens in (5, 300):
        other = inputs("wavelet", tokens)
        torch.testing.assert_close(exported(*other), Layer(position("wavelet"))(*other))
    with pytest.raises(ValueError, match="must have a maximum where tables grow with it, got none: give Dim"):
        exported_at("rotary", torch.export.Dim("length"))


@pytest.mark.parametrize("name", POSITIONS)
def test_a_position_compiles_whole(name: str) -> None:
    torch._dynamo.reset()
    layers = TwoLayers(name)
    compiled = torch.compile(layers, fullgraph=True, backend="aot_eager")
    for length in (20, 33, 150):
        given = inputs(name, length)
        torch.testing.assert_close(compiled(*given), TwoLayers(name)(*given))
        assert torch.equal(layers(*given), TwoLayers(name)(*given))


def test_a_rotation_that_follows_the_length_compiles_whole() -> None:
    torch._dynamo.reset()
    built = build_position(parse_position({"method": "rotary", "scaling": DYNAMIC}), head_dim=HEAD_DIM, num_heads=4)
    compiled = torch.compile(Layer(built), fullgraph=True, backend="aot_eager")
    for length in (10, 20, 33, 150):
        q = torch.randn(1, 4, length, HEAD_DIM)
        torch.testing.assert_close(compiled(q, {}), Layer(copy.deepcopy(built))(q, {}))


@pytest.mark.parametrize("name", ["rotary", "alibi", "wavelet", "wavelet-haar"])
def test_terms_of_fake_queries_are_fake_and_are_not_kept(name: str) -> None:
    live = position(name)
    with FakeTensorMode():
        q = torch.empty(1, heads(name), 20, HEAD_DIM)
        terms = live.terms(q, q)
        for x in (terms.q_BHTD, terms.table, terms.gates_BHS):
            assert x is None or isinstance(x, FakeTensor)
    q, _ = inputs(name)
    after, expected = live.terms(q, q), position(name).terms(q, q)
    pairs = [(after.table, expected.table), (after.gates_BHS, expected.gates_BHS), (after.q_BHTD, expected.q_BHTD)]
    for ours, theirs in pairs:
        assert not isinstance(ours, FakeTensor)
        assert (ours is theirs is None) or torch.equal(ours, theirs)


def test_tables_are_plain_under_inference_mode_and_another_default_device() -> None:
    q = torch.randn(1, 4, 20, HEAD_DIM)
    for built in (ALiBi(4), Rotary(HEAD_DIM), Wavelet(HEAD_DIM, scales=(1.0, 2.0))):
        expected = attention(q, q, q, position=copy.deepcopy(built))
        with torch.inference_mode(), torch.device("meta"):
            attention(q, q, q, position=built)
        leaf = q.clone().requires_grad_()
        out = attention(leaf, leaf, leaf, position=built)
        out.sum().backward()
        torch.testing.assert_close(out.detach(), expected)


@pytest.mark.parametrize("scaling", [DYNAMIC, LONG], ids=["dynamic", "longrope"])
def test_threads_with_different_lengths_get_their_own_angles(scaling: dict, slow_to_set: None) -> None:
    shared = build_position(parse_position({"method": "rotary", "scaling": scaling}), head_dim=HEAD_DIM, num_heads=1)
    lengths = [12, 16, 17, 30, 45, 64, 65, 90]
    queries = {length: torch.randn(1, 1, length, HEAD_DIM) for length in lengths}
    expected = {length: copy.deepcopy(shared).terms(q, q).q_BHTD for length, q in queries.items()}
    start = threading.Barrier(len(lengths))

    def read(length: int) -> int:
        start.wait()
        q = queries[length]
        return sum(not torch.equal(shared.terms(q, q).q_BHTD, expected[length]) for _ in range(100))

    with ThreadPoolExecutor(len(lengths)) as pool:
        assert sum(pool.map(read, lengths)) == 0


def test_a_table_swapped_while_a_call_waits_does_not_reach_that_call() -> None:
    """Two keys, one call inside the other's making: each gets its own, in whatever order they are put in place."""
    seen: list[Tensor] = []

    def compute(length: int, key: int) -> Tensor:
        if key == 1:
            seen.append(cache.get(10, torch.device("cpu"), key=2))
        return torch.full((length, 1), float(key))

    cache = TableCache(compute)
    outer = cache.get(10, torch.device("cpu"), key=1)
    assert outer.unique().tolist() == [1.0]
    assert seen[0].unique().tolist() == [2.0]
    assert cache.get(10, torch.device("cpu"), key=2).unique().tolist() == [2.0]


def test_lengths_with_the_same_angles_share_a_table() -> None:
    parsed = parse_position({"method": "rotary", "scaling": LONG})
    scaling = parsed.scaling  # type: ignore[union-attr]
    assert scaling.effective_length(5) == scaling.effective_length(16)
    assert scaling.effective_length(17) == scaling.effective_length(1000) != scaling.effective_length(16)
