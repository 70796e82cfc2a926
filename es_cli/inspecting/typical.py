"""What measurements are like, in a few numbers: how large, how much of them was measured, how noisy. Those of training go into the checkpoint, so that
others can be told from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from es_cli.inspecting.noise import noise_of_images, noise_of_kspace

QUANTILE = 0.99
DIGITS = 4  # that are kept
SIDE = 512  # pixels along an edge of the part whose noise is estimated
Span = tuple[float, float, float]


def numbers_of(y: np.ndarray, pair: bool) -> dict[str, float]:
    """The numbers of one measurement as the operator takes it, (C, …, H, W) or (m,), complex as two channels if `pair`.

    `scale` is the 99th percentile of the size of what was measured, `lowest` and `highest` its least and greatest value (its size, if complex),
    `measured` the share of entries that are not 0, `noise` the level of Gaussian noise at most, in units of the scale. What cannot be known is left out.
    """
    values = y[0] + 1j * y[1] if pair else y
    seen = values != 0
    found = {"measured": float(seen.mean())}
    if not seen.any():
        return found
    held = values[seen]
    size = np.abs(held)
    found["scale"] = float(np.quantile(size, QUANTILE))
    found["highest"] = float(size.max() if pair else held.max())
    if not pair:
        found["lowest"] = float(held.min())
    noise = _noise(values, seen, pair)
    if noise is not None and found["scale"] > 0:
        found["noise"] = noise / found["scale"]
    return found


def spans(samples: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """Least, median and greatest of each number over samples; of those that are finite."""
    held: dict[str, list[float]] = {}
    for numbers in samples:
        for name, value in numbers.items():
            if math.isfinite(value):
                held.setdefault(name, []).append(value)
    return {name: [float(f"{of:.{DIGITS}g}") for of in (min(values), float(np.median(values)), max(values))] for name, values in sorted(held.items())}


def residuals(predicted: np.ndarray, y: np.ndarray) -> list[float]:
    """‖A x̂ − y‖ / ‖y‖ of each sample of A x̂ and y, (n, …); those of y = 0 are left out."""
    pairs = [(np.linalg.norm((a - b).astype(np.float64)), np.linalg.norm(b.astype(np.float64))) for a, b in zip(predicted, y, strict=True)]
    return [float(difference / size) for difference, size in pairs if size > 0]


def _noise(values: np.ndarray, seen: np.ndarray, pair: bool) -> float | None:
    if values.ndim < 2 + (not pair) or min(values.shape[-2:]) < 8:
        return None
    if pair:
        found = noise_of_kspace([values])
    else:
        rows, columns = (slice(max(0, (n - SIDE) // 2), max(0, (n - SIDE) // 2) + SIDE) for n in values.shape[-2:])
        found = noise_of_images([values[..., rows, columns]], [seen[..., rows, columns]])
    return None if found is None else found.sigma
