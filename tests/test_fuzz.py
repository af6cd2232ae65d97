"""Whatever is given: it is taken, or refused by an error that names it. `WAVEPOS_FUZZ=25000` for 100,000 inputs."""

import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wavepos import NoPE, Wavelet, attention
from wavepos.data import open_corpus
from wavepos.names import METHODS
from wavepos.positions import parse_layers, parse_position
from wavepos.positions.registry import BUILT_IN
from wavepos.positions.typed import field_types

EXAMPLES = int(os.environ.get("WAVEPOS_FUZZ", "150"))
FUZZED = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES < 1000
)
NUMBERS = st.one_of(st.integers(), st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400]), st.floats(), st.booleans())
PLAIN = st.one_of(
    st.none(),
    NUMBERS,
    st.text(max_size=8),
    st.binary(max_size=4),
    st.sampled_from([*METHODS, "log", "ricker", "linear"]),
)
KEYS = st.one_of(
    st.text(max_size=6), st.sampled_from(["method", "scaling", "rope_type", "form", "local", "global", "every"])
)
ANYTHING = st.recursive(
    PLAIN,
    lambda x: st.one_of(st.lists(x, max_size=4), st.tuples(x), st.dictionaries(KEYS, x, max_size=4)),
    max_leaves=12,
)
FIELDS = [(config, name) for config in BUILT_IN for name in field_types(config)]


@FUZZED
@given(field=st.sampled_from(FIELDS), value=ANYTHING)
def test_a_field_of_a_position_is_taken_or_named(field: tuple[Any, str], value: Any) -> None:
    config, name = field
    for make in (lambda: config(**{name: value}), lambda: parse_position({"method": config.method, name: value})):
        try:
            make()
        except (ValueError, TypeError) as error:
            other = [key for key in field_types(config) if key != name and key in str(error)]
            assert name in str(error) or other or config.method in str(error), error


@FUZZED
@given(value=ANYTHING, text=st.booleans())
def test_a_position_of_any_form_is_taken_or_refused(value: Any, text: bool) -> None:
    if text:
        value = json.dumps(value, default=repr)
    for parse in (parse_position, parse_layers):
        try:
            parse(value)
        except (ValueError, TypeError) as error:
            assert any(word in str(error) for word in ("position", "method", "layer", "local", "every")), error


Q = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
TENSORS = st.sampled_from(
    [
        Q,
        Q[0],
        Q[..., :0],
        Q.half(),
        Q.bool(),
        Q[:, :, 0, 0],
        torch.tensor(1),
        torch.tensor(2.0),
        torch.ones(1, 5).bool(),
    ]
)
ARGUMENTS = (
    *("q", "k", "v", "position", "causal", "window", "backend", "softmax_scale", "dropout", "key_padding_mask"),
    *("document_ids", "query_offset", "relative_states", "gates"),
)


@FUZZED
@given(name=st.sampled_from(ARGUMENTS), value=st.one_of(ANYTHING, TENSORS), wavelet=st.booleans())
def test_an_argument_of_attention_is_taken_or_named(name: str, value: Any, wavelet: bool) -> None:
    given_: dict[str, Any] = {"q": Q, "k": Q, "v": Q, "position": Wavelet(8, scales=(1.0,)) if wavelet else NoPE()}
    if name == "query_offset" and isinstance(value, int) and abs(value) > 10**6:
        value %= 1000  # tables of so many entries are made
    given_[name] = value
    try:
        out = attention(given_.pop("q"), given_.pop("k"), given_.pop("v"), **given_)
    except (ValueError, TypeError) as error:
        shown = (name, "keys", "queries", "made for") if name in ("q", "k", "v") else (name,)
        assert any(word in str(error) for word in shown), error
    else:
        assert out.isfinite().all()


def _zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


WRITERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": _zst}
LINES = st.lists(
    st.one_of(
        st.binary(max_size=12),
        ANYTHING.map(lambda x: json.dumps(x, default=repr).encode()),
        st.text(max_size=9).map(lambda x: json.dumps({"text": x}).encode()),
    ),
    max_size=5,
).map(b"\n".join)


@FUZZED
@given(
    data=LINES, kind=st.sampled_from(["text", "jsonl"]), suffix=st.sampled_from(list(WRITERS)), flip=st.integers(0, 999)
)
def test_a_corpus_is_read_or_refused(
    data: bytes, kind: str, suffix: str, flip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = _folder(tmp_path_factory) / f"a.{'txt' if kind == 'text' else f'jsonl{suffix}'}"
    written = bytearray(data if kind == "text" else WRITERS[suffix](data))
    if flip < 2 * len(written):  # damage some
        written[flip // 2] ^= 1 << flip % 8
    path.write_bytes(written)
    try:
        texts = [text for split in ("train", "valid") for text in open_corpus(f"{kind}:{path}").documents(split)]
    except ValueError as error:
        assert f"{kind}:{path}" in str(error) or str(path) in str(error), error
    else:
        assert all(text.encode() for text in texts)


def _folder(factory: pytest.TempPathFactory) -> Path:
    base = factory.getbasetemp() / "fuzz"
    base.mkdir(exist_ok=True)
    return base
