"""What is left of a measurement when the image is measured again: how much, and whether it looks like noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from deepinv.physics import MRI, MultiCoilMRI
from torch import Tensor

from es_cli.experiment import Reconstruction
from es_cli.judging.noise import noise_variance
from es_cli.splitting.operators import sampling_mask

FEWEST = 8  # neighbours or lines that something is said of


def residual(made: Reconstruction, physics: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Of r = M(Ax̂ − y) for images x̂ (B, C, …) and measurements y (B, …), by name, (B,) each, NaN where it cannot be said:

    `consistency` ‖r‖ / ‖My‖; `residual_mean` and `residual_std` in the units of y; `residual_over_noise` √(mean r²/v), v the noise's variance: 1 for
    the true image, less where an image follows the noise; `residual_correlation` of neighbours, the larger one of the last two axes: 0 ± 1/√n for
    white noise; `residual_lines` for k-space: how much more the lines differ in energy than those of white noise do, which is 1.
    """
    full = sampling_mask(physics)
    mask = torch.ones_like(y) if full is None else full.expand_as(y)
    r = mask * (physics.A(x) - y)
    count = mask.flatten(1).sum(1).clamp(min=1)
    mean = r.flatten(1).sum(1) / count
    spread = ((r - mean.view(-1, *[1] * (r.ndim - 1))) * mask).flatten(1).square().sum(1) / count
    energy = (mask * y).flatten(1).norm(dim=1)
    found = {"consistency": r.flatten(1).norm(dim=1) / energy, "residual_mean": mean, "residual_std": spread.sqrt()}
    variance = noise_variance(made, physics, physics.A(x))
    unknown = torch.full_like(mean, math.nan)
    found["residual_over_noise"] = unknown if variance is None else _over_noise(r, mask, variance)
    found["residual_correlation"] = _correlation(r, mask) if r.ndim >= 4 else unknown
    found["residual_lines"] = _lines(r, mask) if isinstance(physics, (MRI, MultiCoilMRI)) else unknown
    return found


def _over_noise(r: Tensor, mask: Tensor, variance: Tensor) -> Tensor:
    noisy = mask * (variance > 0)
    ratio = noisy * r.square() / torch.where(variance > 0, variance, 1.0)
    return (ratio.flatten(1).sum(1) / noisy.flatten(1).sum(1)).sqrt()


def _correlation(r: Tensor, mask: Tensor) -> Tensor:
    """Of measured neighbours along the last axis and along the one before it, the value that is larger in size."""
    found = []
    for axis in (-1, -2):
        length = r.shape[axis] - 1
        first, second = r.narrow(axis, 0, length), r.narrow(axis, 1, length)
        both = (mask.narrow(axis, 0, length) * mask.narrow(axis, 1, length)).flatten(1)
        first, second = both * first.flatten(1), both * second.flatten(1)
        value = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1))
        found.append(torch.where(both.sum(1) >= FEWEST, value, math.nan))
    both_axes = torch.stack(found)
    largest = both_axes.abs().nan_to_num(-1).argmax(0, keepdim=True)
    return both_axes.gather(0, largest)[0]


def _lines(r: Tensor, mask: Tensor) -> Tensor:
    """The standard deviation of the mean energy of k-space lines, over that of lines of white noise: columns, or rows where those were acquired."""
    # lines are numbered by the axis along which the acquisition varies more
    columns, rows = float(mask.mean(-2).var()), float(mask.mean(-1).var())
    number_axis = r.ndim - (1 if columns >= rows else 2)
    spanned = [axis for axis in range(1, r.ndim) if axis != number_axis]
    count = mask.sum(spanned)
    used = count >= FEWEST
    energy = r.square().sum(spanned) / count.clamp(min=1)
    number = used.sum(1)
    mean = (energy * used).sum(1) / number.clamp(min=1)
    spread = (((energy - mean[:, None]) * used).square().sum(1) / (number - 1).clamp(min=1)).sqrt()
    expected = mean * ((2 / count.clamp(min=1)) * used).sum(1).div(number.clamp(min=1)).sqrt()
    return torch.where(number >= 2, spread / expected, math.nan)
