"""Each peer computes what it says it does, and one that does not is found out."""

import dataclasses
import time

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from benchmarks import attention as bench
from benchmarks.measure import interleaved, pairwise_ratio, peak_bytes, spread
from benchmarks.parity import ParityError, check_peer
from benchmarks.peers import PASSES, PEERS, Case, Peer, find_peer, flex, nope, ours
from wavepos import Wavelet

CASE = Case(num_heads=2, head_dim=16, seq_len=250)
DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("peer", [*PEERS, find_peer("wavelet@banded")], ids=lambda peer: peer.name)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.filterwarnings("ignore:.*deprecated.*")
def test_a_peer_computes_its_formula(peer: Peer, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    case = dataclasses.replace(CASE, dtype=dtype)
    if reason := peer.missing() or peer.refusal(case, "forward"):
        pytest.skip(reason)
    monkeypatch.setattr(flex, "compiled", lambda: flex_attention)
    errors = check_peer(peer, case)
    assert [error["tensor"] for error in errors] == (["out"] if peer is flex.PEER else ["out", "dq", "dk", "dv"])
    assert all(error["magnitude"] > 0.0 for error in errors)


def test_beyond_the_band_the_wavelet_peers_agree_too() -> None:
    case = dataclasses.replace(CASE, seq_len=1000)
    assert Wavelet(case.head_dim).reach() < case.seq_len
    for name in ("wavelet", "gather", "paper-tip2"):
        check_peer(find_peer(name), case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_peer_that_leaves_the_position_out_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ParityError, match="wrong differs from the reference, so nothing is measured: out is off by"):
        check_peer(wrong_peer(), dataclasses.replace(CASE, dtype=dtype))


def test_a_peer_with_wrong_gradients_only_is_refused() -> None:
    def build(case: Case) -> bench.Built:
        plain = nope.build(case)
        return dataclasses.replace(plain, run=lambda q, k, v: plain.run(q, k.detach() + 0.0 * k, v))

    peer = dataclasses.replace(nope.PEER, build=build)
    with pytest.raises(ParityError, match="dk is off by"):
        check_peer(peer, CASE)


@pytest.mark.parametrize("name", ["ropes", "wavelet@cuda", "rope@banded"])
def test_unknown_peers_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"takes .*, got '(ropes|cuda|rope)'"):
        find_peer(name)


@pytest.mark.parametrize("name", ["paper-tip1", "paper-tip2", "gather", "inkling", "alibi-mask"])
def test_what_a_dense_peer_is_said_to_hold_is_near_what_it_holds(name: str) -> None:
    peer, case = find_peer(name), dataclasses.replace(CASE, seq_len=512)
    built = peer.build(case)
    for kind in PASSES:
        run = bench.call(built, case.inputs(), kind)
        run()
        held = peak_bytes(run, "cpu") + sum(x.nbytes for x in built.state)
        assert 0.5 * held < peer.quadratic_bytes(case, kind) + 10 * case.inputs()[0].nbytes < 2.5 * held


def test_peak_memory_is_that_of_what_is_live_at_once() -> None:
    def run() -> None:
        first = torch.empty(1_000_000)
        second = torch.empty(2_000_000)
        del first
        third = torch.empty(500_000)
        del second, third

    assert peak_bytes(run, "cpu") == 12_000_000


def test_runs_are_interleaved_and_compared_pair_by_pair() -> None:
    calls: list[str] = []

    def lasting(name: str) -> None:
        calls.append(name)
        time.sleep(0.02)  # longer than the shortest sample: one call each

    first, second = interleaved(lambda: lasting("a"), lambda: lasting("b"), "cpu", repeats=9, seconds=0.0)
    assert len(first) == len(second) == 3  # no fewer, however little time there is
    assert calls[-6:] == ["a", "b"] * 3
    assert pairwise_ratio([1.0, 2.0, 4.0], [2.0, 2.0, 12.0])["median"] == 2.0
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "lower": 2.0, "upper": 4.0}


def wrong_peer() -> Peer:
    """Says that it is the wavelet and leaves it out."""

    def build(case: Case) -> bench.Built:
        return dataclasses.replace(ours("wavelet").build(case), run=nope.build(case).run)

    return dataclasses.replace(find_peer("wavelet"), name="wrong", build=build)
