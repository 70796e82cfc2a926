"""Do the measurements belong to the operator? Its range, its mask, the convention of its Fourier transform, its scale, and its noise.

All take measurements y (B, …) and the operator `physics` of these samples, in the same units, and need no ground truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.physics import (
    MRI,
    GammaNoise,
    GaussianNoise,
    MultiCoilMRI,
    NonCartesianMRI,
    PoissonGaussianNoise,
    PoissonNoise,
    UniformNoise,
    ZeroNoise,
)
from torch import Tensor

from es_cli.splitting.conjugate_gradients import least_squares
from es_cli.splitting.gram import gram_matrix
from es_cli.splitting.masks import sampling_mask
from es_cli.splitting.noise import level

FITS = 0.9  # how much of two patterns must be common to both before one is named as the cause of the other
PERCENTILE = 0.99  # of an image's values: what data.scale: per-sample goes by


def range_residual(physics: Any, y: Tensor, steps: int) -> Tensor:
    """‖y − A x̂‖ / ‖y‖ of each sample, (B,), for x̂ the least squares image: 0 where y lies in the range of A, 0 for y = 0.

    By the Gram matrix where A is given by a matrix; else by `steps` steps of conjugate gradients, which overestimate it.
    """
    if gram_matrix(physics) is not None:
        x = physics.A_dagger(y)
    else:
        x = least_squares(physics, y, torch.zeros_like(physics.A_adjoint(y)), steps)
    return _norms(y - physics.A(x)) / _norms(y).clamp(min=torch.finfo(y.dtype).tiny)


def noise_share(physics: Any, y: Tensor) -> Tensor | None:
    """√E‖n‖² / ‖y‖ of each sample, (B,): how much of y the noise model of the operator explains; None for a noise whose variance is not known here.

    Where the operator has a mask, noise is counted on what is measured.
    """
    variance = _variance(physics.noise_model, y)
    if variance is None:
        return None
    mask = sampling_mask(physics)
    energy = (variance.expand_as(y) * (1 if mask is None else mask)).flatten(1).sum(1)
    return energy.sqrt() / _norms(y).clamp(min=torch.finfo(y.dtype).tiny)


def _variance(noise: Any, y: Tensor) -> Tensor | None:
    """The variance of the noise of each entry of y (B, …), with y itself in place of the noiseless measurement."""
    signal = y.clamp(min=0)
    if isinstance(noise, ZeroNoise):
        return torch.zeros_like(y)
    if isinstance(noise, PoissonGaussianNoise):
        return level(noise.gain, y) * signal + level(noise.sigma, y) ** 2
    if isinstance(noise, GaussianNoise):
        return level(noise.sigma, y) ** 2 * torch.ones_like(y)
    if isinstance(noise, PoissonNoise):
        return level(noise.gain, y) * signal if bool(getattr(noise, "normalize", True)) else signal
    if isinstance(noise, GammaNoise):
        return signal**2 / level(noise.l, y)
    if isinstance(noise, UniformNoise):
        return level(noise.a, y) ** 2 / 3 * torch.ones_like(y)
    return None


@dataclass(frozen=True)
class MaskMismatch:
    """How far the sites where y is not 0 are from those that the mask of the operator says were measured.

    `beyond`: the fraction of the sites left out by the mask where y is not 0; `beyond_rms`: the root mean square of y there, `inside_rms`: that
    where the mask is 1. `silent`: the fraction of the mask's sites where no sample has a value. `likely`: what would explain it, or "".
    """

    beyond: float
    beyond_rms: float
    inside_rms: float
    silent: float
    likely: str


def mask_mismatch(physics: Any, y: Tensor) -> MaskMismatch | None:
    """y against the sampling mask of the operator, each sample against its own where they have their own; None where everything is measured."""
    mask = sampling_mask(physics)
    if mask is None:
        return None
    full = mask.expand(len(mask), *y.shape[1:]) > 0
    outside = ~full.expand_as(y)
    measured, seen = _sites(physics, full), _sites(physics, y != 0)
    if len(measured) == 1:
        seen = seen.any(0, keepdim=True)
    left_out, wrong = ~measured, seen & ~measured
    return MaskMismatch(
        beyond=_fraction(wrong, left_out),
        beyond_rms=_rms(y, outside),
        inside_rms=_rms(y, ~outside),
        silent=_fraction(measured & ~seen, measured),
        likely=_likely_mask(measured[0], seen[0]) if bool(wrong.any()) else "",
    )


def _sites(physics: Any, entries: Tensor) -> Tensor:
    """Entries of y (B, …) → sites: real and imaginary part of a point of k-space, and all coils that see it, are one."""
    if isinstance(physics, MultiCoilMRI):
        return entries.any(2).any(1)
    return entries.any(1) if isinstance(physics, MRI) else entries


def _likely_mask(mask: Tensor, seen: Tensor) -> str:
    """What was done to `mask` to make the pattern `seen`, both (…, H, W) bool; "" where nothing that is known here was."""
    if bool(seen.all()):
        return "the measurements hold values everywhere, as if they had never been masked, or been filled in"
    fits = {name: _overlap(other, seen) for name, other in _variants(mask)}
    best = max(fits, key=lambda name: fits[name])
    return best if fits[best] >= FITS and fits[best] > _overlap(mask, seen) else ""


def _variants(mask: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "the mask is the complement of what was measured: 0 and 1 are swapped", ~mask
    yield "the mask and the measurements differ by an fftshift: one has its centre in the corner", torch.fft.fftshift(mask, dim=(-2, -1))
    yield "the mask is upside down", mask.flip(-2)
    yield "the mask is mirrored", mask.flip(-1)
    yield "the mask is turned by 180°", mask.flip(-2, -1)
    if mask.shape[-1] == mask.shape[-2]:
        yield "the mask is transposed: rows and columns are swapped", mask.transpose(-2, -1)


def _overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two patterns."""
    return _fraction(one & other, one | other)


@dataclass(frozen=True)
class FourierConvention:
    """Where energy lies, from 0 to 1, along each axis of k-space and of its image: the share outside the central half. White noise has 0.5.

    The operator's transform puts the lowest frequency in the centre of k-space, and the middle of the image in that of the image.
    """

    kspace: tuple[float, ...]
    image: tuple[float, ...]


def fourier_convention(physics: Any, y: Tensor) -> FourierConvention | None:
    """Where the energy of k-space y (B, 2, …, H, W) and of its images lies; None for an operator that measures no Cartesian k-space."""
    if not isinstance(physics, (MRI, MultiCoilMRI)) or isinstance(physics, NonCartesianMRI):
        return None
    axes = (-3, -2, -1) if physics.three_d else (-2, -1)
    # transformed without the operator's mask, which would hide what lies elsewhere
    kspace = torch.view_as_complex(y.movedim(1, -1).contiguous())
    return FourierConvention(_outer(kspace, axes), _outer(physics.ifft(kspace, dim=axes), axes))


def _outer(values: Tensor, axes: tuple[int, ...]) -> tuple[float, ...]:
    """The share of the energy outside the central half of each of `axes`."""
    power = values.abs().double() ** 2
    shares = []
    for axis in axes:
        along = power.movedim(axis, -1).flatten(0, -2).sum(0)
        size = len(along)
        # the centre is the site that fftshift moves the first one to
        start, inside = size // 2 - size // 4, 2 * (size // 4)
        shares.append(float(1 - along[start : start + inside].sum() / along.sum().clamp(min=torch.finfo(along.dtype).tiny)))
    return tuple(shares)


@dataclass(frozen=True)
class Scale:
    """How large images are: the 99th percentile of |Aᵀy| as it is, and of |α Aᵀy| with the α that fits y best; the median over samples."""

    adjoint: float
    image: float


def image_scale(physics: Any, y: Tensor) -> Scale:
    """The size of what the adjoint makes of y, and of the image that would have made y; networks expect about 1."""
    x = physics.A_adjoint(y)
    back = physics.A(x)
    tiny = torch.finfo(y.dtype).tiny
    alpha = (back * y).flatten(1).sum(1) / (back**2).flatten(1).sum(1).clamp(min=tiny)
    size = (torch.linalg.vector_norm(x, dim=1) if isinstance(physics, (MRI, MultiCoilMRI)) else x.abs()).flatten(1)
    top = size.kthvalue(max(1, math.ceil(PERCENTILE * size.shape[1])), dim=1).values
    top = torch.where(top > 0, top, size.amax(1))
    return Scale(float(top.median()), float((alpha.abs() * top).median()))


def likely_units(physics: Any, image_shape: tuple[int, ...], size: float, good: tuple[float, float]) -> str:
    """What would explain images of `size`, where networks expect one within `good`; "" where nothing that is known here would."""
    low, high = good
    if isinstance(physics, (MRI, MultiCoilMRI)):
        pixels = math.prod(image_shape[-3:] if physics.three_d else image_shape[-2:])
        if low <= size / math.sqrt(pixels) <= high and size > 1:
            return f'the k-space looks like that of an FFT without norm="ortho", √{pixels} = {math.sqrt(pixels):.3g} times too large'
        if low <= size * math.sqrt(pixels) <= high:
            return f"the k-space looks like that of an FFT that divides by the number of pixels, √{pixels} = {math.sqrt(pixels):.3g} times too small"
        return ""
    for bits in (8, 12, 16):
        if size <= 2**bits - 1:
            return f"pixel values from 0 to {2**bits - 1}" if size > high else ""
    return ""


def _fraction(some: Tensor, all_: Tensor) -> float:
    return float(some.sum()) / max(1, int(all_.sum()))


def _rms(y: Tensor, where: Tensor) -> float:
    return float(((y.double() ** 2) * where).sum().div(where.sum().clamp(min=1)).sqrt())


def _norms(y: Tensor) -> Tensor:
    return torch.linalg.vector_norm(y.flatten(1), dim=1)
