"""Tomography whose pseudoinverse is filtered back-projection refined by least squares, for the whole sinogram and for splits of it alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import deepinv.physics
import torch
from torch import Tensor


class Tomography(deepinv.physics.Tomography):
    """Tomography operator, parallel or fan beam: deepinv's, with a pseudoinverse that agrees with the sinogram and costs a few projections.

    Filtered back-projection takes the angles for evenly spaced and many. A split has few of them, with gaps, and its image is wrong at the lowest
    frequencies too, where every angle has measured; a network that learns to mend that spoils the image of the whole sinogram. A few steps of
    least squares from there mend it for splits and sinogram alike. deepinv starts least squares from nothing, which takes tens of steps.

    :param int refine_steps: steps of least squares after filtered back-projection; 0: filtered back-projection alone.
    """

    def __init__(self, *args: Any, refine_steps: int = 4, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.refine_steps = refine_steps

    def A_dagger(self, y: Tensor, fbp: bool = True, **kwargs: Any) -> Tensor:
        """The image (B, C, W, W) of a sinogram y (B, C, detectors, angles); deepinv's least squares where `fbp` is false."""
        if not fbp:
            return super().A_dagger(y, fbp=False, **kwargs)
        return least_squares(self.A, self.A_adjoint, y, self.fbp(y), self.refine_steps)


def least_squares(A: Callable[[Tensor], Tensor], A_adjoint: Callable[[Tensor], Tensor], y: Tensor, start: Tensor, steps: int) -> Tensor:
    """`steps` conjugate gradient steps towards argmin_x ‖A x − y‖² from the image `start` (B, …), each sample with its own step lengths.

    Source: Hestenes, Stiefel, Methods of conjugate gradients for solving linear systems, 1952 (CGLS).
    """
    x, residual = start, y - A(start)
    gradient = A_adjoint(residual) if steps else start
    direction, energy = gradient, _energy(gradient)
    for step in range(steps):
        projected = A(direction)
        length = _ratio(energy, _energy(projected))
        x = x + _along(length, direction)
        if step + 1 < steps:
            residual = residual - _along(length, projected)
            gradient, before = A_adjoint(residual), energy
            energy = _energy(gradient)
            direction = gradient + _along(_ratio(energy, before), direction)
    return x


def _energy(v: Tensor) -> Tensor:
    return (v * v).flatten(1).sum(1)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0: nothing is left to improve."""
    return torch.where(b > 0, a / b.clamp(min=torch.finfo(b.dtype).tiny), torch.zeros_like(a))


def _along(factor: Tensor, v: Tensor) -> Tensor:
    return factor.view(-1, *[1] * (v.ndim - 1)) * v
