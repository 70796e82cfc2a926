"""K-space: whether an array is some, where its centre lies, coils or slices, and how it was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

WINDOW = 8  # parts of an axis that the window around the centre is wide
SHARE = 0.25  # of the energy, in a window that is a 64th of the array
WIDEST = 24  # lines that ESPIRiT calibrates with at most
SAME_PICTURE = 0.5  # correlation of what coils see, after their shading is divided out
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
    """Whether k-space (n, H, W) is that of n coils of one slice: their images differ by smooth shading only, where slices differ in detail."""
    if not 2 <= len(arrays) <= MOST_COILS:
        return False
    height, width = (min(64, n) for n in arrays.shape[1:])
    top, left = (arrays.shape[1] - height) // 2, (arrays.shape[2] - width) // 2
    images = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(arrays[:, top : top + height, left : left + width], axes=(1, 2))), axes=(1, 2)))
    detail = np.stack([np.log(image + 0.02 * image.max()) - np.log(_smooth(image) + 0.02 * image.max()) for image in images if image.any()])
    bright = np.sqrt((images**2).sum(0))
    inside = bright > 0.2 * np.quantile(bright, 0.95)
    flat = detail[:, inside] - detail[:, inside].mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    correlations = flat @ flat.T
    return bool(np.median(correlations[np.triu_indices(len(flat), 1)]) > SAME_PICTURE) if len(flat) > 1 else False


def _smooth(image: np.ndarray) -> np.ndarray:
    """An image without what is finer than a tenth of it."""
    rows, columns = (np.fft.fftfreq(n)[:, None] if axis == 0 else np.fft.fftfreq(n)[None] for axis, n in enumerate(image.shape))
    kernel = np.exp(-((rows * image.shape[0]) ** 2 + (columns * image.shape[1]) ** 2) / (2 * 3.0**2))
    return np.maximum(np.fft.ifft2(np.fft.fft2(image) * kernel).real, 0)


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
