"""Sinograms: whether arrays are some, which axis counts angles, and how wide the image is that they were measured from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

EQUAL_MASS = 0.02  # relative deviation of the sums over the detectors, which parallel projections of one object share
STRUCTURE = 0.2  # relative deviation along the detectors, which a flat picture lacks
UNEVEN = 4  # how much more the sums along the other axis must differ


def angle_axis(samples: Sequence[np.ndarray]) -> Literal[-1, -2] | None:
    """The axis of samples (…, H, W) that counts angles; None where they are no sinograms of whole objects.

    Each parallel projection of an object has the mass of the object: sums over the detectors are equal at all angles, in all samples.
    """
    deviations: dict[int, list[float]] = {-1: [], -2: []}
    structure: dict[int, list[float]] = {-1: [], -2: []}
    for sample in samples[:12]:
        for axis in (-1, -2):
            across = -3 - axis
            sums = np.asarray(sample, np.float64).sum(across)
            profile = np.asarray(sample, np.float64).mean(axis)
            deviations[axis].append(float((sums.std(-1) / np.maximum(np.abs(sums.mean(-1)), 1e-12)).max()))
            structure[axis].append(float((profile.std(-1) / np.maximum(np.abs(profile.mean(-1)), 1e-12)).min()))
    for axis in (-1, -2):
        worst = float(np.quantile(deviations[axis], 0.9))
        if worst < EQUAL_MASS and min(structure[axis]) > STRUCTURE and np.median(deviations[-3 - axis]) > UNEVEN * max(worst, 1e-6):
            return axis  # type: ignore[return-value]
    return None


def padded_width(detectors: int) -> int | None:
    """The width of the image for which deepinv's projection, with room for the corners, has so many detectors; None where there is none."""
    width = math.floor(detectors / math.sqrt(2))
    return width if width + math.ceil(math.sqrt(2) * width - width) == detectors else None


def fills_the_margin(samples: Sequence[np.ndarray], detectors: int) -> bool:
    """Whether the projection at the first angle, taken for 0°, reaches the outermost detectors, where with room for the corners nothing can be."""
    width = padded_width(detectors)
    if width is None:
        return True
    margin = max(1, (detectors - width) // 2 - 1)
    first = np.mean([np.abs(np.asarray(sample[..., 0], np.float64)) for sample in samples], axis=0).reshape(-1, detectors).mean(0)
    return bool((first[:margin].sum() + first[-margin:].sum()) > 0.02 * first.sum())
