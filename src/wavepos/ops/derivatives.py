"""Derivatives that our operators do not have: PyTorch would drop a tangent in silence, so they are refused before."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def refuse_forward_mode(backend: str, *tensors: Tensor | None) -> None:
    """Raise RuntimeError where a tensor carries a tangent: of torch.func.jvp, jacfwd or a dual level."""
    if forward_ad._current_level < 0:  # no dual level is entered, torch.func's own included: there are no tangents
        return
    if any(x is not None and _tangent(x) is not None for x in tensors):
        raise RuntimeError(
            f"backend={backend!r} has no forward-mode derivative (torch.func.jvp, jacfwd, forward_ad); use "
            "backend='reference'"
        )


def refuse_function_transforms(backend: str, *tensors: Tensor | None) -> None:
    """Raise RuntimeError where torch.func.grad, vjp or jacrev differentiates a tensor: operators do not see it."""
    if torch.compiler.is_compiling():  # the compiler refuses it in its own words
        return
    if any(x is not None and torch._C._functorch.is_gradtrackingtensor(x) for x in tensors):
        raise RuntimeError(
            f"backend={backend!r} has no derivative by torch.func (grad, vjp, jacrev), only by torch.autograd; use "
            "backend='reference'"
        )


def _tangent(x: Tensor) -> Tensor | None:
    tangent: Tensor | None = forward_ad.unpack_dual(x).tangent  # type: ignore[no-untyped-call] # torch's has no types
    return tangent
