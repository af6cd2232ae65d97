"""Mother wavelets ψ, dilated by a scale a (docs/math.md, section 1).

Every wavelet is a function of x = t − b, the displacement from its centre in tokens, and of its scale a. Values are
float64: a position casts its finished table once. No 1/√a is applied here (Eq. 11, not Eq. 2); `Wavelet` has it
as an option.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeVar, final

import torch
from torch import Tensor

from wavepos._entry_points import UNKNOWN, load_entry_points
from wavepos.names import did_you_mean

PYWAVELETS_FAMILIES = ("db", "sym", "coif", "dmey", "bior", "rbio")


class MotherWavelet(ABC):
    """A wavelet ψ_{a,0}(x) together with the interval outside which it vanishes.

    Subclass it to use a wavelet of your own: a name and two methods, `evaluate` and `support`, and
    `Wavelet(wavelet=Yours())`; or `register_wavelet`, and configs and saved models know it by its name.
    A wavelet whose support lies on one side of zero is one-sided; `Wavelet` turns it to the causal side. Where ψ has
    derivatives `differentiable = True` says so: `evaluate` then takes a tensor of scales as well, and its support grows
    with the scale, so that scales and shifts can be trained.
    """

    differentiable: bool = False
    """Whether `evaluate` has gradients in x and in a scale that is a tensor."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name it carries in configs, plots and errors."""

    @abstractmethod
    def evaluate(self, x: Tensor, scale: float | Tensor) -> Tensor:
        """ψ at x.

        Args:
            x: t − b, in tokens, float64, any shape.
            scale: a > 0, in tokens (the level j for wavelets sampled by PyWavelets); where it is learned a tensor that
                broadcasts to x.

        Returns:
            The values, float64, of x's shape.
        """

    @abstractmethod
    def support(self, scale: float, tolerance: float) -> tuple[float, float]:
        """The interval [low, high] of x, in tokens, outside which |ψ| ≤ tolerance."""


@final
class Ricker(MotherWavelet):
    """ψ(u) = (1 − u²)·exp(−u²/2), u = x/a (Eq. 12; PyWavelets calls it mexh). As in the paper."""

    differentiable = True

    @property
    def name(self) -> str:
        return "ricker"

    def evaluate(self, x: Tensor, scale: float | Tensor) -> Tensor:
        squared = (x / scale).square()
        return (1.0 - squared) * torch.exp(-0.5 * squared)

    def support(self, scale: float, tolerance: float) -> tuple[float, float]:
        radius = _last_crossing(lambda u: abs(1.0 - u * u) * math.exp(-0.5 * u * u), math.sqrt(3.0), tolerance)
        return -scale * radius, scale * radius


@final
class Gaussian(MotherWavelet):
    """ψ(u) = exp(−u²), u = x/a (section 6.3.1). As in the paper."""

    differentiable = True

    @property
    def name(self) -> str:
        return "gaussian"

    def evaluate(self, x: Tensor, scale: float | Tensor) -> Tensor:
        return torch.exp(-(x / scale).square())

    def support(self, scale: float, tolerance: float) -> tuple[float, float]:
        radius = math.sqrt(max(0.0, -math.log(tolerance)))
        return -scale * radius, scale * radius


@final
class Haar(MotherWavelet):
    """ψ(u) = 1 on [−1/2, 0), −1 on [−1, −1/2), 0 elsewhere, u = x/a (Eq. 15). As in the paper."""

    @property
    def name(self) -> str:
        return "haar"

    def evaluate(self, x: Tensor, scale: float | Tensor) -> Tensor:
        u = x / scale
        near = ((u >= -0.5) & (u < 0.0)).to(x.dtype)
        far = ((u >= -1.0) & (u < -0.5)).to(x.dtype)
        return near - far

    def support(self, scale: float, tolerance: float) -> tuple[float, float]:
        return (-scale, 0.0) if tolerance < 1.0 else (0.0, 0.0)


@final
class Morlet(MotherWavelet):
    """ψ(u) = exp(−u²)·cos(a·u), u = x/a (section 6.3.1): the cosine is cos(x) whatever the scale, as in the paper.

    As in the paper. `TrueMorlet` is the wavelet that usually bears the name.
    """

    differentiable = True

    @property
    def name(self) -> str:
        return "morlet"

    def evaluate(self, x: Tensor, scale: float | Tensor) -> Tensor:
        return torch.exp(-(x / scale).square()) * torch.cos(x)

    def support(self, scale: float, tolerance: float) -> tuple[float, float]:
        return Gaussian().support(scale, tolerance)


@final
class TrueMorlet(MotherWavelet):
    """ψ(u) = exp(−u²/2)·cos(ω₀·u), u = x/a: the real Morlet wavelet, whose frequency follows its scale.

    Deviates from the paper: it is not in it.

    Args:
        omega0: the angular frequency ω₀, in radians per unit of u; 5 is customary.
    """

    differentiable = True

    def __init__(self, omega0: float = 5.0) -> None:
        if not omega0 > 0.0:
            raise ValueError(f"omega0 must be positive, got {omega0}")
        self.omega0 = omega0

    @property
    def name(self) -> str:
        return "true_morlet"

    def evaluate(self, x: Tensor, scale: float | Tensor) -> Tensor:
        u = x / scale
        return torch.exp(-0.5 * u.square()) * torch.cos(self.omega0 * u)

    def support(self, scale: float, tolerance: float) -> tuple[float, float]:
        radius = math.sqrt(max(0.0, -2.0 * math.log(tolerance)))
        return -scale * radius, scale * radius


@final
class Sampled(MotherWavelet):
    """A discrete wavelet of PyWavelets, sampled by `wavefun(level=j)`; the level j stands in the scale's place (A.14).

    The array's index is the offset x in tokens (0, 1, 2, …); outside the array ψ is zero. Of the two wavelets of a
    biorthogonal family the decomposition wavelet is taken. Amplitudes are PyWavelets' own (bior3.1 peaks at 96);
    `Wavelet(amplitude="unit_peak")` normalises them. As in the paper.

    Args:
        family: a name out of `pywt.wavelist(kind="discrete")`, such as "db4", "sym8" or "rbio1.1".
    """

    def __init__(self, family: str) -> None:
        self._family = family
        _require_discrete(family)

    @property
    def name(self) -> str:
        return self._family

    def evaluate(self, x: Tensor, scale: float | Tensor) -> Tensor:
        samples = _pywavelets_samples(self._family, self._level(float(scale))).to(x.device)
        index = x.round().to(torch.int64)
        inside = (index >= 0) & (index < samples.numel())
        values = samples[index.clamp(0, samples.numel() - 1)]
        return torch.where(inside, values, torch.zeros_like(values))

    def support(self, scale: float, tolerance: float) -> tuple[float, float]:
        samples = _pywavelets_samples(self._family, self._level(scale))
        beyond = torch.nonzero(samples.abs() > tolerance)
        return (float(beyond.min()), float(beyond.max())) if beyond.numel() else (0.0, 0.0)

    def _level(self, scale: float) -> int:
        level = int(scale)
        if level != scale or not 1 <= level <= 12:
            raise ValueError(
                f"scales of the PyWavelets wavelet {self._family!r} are levels, whole numbers 1 to 12, got {scale}"
            )
        return level


_CLOSED: Mapping[str, Callable[[], MotherWavelet]] = {
    "ricker": Ricker,
    "gaussian": Gaussian,
    "haar": Haar,
    "morlet": Morlet,
    "true_morlet": TrueMorlet,
}
CLOSED_FORMS = tuple(_CLOSED)

_registered: dict[str, MotherWavelet] = {}
Registered = TypeVar("Registered", bound=MotherWavelet | type[MotherWavelet])


def register_wavelet(name: str, wavelet: Registered) -> Registered:
    """Make a mother wavelet of your own known by its name: to `Wavelet`, models, config files and the command line.

    A saved model is loaded again once the module that registers its wavelet is imported, as with `register_position`.

    Args:
        name: lower-case letters, digits and underscores; what stands as "wavelet" in configs.
        wavelet: a `MotherWavelet`, or its class, made without arguments, with that name. One of the same class takes
            the former's place.

    Returns:
        The wavelet, or the class, itself.

    Raises:
        ValueError: the name is taken, or not the wavelet's own.
        TypeError: it is no such wavelet.

    Example:
        >>> import math, torch
        >>> from wavepos import Wavelet
        >>> from wavepos.wavelets import MotherWavelet, register_wavelet
        >>> class Exponential(MotherWavelet):
        ...     name = "exponential"
        ...     def evaluate(self, x, scale):
        ...         return torch.exp(-(x / scale).abs())
        ...     def support(self, scale, tolerance):
        ...         radius = scale * -math.log(min(tolerance, 1.0))
        ...         return -radius, radius
        >>> _ = register_wavelet("exponential", Exponential)
        >>> Wavelet(64, "exponential").reach(1e-3)
        892
    """
    made = wavelet() if isinstance(wavelet, type) and issubclass(wavelet, MotherWavelet) else wavelet
    if not isinstance(made, MotherWavelet):
        raise TypeError(f"wavelet must be a MotherWavelet or its class, got {wavelet!r}")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"name of a wavelet must be lower-case letters, digits and underscores, got {name!r}")
    if made.name != name:
        raise ValueError(f"the wavelet's own name must be {name!r}, which configs store, got {made.name!r}")
    known = _registered.get(name)
    if name in _CLOSED or _is_of_pywavelets(name) or (known is not None and not _is_same(type(known), type(made))):
        raise ValueError(f"the name {name!r} of {type(made).__name__} is another wavelet's already")
    _registered[name] = made
    return wavelet


def mother_wavelet(name: str) -> MotherWavelet:
    """The mother wavelet of that name.

    Args:
        name: "ricker", "gaussian", "haar", "morlet", "true_morlet", a registered one, or a discrete wavelet of
            PyWavelets ("db4").

    Raises:
        ValueError: no such wavelet.
        ImportError: the name belongs to PyWavelets, which is not installed.
    """
    if name in _CLOSED:
        return _CLOSED[name]()
    if name not in _registered and not _is_of_pywavelets(name):
        load_entry_points()
    if name in _registered:
        return _registered[name]
    if name.startswith(PYWAVELETS_FAMILIES):
        return Sampled(name)
    own = [*_CLOSED, *_registered]
    raise ValueError(
        f"wavelet must be one of {', '.join(own)}, or a discrete wavelet of PyWavelets "
        f"({', '.join(PYWAVELETS_FAMILIES)}, such as 'db4'), got {name!r}{did_you_mean(name, own)}; {UNKNOWN}"
    )


def _is_of_pywavelets(name: str) -> bool:
    return re.fullmatch(rf"({'|'.join(PYWAVELETS_FAMILIES)})[0-9.]*", name) is not None


def _is_same(one: type, other: type) -> bool:
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def _last_crossing(envelope: Callable[[float], float], start: float, tolerance: float) -> float:
    """The u ≥ start at which an envelope that falls from there on crosses the tolerance, rounded up."""
    if tolerance >= 1.0:
        return 0.0
    low, high = start, start
    while envelope(high) > tolerance:
        low, high = high, high * 2.0
    if high == start:  # a coarse tolerance: the crossing lies before the last extremum; the extremum bounds it
        return start
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if envelope(middle) > tolerance else (low, middle)
    return high


def _require_discrete(family: str) -> None:
    pywt = _import_pywt(family)
    if family not in pywt.wavelist(kind="discrete"):
        kin = pywt.wavelist(family=next(name for name in PYWAVELETS_FAMILIES if family.startswith(name)))
        raise ValueError(
            f"wavelet {family!r} is not among PyWavelets' discrete wavelets, whose nearest kin are {', '.join(kin)}"
        )


@lru_cache(maxsize=64)
def _pywavelets_samples(family: str, level: int) -> Tensor:
    """ψ of a discrete wavelet at a level, [length], float64."""
    functions = _import_pywt(family).Wavelet(family).wavefun(level=level)
    return torch.from_numpy(functions[1].copy()).to(torch.float64)  # (φ, ψ, x), or (φ_d, ψ_d, φ_r, ψ_r, x)


def _import_pywt(family: str):  # type: ignore[no-untyped-def] # the module is optional and untyped
    try:
        import pywt
    except ImportError as error:
        raise ImportError(f"wavelet {family!r} is sampled by PyWavelets: pip install 'wavepos[wavelets]'") from error
    return pywt
