"""The curves of the paper's wavelet graphs (Fig. 1, 4–6, 9, 10), and their extremes."""

from dataclasses import dataclass

import numpy as np
import pywt
import torch

from wavepos.wavelets import mother_wavelet

RICKER_SCALES = {4: tuple(2.0**i for i in range(5)), 5: tuple(2.0**i for i in range(5, 10))}
"""Scales of Fig. 4 and of Fig. 5 (A.9)."""
COMPARED = ("ricker", "haar", "morlet", "gaussian")
"""Fig. 6 (A.10), all at COMPARED_SCALE and b = 0."""
COMPARED_SCALE = 16.0
DISCRETE_LEVEL = 10
"""Of Fig. 9 and 10 (A.14)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A wavelet's values over its argument.

    Attributes:
        name: of the wavelet.
        x: float64 [N]: tokens t − b for closed forms, PyWavelets' own grid for its wavelets.
        y: ψ, float64 [N].
    """

    name: str
    x: np.ndarray
    y: np.ndarray

    @property
    def energy(self) -> float:
        """∫ψ² by the rectangle rule on the grid: 1 for orthonormal wavelets sampled by PyWavelets."""
        return float(np.square(self.y).sum() * (self.x[1] - self.x[0]))


def closed_curve(name: str, scale: float, half: int = 2000, radius: float | None = None) -> Curve:
    """ψ_{a,0} of a wavelet with a formula, over −radius … radius tokens.

    Args:
        name: "ricker", "gaussian", "haar", "morlet" or "true_morlet".
        scale: a, in tokens.
        half: points on each side of 0, which is one itself.
        radius: None: 1.25 times where |ψ| falls below 0.001.
    """
    mother = mother_wavelet(name)
    if radius is None:
        radius = 1.25 * max(abs(end) for end in mother.support(scale, 1e-3))
    x = torch.arange(-half, half + 1, dtype=torch.float64) * (radius / half)
    return Curve(name=name, x=x.numpy(), y=mother.evaluate(x, scale).numpy())


def sampled_curve(family: str, level: int = DISCRETE_LEVEL) -> Curve:
    """ψ of a discrete wavelet as `pywt.Wavelet(family).wavefun(level)` samples it (Fig. 9, 10).

    Of a biorthogonal family it is the decomposition wavelet, as in A.14.

    Args:
        family: a name out of `pywt.wavelist(kind="discrete")`.
        level: of refinement; each doubles the points.
    """
    functions = pywt.Wavelet(family).wavefun(level=level)
    return Curve(name=family, x=np.asarray(functions[-1]), y=np.asarray(functions[1]))


def extremes(curve: Curve) -> dict[str, tuple[float, float]]:
    """The largest and the smallest value and where they lie: {"max": (x, ψ), "min": (x, ψ)}."""
    high, low = int(curve.y.argmax()), int(curve.y.argmin())
    return {
        "max": (float(curve.x[high]), float(curve.y[high])),
        "min": (float(curve.x[low]), float(curve.y[low])),
    }
