"""K-space: whether an array is some, where its centre lies, coils or slices, and how it was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

WINDOW = 8  # parts of an axis that the window around the centre is wide
SHARE = 0.25  # of the energy, in a window that is a 64th of the array
SAME_PICTURE = 0.75  # of all change from pixel to pixel, shared by the coils; of slices at most 0.7 was seen, of coils 0.8 to 0.99
FINEST = 12  # lines of the centre: images of fewer are too coarse to be told apart
CENTRE = 64  # points of the centre that are looked at in each direction
MOST_COILS = 64
FULL = 0.98  # of the points acquired: nothing is missing that could be learned


@dataclass(frozen=True)
class Sampling:
    """How k-space was sampled: whole columns or rows, or points; all of it: full.

    `acs` is how many neighbouring lines around the centre were acquired, for points the width of the square, `lines` how many lines there are.
    """

    pattern: Literal["columns", "rows", "points", "full"]
    acceleration: float
    acs: int
    lines: int
    of: int

    @property
    def center_fraction(self) -> float:
        return self.acs / self.of


def as_kspace(sample: np.ndarray) -> np.ndarray | None:
    """A sample as complex (…, H, W): complex as it is, real (2, …, H, W) as real and imaginary part; None where it is neither."""
    if np.iscomplexobj(sample):
        return sample
    return sample[0] + 1j * sample[1] if sample.ndim > 2 and sample.shape[0] == 2 else None


def centre_of(samples: Sequence[np.ndarray]) -> Literal["middle", "corner"] | None:
    """Where the energy of arrays (…, H, W) lies, as that of k-space does in one small place; None: spread, as in images."""
    energy = np.mean([np.mean(np.abs(np.asarray(one, np.complex128)) ** 2, axis=tuple(range(one.ndim - 2))) for one in samples[:8] if one.shape == samples[0].shape], axis=0)
    if not energy.any() or min(energy.shape) < WINDOW:
        return None
    shares = {}
    for where, moved in (("middle", energy), ("corner", np.fft.fftshift(energy))):
        slices = tuple(slice(n // 2 - max(1, n // (2 * WINDOW)), n // 2 + max(1, n // (2 * WINDOW)) + 1) for n in energy.shape)
        shares[where] = moved[slices].sum() / energy.sum()
    best = max(shares, key=lambda where: shares[where])
    return best if shares[best] > SHARE else None  # type: ignore[return-value]


def sampling_of(mask: np.ndarray) -> Sampling:
    """How a mask (H, W), bool, samples k-space with its centre in the middle."""
    columns, rows = np.asarray(mask.any(0)), np.asarray(mask.any(1))
    pattern: Literal["columns", "rows", "points", "full"] = "points"
    if mask.mean() > FULL:
        pattern = "full"
    elif (mask == columns).mean() > 0.99 or ((mask == np.outer(rows, columns)).all() and rows.mean() > 0.8):
        pattern = "columns"
    elif (mask == rows[:, None]).mean() > 0.99 or ((mask == np.outer(rows, columns)).all() and columns.mean() > 0.8):
        pattern = "rows"
    lines = columns if pattern == "columns" else rows
    acs = _run(lines) if pattern in {"columns", "rows"} else _square(mask)
    of = min(mask.shape) if pattern in {"points", "full"} else len(lines)
    return Sampling(pattern, 1 / float(mask.mean()), acs, int(lines.sum()), of)


def sees_one_picture(arrays: np.ndarray) -> bool:
    """Whether k-space (n, H, W), complex, is that of n coils of one slice, as far as the fully sampled centre can tell; it has to be FINEST lines wide.

    Where the slice changes from one pixel to the next, all coils change by the same factor: the n values of both pixels are parallel. Slices change
    each for itself.
    """
    if not 2 <= len(arrays) <= MOST_COILS or (found := sampling_of(np.asarray((arrays != 0).any(0)))).acs < FINEST:
        return False
    whole = arrays.shape[1:]
    sizes = {"columns": (whole[0], found.acs), "rows": (found.acs, whole[1]), "points": (found.acs, found.acs), "full": whole}[found.pattern]
    (top, height), (left, width) = ((n // 2 - min(size, CENTRE) // 2, min(size, CENTRE)) for n, size in zip(whole, sizes, strict=True))
    centre = arrays[:, top : top + height, left : left + width]
    x = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(centre, axes=(1, 2))), axes=(1, 2))
    x = x / np.maximum(np.sqrt((np.abs(x) ** 2).mean((1, 2), keepdims=True)), 1e-12)
    dark = 0.09 * np.quantile((np.abs(x) ** 2).sum(0), 0.95)
    along, changes = 0.0, 0.0
    for axis in (1, 2):
        change = np.diff(x, axis=axis)
        between = x.take(range(1, x.shape[axis]), axis) - change / 2
        energy = (np.abs(between) ** 2).sum(0)
        bright = energy > dark
        along += float((np.abs((change * between.conj()).sum(0)) ** 2 / np.maximum(energy, 1e-20))[bright].sum())
        changes += float((np.abs(change) ** 2).sum(0)[bright].sum())
    return along > SAME_PICTURE * changes > 0


def _run(lines: np.ndarray) -> int:
    """How many neighbours around the middle are true."""
    middle = len(lines) // 2
    if not lines[middle]:
        return 0
    left = int(np.argmin(np.r_[lines[middle::-1], False]))
    right = int(np.argmin(np.r_[lines[middle:], False]))
    return left + right - 1


def _square(mask: np.ndarray) -> int:
    """The width of the largest square around the middle that is true."""
    for size in range(min(mask.shape), 0, -1):
        centre = tuple(slice(n // 2 - size // 2, n // 2 - size // 2 + size) for n in mask.shape)
        if mask[centre].all():
            return size
    return 0
