"""What zeros say: pixels that were never measured, or a dark background; one mask for all samples, or one for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

FULL = 0.995  # of the entries measured: no mask
SCATTERED = 0.5  # of the changes from measured to not that a random mask of this density has; dark backgrounds have few
BRIGHT_EDGE = 0.5  # of the mean value, right beside the zeros of a mask; a dark background fades into its surroundings
ONE_MASK = 0.9  # of all entries that any sample has, on average in each


@dataclass(frozen=True)
class Zeros:
    """`none`: all was measured; `common`: one mask for all samples; `each`: a mask of its own for each sample.

    `mask`, bool, is that of all samples, or of the first, in the shape of a sample. `dark` where zeros were found and taken for background.
    """

    kind: Literal["none", "common", "each"]
    mask: np.ndarray
    fraction: float
    dark: bool = False


def zeros_of_images(samples: Sequence[np.ndarray]) -> Zeros:
    """The zeros of samples (C, H, W) of one shape, or of several shapes, which then have a mask each if any."""
    seen = [np.asarray(sample != 0) for sample in samples]
    if len({one.shape for one in seen}) > 1:
        found = np.mean([_scatter(one[None], np.ones(one.shape, bool)) for one in seen[:8]]) >= SCATTERED
        fraction = float(np.mean([one.mean() for one in seen]))
        kind: Literal["none", "each"] = "each" if found and fraction < FULL else "none"
        return Zeros(kind, seen[0], fraction, fraction < FULL and kind == "none")
    stack = np.stack(seen)
    union = np.asarray(stack.any(0))
    own = stack.mean() / max(union.mean(), 1e-12)
    if own < ONE_MASK and len(seen) > 1 and _scatter(stack, union) >= SCATTERED and stack.mean() < FULL:
        return Zeros("each", seen[0], float(stack.mean()))
    if union.mean() < FULL and (_scatter(union[None], np.ones(union.shape, bool)) >= SCATTERED or _edge(samples, union) >= BRIGHT_EDGE):
        return Zeros("common", union, float(union.mean()))
    return Zeros("none", np.ones_like(union), 1.0, bool(stack.mean() < FULL))


def zeros_of_kspace(samples: Sequence[np.ndarray]) -> Zeros:
    """The zeros of k-space (…, H, W), in which a number that is exactly 0 was not acquired; masks are (H, W), of all coils and channels."""
    seen = [acquired(sample) for sample in samples]
    if len({one.shape for one in seen}) > 1:
        fraction = float(np.mean([one.mean() for one in seen]))
        return Zeros("each" if fraction < FULL else "none", seen[0], fraction)
    stack = np.stack(seen)
    union = np.asarray(stack.any(0))
    if len(seen) > 1 and stack.mean() < 0.98 * union.mean():
        return Zeros("each", seen[0], float(stack.mean()))
    return Zeros("common" if union.mean() < FULL else "none", union, float(union.mean()))


def acquired(kspace: np.ndarray) -> np.ndarray:
    """Where k-space (…, H, W) is not 0 in any coil or channel: (H, W), bool."""
    return np.asarray(np.asarray(kspace != 0).any(tuple(range(kspace.ndim - 2))))


def _scatter(seen: np.ndarray, among: np.ndarray) -> float:
    """How often neighbours differ in `seen` (n, …, H, W), of all entries in `among` (…, H, W), against chance; the larger of both directions."""
    part = seen[:, among].mean() if among.any() else 1.0
    chance = 2 * part * (1 - part)
    if chance < 2 * FULL * (1 - FULL):
        return 0.0
    rates = []
    for axis in (-1, -2):
        count = among.shape[axis]
        left, right = np.arange(count - 1), np.arange(1, count)
        both = among.take(left, axis) & among.take(right, axis)
        if both.any():
            rates.append(float((seen.take(left, axis) ^ seen.take(right, axis))[:, both].mean()))
    return max(rates, default=0.0) / chance


def _edge(samples: Sequence[np.ndarray], seen: np.ndarray) -> float:
    """The mean |value| right beside what is 0 in all samples, against that of all other entries."""
    missing = ~seen
    beside = np.zeros_like(seen)
    for axis in (-1, -2):
        for step in (-1, 1):
            beside |= np.roll(missing, step, axis)
    beside &= seen
    if not beside.any() or not seen.any():
        return 0.0
    values = np.mean([np.abs(np.asarray(sample, np.float32)) for sample in samples], axis=0)
    return float(values[beside].mean() / max(values[seen].mean(), 1e-12))
