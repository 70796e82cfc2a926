"""Noise of a measurement: its levels as tensors beside the samples they belong to, in the network's units, and recorruption by more of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from deepinv.physics import GammaNoise, GaussianNoise, PoissonNoise
from torch import Tensor

from es_cli.catalog import LEVELS
from es_cli.splitting.shares import Random, normal, own_stream

RECORRUPTIBLE = (GaussianNoise, PoissonNoise, GammaNoise)


def level(value: Tensor, y: Tensor) -> Tensor:
    """A noise level, of all samples or of each, shape (), (1,), (B,) or (B, 1, …), as a tensor that multiplies y (B, …).

    A σ of shape (B,) would otherwise scale the columns of an image that is B pixels wide (deepinv 0.5.0, trap 7).
    """
    if value.numel() == 1:
        return value.reshape(())
    return value.reshape(-1, *[1] * (y.ndim - 1)) if value.ndim < y.ndim else value


def with_buffers(module: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A shallow copy of a module with other buffers; the module itself keeps its own."""
    clone = copy.copy(module)
    clone._buffers = {**module._buffers, **tensors}
    clone._modules = dict(module._modules)
    return clone


def rescaled(noise: Any, scale: Tensor | None) -> Any:
    """The noise of y / scale, where `noise` is that of y: σ and gain divided by it; scale has shape (B,), None is 1.

    The original stays as it was. Only for noise that scales with the image; other noise is returned as it is.
    """
    held = {name: value for name in LEVELS if isinstance(value := getattr(noise, name, None), Tensor)}
    return noise if scale is None or not held else with_buffers(noise, {name: value / scale for name, value in held.items()})


def noise_of_one(noise: Any, i: int, batch: int) -> Any:
    """The noise of sample `i` of a batch: `noise` itself where all samples share its levels."""
    own = {name: value[i : i + 1] for name, value in noise.named_buffers() if value.ndim > 0 and batch > 1 and len(value) == batch}
    return with_buffers(noise, own) if own else noise


def recorrupt(y: Tensor, noise: Any, alpha: float, rng: Random) -> Tensor:
    """y⁺ = y made noisier, such that y⁺ and y⁻ = (y − (1 − α) y⁺) / α are independent given the image: y (B, …), 0 < α < 1.

    Gaussian: y + √(α / (1 − α)) ω with ω ~ N(0, σ²). Poisson: binomial thinning. Gamma: beta thinning.
    Source: Monroy et al., Generalized Recorrupted-to-Recorrupted, CVPR 2025, table 1.
    """
    if isinstance(noise, GaussianNoise):
        return y + math.sqrt(alpha / (1 - alpha)) * level(noise.sigma, y) * normal(y, rng)
    if isinstance(noise, PoissonNoise):
        gain = level(noise.gain, y)
        counts = (y / gain).round().clamp(min=0)
        thinned = torch.binomial(counts, torch.full_like(counts, alpha), generator=own_stream(rng))
        return (y - gain * thinned) / (1 - alpha)
    shape = level(noise.l, y).expand_as(y)
    # torch.distributions takes no generator: a beta variable is the ratio of two gamma variables
    first, second = (torch._standard_gamma(shape * part, generator=own_stream(rng)) for part in (alpha, 1 - alpha))
    return y * (second / (first + second)) / (1 - alpha)
