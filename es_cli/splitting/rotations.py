"""Rotations by any angle that are undone exactly: quarter turns, and three shears for the rest.

A shear moves each line by a fraction of a pixel, which is a phase on its Fourier transform. That is orthogonal, so the inverse is the adjoint. Lines
of even length have one frequency, the highest, whose phase a real signal cannot hold: it stays where it is. What leaves the image comes back
at the other side. Source: Unser, Thévenaz, Yaroslavsky, Convolution-based interpolation for fast, high-quality rotation of images, IEEE TIP 1995.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from es_cli.splitting.actions import Batch, Element, turn_and_flip


def rotation(degrees: float) -> Element:
    """The rotation of square images by `degrees`, counterclockwise around their centre."""
    made = ShearRotations([degrees])
    label = "identity" if degrees % 360 == 0 else f"rotate {degrees!r}°"
    return Element(made.act, made.inverse, label, rotations, degrees)


def rotations(degrees: Sequence[float]) -> Element:
    """The rotation of a batch of which each sample has its own angle."""
    made = ShearRotations(degrees)
    return Element(made.act, made.inverse, f"rotate {list(degrees)}")


class ShearRotations:
    """Rotations of the samples of a batch by angles in degrees, one for each sample or one for all.

    Shears are kept below 22.5° by quarter turns. Equal to `deepinv.transform.RotateViaShear` up to 45° on odd sizes.
    """

    def __init__(self, degrees: Sequence[float]) -> None:
        quarters = [round(angle / 90) for angle in degrees]
        self.turns = Batch([turn_and_flip(quarter % 4) for quarter in quarters])
        rest = [math.radians(angle - 90 * quarter) for angle, quarter in zip(degrees, quarters, strict=True)]
        self.across = [math.tan(angle / 2) for angle in rest]
        self.down = [-math.sin(angle) for angle in rest]
        self._kept: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def act(self, x: Tensor) -> Tensor:
        """The rotated images, (B, C, …, N, N) as x."""
        return self._sheared(self.turns.act(x), back=False)

    def inverse(self, x: Tensor) -> Tensor:
        """The images rotated back: inverse and adjoint of `act`."""
        return self.turns.inverse(self._sheared(x, back=True))

    def _sheared(self, x: Tensor, back: bool) -> Tensor:
        if not any(self.down):
            return x
        across, down = self._of(x)
        if back:
            across, down = across.conj(), down.conj()
        return _shear(_shear(_shear(x, across, -1), down, -2), across, -1)

    def _of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Phases of the two shears, kept for the next use: (B, 1, …, N, K) and (B, 1, …, K, N) for K frequencies."""
        key = (x.shape[-1], x.ndim, x.device, x.dtype)
        if key not in self._kept:
            view = (-1, *[1] * (x.ndim - 3))
            across, down = _phases(self.across, x), _phases(self.down, x).transpose(-1, -2)
            self._kept[key] = across.view(*view, *across.shape[-2:]), down.reshape(*view, *down.shape[-2:])
        return self._kept[key]


def _phases(shears: Sequence[float], like: Tensor) -> Tensor:
    """exp(−2πi f s (r − c)) for the shear s of each sample, line r and frequency f: (B, N, K) complex, on images like `like`."""
    size = like.shape[-1]
    lines = torch.arange(size, device=like.device, dtype=like.dtype) - (size - 1) / 2
    steps = torch.tensor(shears, dtype=like.dtype).to(like.device, non_blocking=True)[:, None, None] * lines[:, None]
    frequencies = torch.fft.rfftfreq(size, device=like.device, dtype=like.dtype)
    if size % 2 == 0:
        frequencies[-1] = 0  # a real signal cannot hold its phase
    angle = -2 * math.pi * steps * frequencies
    return torch.polar(torch.ones_like(angle), angle)


def _shear(x: Tensor, phases: Tensor, dim: int) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x, dim=dim) * phases, n=x.shape[dim], dim=dim)
