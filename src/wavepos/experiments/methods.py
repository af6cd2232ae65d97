"""The methods of the paper's Table 1 and their rivals, by the names that tables show."""

from typing import Any

import wavepos.analysis.rope_based_wavelet  # noqa: F401 - registers its method
from wavepos.experiments.study import Method
from wavepos.positions.wavelet import PAPER_LENGTH, WaveletConfig

FIRST_SEEDS = 3
"""Seeds of the methods that the comparison is about; the others get one."""
REGISTERED_BY = ("wavepos.analysis.rope_based_wavelet",)
"""Modules that register methods of the table, for `Study.imports`."""


def fit_scales(seq_len: int) -> tuple[float, ...]:
    """The scales that `scales="fit"` stands for at a trained length, as numbers."""
    scales = WaveletConfig(scales="fit", trained_length=seq_len).given_scales
    assert scales is not None
    return scales


def table1_methods(seq_len: int) -> dict[str, Method]:
    """The methods trained on blocks of seq_len tokens, in the order of worth.

    Scales of the fit grid stand as numbers, so that a run's config says all.
    """
    fit = {"method": "wavelet", "scales": list(fit_scales(seq_len))}
    fitted = {"Wavelet, fit grid": fit, "Wavelet, future, fit grid": {**fit, "direction": "future"}}
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": seq_len}
    first: dict[str, dict[str, Any]] = {
        "NoPE": {"method": "nope"},
        "RoPE": {"method": "rotary"},
        "RoPE, theta = L_train": {"method": "rotary", "theta": float(seq_len)},
        "Transformer-XL": {"method": "transformer_xl"},
        "ALiBi": {"method": "alibi"},
        "Wavelet": {"method": "wavelet"},
        "Wavelet, future": {"method": "wavelet", "direction": "future"},
        **({} if seq_len == PAPER_LENGTH else fitted),
        "Wavelet, recency start": {"method": "wavelet", "query_bias": "recency"},
    }
    second: dict[str, dict[str, Any]] = {
        "RoPE, theta = 5e5": {"method": "rotary", "theta": 5e5},
        "Kerple": {"method": "kerple"},
        "T5": {"method": "t5"},
        "Gaussian wavelet": {"method": "wavelet", "wavelet": "gaussian"},
        "Haar wavelet": {"method": "wavelet", "wavelet": "haar"},
        "Morlet wavelet": {"method": "wavelet", "wavelet": "morlet"},
        "RoPE-based wavelet": {"method": "rope_wavelet"},
        "Wavelet, future, recency start": {"method": "wavelet", "direction": "future", "query_bias": "recency"},
    }
    gate = {"method": "wavelet", "gate": "forget"}
    gated: dict[str, dict[str, Any]] = {
        "ForgetGate": {"method": "forget_gate"},
        "Cable": {"method": "cable"},
        "Wavelet + forget gate": gate,
        "Wavelet, recency start + forget gate": {**gate, "query_bias": "recency"},
    }
    local = {"method": "wavelet", "window": seq_len // 4}
    far_sighted: dict[str, dict[str, Any]] = {
        "NoPE, log temperature": {"method": "nope", "temperature": "log"},
        "Wavelet, log temperature": {"method": "wavelet", "temperature": "log"},
        "Wavelet local, NoPE global": {
            "local": local,
            "global": {"method": "nope", "temperature": "log"},
            "every": 4,
        },
    }
    return {
        **{name: Method(position=position, seeds=FIRST_SEEDS) for name, position in first.items()},
        "RoPE, read with YaRN 8x": Method(
            position={"method": "rotary"}, read_with={"method": "rotary", "scaling": yarn}
        ),
        **{name: Method(position=position) for name, position in second.items()},
        **{name: Method(position=position, seeds=FIRST_SEEDS) for name, position in (gated | far_sighted).items()},
    }
