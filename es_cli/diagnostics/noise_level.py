"""How strong the noise of measurements is, seen in the measurements alone.

Complete images have deepinv's estimator (Chen et al., 2015). It wants whole patches and noise of one strength, which a mask, k-space and
Poisson noise do not give: there, differences of neighbouring entries that were both measured, and the outermost points of k-space, tell. All
see signal too, and are upper bounds; how much of it there can be is told by the same at half the resolution, since noise is white, and the
amplitudes of images fall with the frequency as 1/ω or faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from deepinv.models import PatchCovarianceNoiseEstimator
from torch import Tensor

# (row, column, weight) of filters that see no flat signal, of norm 1: Haar's diagonal, bends along the rows of an array and along its columns
Filter = tuple[tuple[int, int, float], ...]
DIAGONAL: Filter = ((0, 0, 0.5), (0, 1, -0.5), (1, 0, -0.5), (1, 1, 0.5))
DOWN: Filter = tuple((i, 0, w / math.sqrt(6)) for i, w in enumerate((1, -2, 1)))
ACROSS: Filter = tuple((0, i, w / math.sqrt(6)) for i, w in enumerate((1, -2, 1)))
FILTERS = {"image": (DIAGONAL, ACROSS, DOWN), "sinogram": (DOWN,)}

Domain = Literal["image", "sinogram", "k-space"]
# noise variance of one sample, by its number, where the noiseless measurement is about u (m,)
Variance = Callable[[int, Tensor], Tensor]

NORMAL = 0.6745  # median of |z| for z ~ N(0, 1)
ERROR_OF_MEDIAN = 1.17  # standard error of that estimate of σ, times √n / σ
LEAST = 100  # differences, fewer of which say nothing
QUIET = 0.25  # share of the pieces of the data that have least signal, which are looked at
QUIETEST = 1.27  # the mean of the lowest quarter of many numbers drawn from N(0, 1), below 0
PIECE = 64  # pixels along each side of a piece of an image
STRONGER = 2.0  # times the variance of signal in differences over twice the distance, at least: 1.9 to 2.1 for amplitudes of 1/ω, more for steeper ones
OUTER, INNER = (0.9, 1.0), (0.5, 0.7)  # of the measured points of k-space by their radius: where noise is looked for, and where signal


@dataclass(frozen=True)
class NoiseLevel:
    """A standard deviation with an interval that should hold it, from `count` numbers; over the assumed one where a variance was given."""

    level: float
    lowest: float
    highest: float
    count: int
    method: str


@dataclass(frozen=True)
class _Piece:
    """Numbers of one piece of the data: noise and little signal (n,); and where signal is stronger, `ratio` times its variance (m,)."""

    fine: Tensor
    coarse: Tensor
    ratio: float


def noise_level(y: Tensor, mask: Tensor | None, domain: Domain, variance: Variance | None = None, spatial: int = 2) -> NoiseLevel | None:
    """The noise of measurements y (B, …, H, W), or of k-space (B, 2, …, H, W) with `spatial` axes; None where too little was measured.

    `mask` (1 or B, …) broadcasts to y and says what was measured, None: everything. With `variance` the answer is a standard deviation over
    the assumed one, else it is in the units of y.
    """
    whole = torch.ones_like(y[:1]) if mask is None else mask.expand(-1, *y.shape[1:])
    pieces: list[_Piece] = []
    for i, one in enumerate(y):
        measured = whole[i if len(whole) > 1 else 0] > 0
        own = None if variance is None else (lambda u, i=i: variance(i, u))
        pieces += [_of_k_space(one, measured, own, spatial)] if domain == "k-space" else _of_image(one, measured, own, FILTERS[domain], len(y))
    made = _pooled([piece for piece in pieces if len(piece.fine) and len(piece.coarse)], domain)
    if domain != "image" or mask is not None and not bool((mask > 0).all()):
        return made
    return _with_patches(y, variance, made)


def _pooled(pieces: Sequence[_Piece], domain: Domain) -> NoiseLevel | None:
    """The level in the quietest pieces. They are chosen where signal is stronger, so that the choice does not know the noise that is asked for."""
    pieces = sorted(pieces, key=lambda piece: float(piece.coarse.abs().median()))
    total = sum(len(piece.fine) for piece in pieces)
    if total < LEAST:
        return None
    chosen: list[_Piece] = []
    for piece in pieces:
        if len(chosen) >= QUIET * len(pieces) and sum(len(one.fine) for one in chosen) >= LEAST:
            break
        chosen.append(piece)
    fine, coarse = (torch.cat([getattr(one, name) for one in chosen]) for name in ("fine", "coarse"))
    ratio = sum(one.ratio for one in chosen) / len(chosen)
    level, above = (float(part.abs().median()) / NORMAL for part in (fine, coarse))
    if len(chosen) < len(pieces):  # chosen as the quietest, they look quieter than they are, all the more the fewer numbers each has
        above *= 1 + QUIETEST * ERROR_OF_MEDIAN / math.sqrt(len(coarse) / len(chosen))
    # fine: n² + s², coarse: n² + ratio s²
    lowest = min(level, math.sqrt(max(0.0, (ratio * level**2 - above**2) / (ratio - 1))))
    # the median of the coarse one errs too, and half the weight of both goes into n²
    error = 3 * ERROR_OF_MEDIAN / math.sqrt(min(len(fine), len(coarse)))
    what = "the outermost points of k-space" if domain == "k-space" else "differences of neighbours"
    return NoiseLevel(level, lowest * max(0.0, 1 - error), level * (1 + error), len(fine), what)


def _of_image(one: Tensor, measured: Tensor, variance: Callable[[Tensor], Tensor] | None, filters: Sequence[Filter], count: int) -> list[_Piece]:
    """The pieces of one of `count` samples (C, …, H, W), by the first filter that finds enough: between neighbours, or the next but one where a
    colour has no nearer ones."""
    planes, known = one.reshape(-1, *one.shape[-2:]), measured.reshape(-1, *one.shape[-2:])
    for kernel in filters:
        for step in (1, 2):
            if int(_known(known, kernel, step).sum()) * count * QUIET >= LEAST:
                rows, columns = planes.split(PIECE, 1), known.split(PIECE, 1)
                tiles = [pair for a, b in zip(rows, columns, strict=True) for pair in zip(a.split(PIECE, 2), b.split(PIECE, 2), strict=True)]
                return [_Piece(_filtered(tile, at, kernel, step, variance), _filtered(tile, at, kernel, 2 * step, variance), STRONGER) for tile, at in tiles]
    return []


def _known(known: Tensor, kernel: Filter, step: int) -> Tensor:
    """Where all entries that a filter takes were measured, bool."""
    return torch.stack([part for part, _ in _parts(known, kernel, step)]).all(0)


def _filtered(planes: Tensor, known: Tensor, kernel: Filter, step: int, variance: Callable[[Tensor], Tensor] | None) -> Tensor:
    """What a filter gives where it can be computed, (n,), over the standard deviation that is assumed there."""
    parts = _parts(planes, kernel, step)
    at = _known(known, kernel, step)
    made = sum(weight * part for part, weight in parts)[at] if at.numel() else planes.new_empty(0)
    if variance is None:
        return made
    expected = variance((sum(part for part, _ in parts) / len(parts))[at] if at.numel() else made)
    usable = (expected > 0).expand(made.shape)
    return (made / expected.clamp(min=1e-30).sqrt())[usable]


def _parts(planes: Tensor, kernel: Filter, step: int) -> list[tuple[Tensor, float]]:
    height = max(0, planes.shape[-2] - step * max(row for row, _, _ in kernel))
    width = max(0, planes.shape[-1] - step * max(column for _, column, _ in kernel))
    return [(planes[..., step * r : step * r + height, step * c : step * c + width], weight) for r, c, weight in kernel]


def _of_k_space(one: Tensor, measured: Tensor, variance: Callable[[Tensor], Tensor] | None, spatial: int) -> _Piece:
    """The outermost measured points of a sample (2, …, H, W), and those further in, where the signal is stronger by the square of the radius."""
    axes = [torch.linspace(-1, 1, n, device=one.device) if n > 1 else one.new_zeros(1) for n in one.shape[-spatial:]]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt().expand(one.shape)
    values = one if variance is None else one / variance(one).clamp(min=1e-30).sqrt()
    order = radius[measured].argsort()
    values, radius = values[measured][order], radius[measured][order]
    (a, b), (c, d) = ((int(low * len(values)), int(high * len(values))) for low, high in (OUTER, INNER))
    outer, inner = (float(radius[first:last].square().mean()) if last > first else 0.0 for first, last in ((a, b), (c, d)))
    ratio = outer / inner if inner > 0 else 0.0
    return _Piece(values[a:b], values[c:d] if ratio > 1 else values[:0], ratio)


def _with_patches(y: Tensor, variance: Variance | None, made: NoiseLevel | None) -> NoiseLevel | None:
    """deepinv's estimate for complete images in place of the one of differences, which stays as the other end of the interval."""
    if variance is not None:
        spread = torch.stack([torch.stack([v.min(), v.max()]) for v in (variance(i, one).reshape(-1) for i, one in enumerate(y))])
        if not bool((spread[:, 0] == spread[:, 1]).all()) or not bool((spread > 0).all()):
            return made  # noise that is stronger where there is more light
        y = y / spread[:, 0].sqrt().view(-1, *[1] * (y.ndim - 1))
    planes = y.reshape(-1, 1, *y.shape[-2:])
    side = min(planes.shape[-2:])
    # of colour images at once it would want more patches than they have, and then is far too low
    patch = 8 if side >= 48 else 4
    if made is None or side < 3 * patch:
        return made
    try:
        found = PatchCovarianceNoiseEstimator.estimate_noise(planes, patch, max(1, side // PIECE))
    except RuntimeError:  # patches without any noise have no balance of eigenvalues
        return made
    found = found[found.isfinite()]
    if not len(found):
        return made
    level = float(found.quantile(0.1))  # texture makes it larger, never smaller
    return NoiseLevel(level, min(made.lowest, level), max(made.highest, level), made.count, "patches (Chen et al., 2015)")
