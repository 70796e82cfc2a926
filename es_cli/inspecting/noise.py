"""The level of Gaussian noise, from what was measured alone: no entry that a mask left out is looked at.

As deepinv's `WaveletNoiseEstimator`, by the median absolute deviation of the finest detail (Donoho and Johnstone, Biometrika 1994), here of differences
between four neighbours, or two, which need no more than those measured. Detail of the image itself is in it, so that it is an upper bound. Noise has the
same level at every distance and frequency where detail has not: comparing two says whether it is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GAUSSIAN = 0.6745  # the median of |N(0, 1)|
CLEAR = 0.8  # of the level at twice the distance, or of the frequencies below: it is noise
FEWEST = 64  # differences that an estimate needs
ENOUGH = 2000  # for an estimate within a few per cent; where a mask leaves fewer squares, pairs have to do, with more of the image in them


@dataclass(frozen=True)
class Noise:
    """A standard deviation in the units of the measurements; `clear` where it is noise, else detail of the image is in it, an upper bound."""

    sigma: float
    clear: bool


def noise_of_images(samples: Sequence[np.ndarray], seen: Sequence[np.ndarray]) -> Noise | None:
    """The noise of samples (C, H, W), of what `seen` (C, H, W), bool, says was measured; None where next to no neighbours were."""
    for differences in (_mixed, _paired):
        near, far = ([differences(np.asarray(y, np.float64), mask, step) for y, mask in zip(samples, seen, strict=True)] for step in (1, 2))
        if sum(found.size for found in near) > ENOUGH:
            break
    return _compared(near, far)


def noise_of_sinograms(samples: Sequence[np.ndarray]) -> Noise | None:
    """The noise of sinograms (…, detectors, angles): along the detectors, since neighbouring angles of a few see different things."""
    near: list[np.ndarray] = []
    far: list[np.ndarray] = []
    for sample in samples:
        for step, found in ((1, near), (2, far)):
            a, b, c = sample[..., : -2 * step, :], sample[..., step:-step, :], sample[..., 2 * step :, :]
            second = (a - 2 * b + c) / np.sqrt(6)
            found.append(np.asarray(second[(a != 0) & (b != 0) & (c != 0)], np.float64))
    return _compared(near, far)


def noise_of_kspace(samples: Sequence[np.ndarray]) -> Noise | None:
    """The noise of real and imaginary part of k-space (…, H, W), complex: at the highest frequencies that were acquired."""
    height, width = samples[0].shape[-2:]
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    radius = np.hypot(rows, columns)
    outer: list[np.ndarray] = []
    inner: list[np.ndarray] = []
    for sample in samples:
        acquired = np.asarray(sample != 0).any(tuple(range(sample.ndim - 2)))
        if sample.shape[-2:] != radius.shape or acquired.sum() < FEWEST:
            continue
        low, middle, high = np.quantile(radius[acquired], [0.5, 0.65, 0.85])
        for ring, found in ((acquired & (radius > high), outer), (acquired & (radius > low) & (radius <= middle), inner)):
            values = sample[..., ring].ravel()
            found += [values.real, values.imag]
    return _compared(outer, inner)


def _mixed(y: np.ndarray, seen: np.ndarray, step: int) -> np.ndarray:
    """Differences of differences between four entries `step` apart, all measured; white noise has the same deviation in them. Flat places say nothing."""
    corners = [(slice(None, -step), slice(None, -step)), (slice(step, None), slice(None, -step)), (slice(None, -step), slice(step, None)), (slice(step, None), slice(step, None))]
    a, b, c, d = (y[..., i, j] for i, j in corners)
    measured = np.logical_and.reduce([seen[..., i, j] for i, j in corners])
    mixed = ((a - b - c + d) / 2)[measured]
    return mixed[mixed != 0]


def _paired(y: np.ndarray, seen: np.ndarray, step: int) -> np.ndarray:
    """Differences between two entries `step` apart, along both axes, both measured; flat places say nothing."""
    found = []
    for axis in (-1, -2):
        first, second = range(y.shape[axis] - step), range(step, y.shape[axis])
        both = seen.take(first, axis) & seen.take(second, axis)
        found.append(((y.take(second, axis) - y.take(first, axis)) / np.sqrt(2))[both])
    pairs = np.concatenate(found)
    return pairs[pairs != 0]


def _compared(near: Sequence[np.ndarray], far: Sequence[np.ndarray]) -> Noise | None:
    levels = []
    for found in (near, far):
        values = np.concatenate(found) if found else np.empty(0)
        if values.size < FEWEST:
            return None
        levels.append(float(np.median(np.abs(values))) / GAUSSIAN)
    return Noise(levels[0], levels[0] > CLEAR * levels[1]) if levels[0] > 0 else None
