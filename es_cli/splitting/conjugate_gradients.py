"""A few steps of conjugate gradients from an image that is nearly right, differentiable, each sample for itself.

deepinv's solver looks after every step whether all samples of a batch have converged, which makes a sample's image depend on its batch and
a GPU wait (deepinv 0.5.0). Source: Hestenes, Stiefel, Methods of conjugate gradients for solving linear systems, 1952.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def conjugate_gradients(normal: Callable[[Tensor], Tensor], gradient: Tensor, start: Tensor, steps: int) -> Tensor:
    """`steps` steps from the image `start` (B, …) towards the x with N x = b, for N ≥ 0 and the `gradient` b − N·start.

    A sample whose gradient has all but vanished stays where it is: beyond that, rounding leads away again.
    """
    x, direction, energy = start, gradient, _dot(gradient, gradient)
    rounding = torch.finfo(energy.dtype).eps ** 1.5 * energy
    for step in range(steps):
        curved = normal(direction)
        length = torch.where(energy > rounding, _ratio(energy, _dot(direction, curved)), torch.zeros_like(energy))
        x = x + length * direction
        if step + 1 < steps:
            gradient, before = gradient - length * curved, energy
            energy = _dot(gradient, gradient)
            direction = gradient + _ratio(energy, before) * direction
    return x


def least_squares(physics: Any, y: Tensor, start: Tensor, steps: int) -> Tensor:
    """`steps` steps from the image `start` towards argmin_x ‖A x − y‖²; `start` itself for 0."""
    return conjugate_gradients(physics.A_adjoint_A, physics.A_adjoint(y - physics.A(start)), start, steps) if steps else start


def proximal(physics: Any, z: Tensor, y: Tensor, gamma: Any, steps: int) -> Tensor:
    """`steps` steps from z towards argmin_x γ/2 ‖A x − y‖² + ½ ‖x − z‖²; γ a number, or one for each sample (B,)."""
    weight = torch.as_tensor(gamma, dtype=z.dtype, device=z.device).view(-1, *[1] * (z.ndim - 1))
    return conjugate_gradients(lambda v: weight * physics.A_adjoint_A(v) + v, weight * physics.A_adjoint(y - physics.A(z)), z, steps)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1).view(-1, *[1] * (a.ndim - 1))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0: nothing is left to improve."""
    return torch.where(b > 0, a / b.clamp(min=torch.finfo(b.dtype).tiny), torch.zeros_like(a))
