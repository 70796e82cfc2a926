"""How large the noise of a measurement is, as far as the operator or the loss of a spec says so."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import GaussianNoise, PoissonGaussianNoise, PoissonNoise, ZeroNoise
from torch import Tensor

from es_cli.experiment import Reconstruction
from es_cli.splitting.noise import level

KNOWN = (GaussianNoise, PoissonNoise, PoissonGaussianNoise, ZeroNoise)


def noise_variance(made: Reconstruction, physics: Any, u: Tensor) -> Tensor | None:
    """The variance γu + σ² of the noise of each entry of a measurement, of the shape of u (B, …), in its units squared.

    u is the noiseless measurement or an estimate of it, `physics` the operator in the user's units. Of two noise models, the operator's and that
    of a loss, the loss's counts, since images were learned by it. None where neither is Gaussian, Poisson, both, or nothing.
    """
    noise = physics.noise_model if made.consistency is None else made.consistency.noise(physics, None)
    if not isinstance(noise, KNOWN):
        return None
    variance = torch.zeros_like(u)
    if isinstance(noise, (PoissonNoise, PoissonGaussianNoise)):
        variance = variance + level(noise.gain, u) * u.clamp(min=0)
    if isinstance(noise, (GaussianNoise, PoissonGaussianNoise)):
        variance = variance + level(noise.sigma, u) ** 2
    return variance
