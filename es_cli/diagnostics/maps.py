"""Where Q = E_g[(A T_g)ᵀ A T_g] sees: its diagonal over pixels, over k-space, or over the angles of k-space, estimated by random probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from deepinv.physics import MRI, MultiCoilMRI, NonCartesianMRI, Tomography
from torch import Tensor

from es_cli.building.image_shape import is_pair
from es_cli.diagnostics.expected import ExpectedNormal
from es_cli.diagnostics.reach import white_images

ANGLES = 180


def domain(physics: Any) -> str:
    """Where to look: "k-space" for MRI, "angles" for tomography, else "pixels"."""
    parts = list(physics.modules())
    if any(isinstance(one, (MRI, MultiCoilMRI, NonCartesianMRI)) for one in parts):
        return "k-space"
    return "angles" if any(isinstance(one, Tomography) for one in parts) else "pixels"


def seen(normal: ExpectedNormal, where: str, shape: Sequence[int], count: int, seed: int, device: torch.device | str = "cpu") -> np.ndarray:
    """How well each place of a domain, `where`, is seen: float32 ≥ 0, in the units of AᵀA, from `count` white probes of `shape` (C, …, H, W).

    Pixels (H, W), averaged over channels and slices; k-space (H, W) with its centre in the middle; angles of k-space (180,) in degrees from
    the horizontal frequency axis, counterclockwise.
    """
    x = white_images(count, shape, seed, device)
    physics = normal.operators[0]
    if where == "pixels":
        found = _diagonal(x, normal(x))
    else:
        pair = is_pair(type(physics)) and shape[0] == 2
        volume = 3 if getattr(physics, "three_d", False) else 2
        found = _diagonal(*[_to_frequencies(image, pair, volume) for image in (x, normal(x))])
    if where == "angles":
        found = _over_angles(found)
    return np.asarray(found.clamp(min=0).float().cpu())


def _diagonal(w: Tensor, moved: Tensor) -> Tensor:
    """Σ w̄ · Nw / Σ |w|² over probes (P, …, H, W) and all axes but the last two: exact where N is diagonal, since the probes' size drops out."""
    axes = tuple(range(w.ndim - 2))
    return (w.conj() * moved).real.sum(axes) / (w.abs() ** 2).sum(axes)


def _to_frequencies(x: Tensor, pair: bool, axes: int) -> Tensor:
    """The centred Fourier transform over the last `axes` axes; of the complex image where real and imaginary part are the channels."""
    x = torch.complex(x[:, 0], x[:, 1]) if pair else x
    over = tuple(range(-axes, 0))
    return torch.fft.fftshift(torch.fft.fftn(x, dim=over, norm="ortho"), dim=over)


def _over_angles(frequencies: Tensor) -> Tensor:
    """The mean of a map (H, W) along lines through its centre, at each of ANGLES degrees; low frequencies, where lines meet, left out.

    A projection sees the frequencies along its own direction: the Fourier slice theorem. Weights |ω| undo that it sees low ones better.
    """
    height, width = frequencies.shape
    down = (torch.arange(height, device=frequencies.device) - height // 2) / height
    across = (torch.arange(width, device=frequencies.device) - width // 2) / width
    y, x = torch.meshgrid(-down, across, indexing="ij")
    radius = torch.hypot(x, y)
    ring = (radius > 1 / 8) & (radius < 1 / 2)
    direction = torch.rad2deg(torch.atan2(y[ring], x[ring]))
    degrees = torch.arange(ANGLES, device=frequencies.device)[:, None]
    apart = (direction - degrees + 90) % 180 - 90
    weights = torch.exp(-0.5 * (apart * max(height, width) / 90) ** 2)
    return (weights * (radius[ring] * frequencies[ring])).sum(1) / weights.sum(1).clamp(min=math.ulp(1.0))
