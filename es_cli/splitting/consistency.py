"""The consistency term of equivariant splitting: how the image is compared with the part of y that the network was given.

Without noise that is the measurement itself. With noise the comparison would teach the network to reproduce it, and a term that estimates the
error against the noiseless measurement stands in its place. deepinv's own losses cannot: inside a split, R2R crashes and its value is not
masked (traps 1 and 3), and SURE probes under another split and another g (trap 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from deepinv.physics import GaussianNoise, PoissonGaussianNoise, PoissonNoise
from torch import Tensor, nn

from es_cli.splitting.noise import level, noise_of_one, recorrupt, rescaled
from es_cli.splitting.shares import Random, Share, entries, uniform
from es_cli.streams import generator, stream_seed

THIRD_MOMENT = 0.7236  # probability at which a two-valued variable of mean 0 and variance 1 has the third moment 1


@dataclass(frozen=True)
class Split:
    """One split batch: M₁ and y (B, …), what the network was fed (B, …), M₁A, the image x̂ (B, C, …), and `measure`, fed ↦ M₁Ax̂.

    `measure` runs the same network under the same split and the same g. `noise` is that of y, in the network's units.
    """

    mask: Tensor
    y: Tensor
    fed: Tensor
    physics: Any
    x: Tensor
    noise: Any
    measure: Callable[[Tensor], Tensor]
    rng: Random
    share: Share | None = None
    known: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)  # what was found once

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the entries of M₁ of a value (B, …); an empty M₁ weighs nothing."""
        return (self.mask * value).sum() / self._entries()

    def over_all(self, value: Tensor) -> Tensor:
        """The mean over the whole batch of what `mean` gave, (n,), where several processes have their rows of it."""
        return value if self.share is None else self.share.mean(value)

    def _entries(self) -> Tensor:
        """How many entries M₁ has, 1 at least; over the whole batch, and divided by the part of it that these rows are."""
        if "entries" not in self.known:
            found = self.mask.sum()
            if self.share is not None:
                found = self.share.mean(found / self.share.part)
            found = found.clamp(min=1)
            self.known["entries"] = found if self.share is None else found * self.share.part
        return self.known["entries"]


class Consistency(nn.Module):
    """A consistency term. `own_noise` replaces the noise model of the operator, in the user's units; None: the operator's is taken."""

    def __init__(self, own_noise: Any = None) -> None:
        super().__init__()
        self.own_noise = own_noise

    def noise(self, physics: Any, scale: Tensor | None) -> Any:
        """The noise model that the term assumes, in the network's units; `scale` (B,) is what y was divided by, None: nothing."""
        return physics.noise_model if self.own_noise is None else rescaled(self.own_noise, scale)

    def feed(self, y: Tensor, noise: Any, rng: Random) -> Tensor:
        """What the network is given in place of y (B, …), before the split."""
        return y

    def forward(self, split: Split) -> Tensor:
        """The term of a batch, a scalar."""
        raise NotImplementedError


def feed_each(term: Consistency, y: Tensor, noise: Any, seeds: Sequence[int]) -> Tensor:
    """`term.feed` of y (B, …) with a draw of its own for each sample, so that a sample is fed the same in whatever batch it comes."""
    if type(term).feed is Consistency.feed:
        return y
    fed = [term.feed(y[i : i + 1], noise_of_one(noise, i, len(y)), generator(stream_seed(seed, "noise"), y.device)) for i, seed in enumerate(seeds)]
    return torch.cat(fed)


class Measured(Consistency):
    """The distance to the measurement: right without noise. `loss` is deepinv's MCLoss with its metric."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, split: Split) -> Tensor:
        return _per_entry(self.loss(x_net=split.x, y=split.mask * split.y, physics=split.physics), split)


class Recorrupted(Consistency):
    """R2R: the network is fed y⁺, noisier than y, and compared with y⁻, whose noise is independent of it.

    Unbiased up to a constant: for Gaussian noise the mean of σ²/α over M₁. Source: Pang et al., Recorrupted-to-Recorrupted, CVPR 2021;
    Monroy et al., CVPR 2025. `alpha` is deepinv's; `metric` compares (M₁Ax̂, M₁y⁻).
    """

    def __init__(self, metric: nn.Module, alpha: float = 0.15, own_noise: Any = None) -> None:
        super().__init__(own_noise)
        self.metric, self.alpha = metric, alpha

    def feed(self, y: Tensor, noise: Any, rng: Random) -> Tensor:
        return recorrupt(y, noise, self.alpha, rng)

    def forward(self, split: Split) -> Tensor:
        # fed is masked already, and so is the target by M₁
        target = (split.mask * split.y - (1 - self.alpha) * split.fed) / self.alpha
        return _per_entry(self.metric(split.physics.A(split.x), target), split)


class Stein(Consistency):
    """SURE for noise of variance γu + σ², u being the noiseless measurement: Gaussian (γ = 0), Poisson (σ = 0) or both.

    ``mean₁[(Ax̂ − y)² − γy − σ² + 2 (γy + σ²) ∂(Ax̂) − 2 γσ² ∂²(Ax̂)]`` with derivatives along the diagonal, by random probes of size `tau` and
    `tau2`; the last term only if `second_derivative`. Unbiased for E mean₁(Ax̂ − u)². Source: Le Montagner et al., IEEE TIP 2014.
    """

    def __init__(self, tau: float = 1e-2, tau2: float = 1e-2, second_derivative: bool = False, own_noise: Any = None) -> None:
        super().__init__(own_noise)
        self.tau, self.tau2, self.second_derivative = tau, tau2, second_derivative

    def forward(self, split: Split) -> Tensor:
        gain, variance = _levels(split.noise, split.y)
        measured = split.physics.A(split.x)
        total = (measured - split.y) ** 2 - gain * split.y - variance
        total = total + 2 * (gain * split.y + variance) * _derivative(split, measured, self.tau)
        if self.second_derivative:
            total = total - 2 * gain * variance * _second_derivative(split, measured, self.tau2)
        return split.mean(total)


class Unsure(Consistency):
    """UNSURE: SURE for noise of unknown levels γ and σ², the multipliers of the constraint that the divergences are zero, which ascend.

    ``mean₁[(Ax̂ − y)² + (γy + σ²)(2 ∂(Ax̂)) − γy − σ²]``, each multiplier going up the slope of its divergence; a level of None is 0 and stays
    so. `variance`, `gain` and their running `slopes`, in the network's units, are buffers: they are saved, and no graph grows with the steps
    (deepinv keeps them in a growing graph and in no state, trap 8). Source: Tachella et al., UNSURE, ICLR 2025.
    """

    variance: Tensor
    gain: Tensor
    slopes: Tensor

    def __init__(
        self,
        sigma: float | None,
        gain: float | None = None,
        tau: float = 1e-2,
        step_sizes: tuple[float, float] = (1e-4, 1e-4),
        momenta: tuple[float, float] = (0.9, 0.9),
    ) -> None:
        super().__init__()
        self.tau = tau
        self.register_buffer("variance", torch.tensor(float(sigma or 0.0) ** 2))
        self.register_buffer("gain", torch.tensor(float(gain or 0.0)))
        self.register_buffer("slopes", torch.zeros(2))
        self.step_sizes = (step_sizes[0] if sigma is not None else 0.0, step_sizes[1] if gain is not None else 0.0)
        self.momenta = momenta

    def forward(self, split: Split) -> Tensor:
        measured = split.physics.A(split.x)
        derivative = _derivative(split, measured, self.tau)
        weight = self.gain * split.y + self.variance
        value = split.mean((measured - split.y) ** 2 + weight * (2 * derivative - 1))
        if torch.is_grad_enabled():
            slopes = torch.stack([split.mean(derivative.detach()), split.mean(split.y * derivative.detach())])
            self._ascend(split.over_all(2 * slopes))
        return value

    @torch.no_grad()
    def _ascend(self, slopes: Tensor) -> None:
        # new tensors: the value that was just returned still needs the old levels for its gradient
        kept = torch.tensor(self.momenta).to(slopes.device, non_blocking=True)
        self.slopes = kept * self.slopes + (1 - kept) * slopes
        self.variance = self.variance + self.step_sizes[0] * self.slopes[0]
        self.gain = self.gain + self.step_sizes[1] * self.slopes[1]


def _per_entry(value: Tensor, split: Split) -> Tensor:
    """A metric's mean over all entries → over those of M₁, as deepinv normalises it."""
    return value.mean() / entries(split.mask, split.share)


def _levels(noise: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gain γ and variance σ² of a Gaussian, Poisson or Poisson–Gaussian noise model, as they multiply y."""
    none = torch.zeros((), device=y.device)
    gain = level(noise.gain, y) if isinstance(noise, (PoissonNoise, PoissonGaussianNoise)) else none
    variance = level(noise.sigma, y) ** 2 if isinstance(noise, (GaussianNoise, PoissonGaussianNoise)) else none
    return gain, variance


def _derivative(split: Split, measured: Tensor, tau: float) -> Tensor:
    """An estimate of ∂(Ax̂)ᵢ/∂yᵢ, shape (B, …): b (Ax̂(y + τb) − Ax̂(y)) / τ with random signs b on M₁."""
    signs = split.mask * (2 * (uniform(measured, split.rng) < 0.5).to(measured.dtype) - 1)
    return signs * (split.measure(split.fed + tau * signs) - measured) / tau


def _second_derivative(split: Split, measured: Tensor, tau: float) -> Tensor:
    """An estimate of ∂²(Ax̂)ᵢ/∂yᵢ², shape (B, …), by a probe whose third moment is 1."""
    p = THIRD_MOMENT
    often = uniform(measured, split.rng) < p
    probe = split.mask * torch.where(often, -(((1 - p) / p) ** 0.5), (p / (1 - p)) ** 0.5)
    return probe * (split.measure(split.fed + tau * probe) + split.measure(split.fed - tau * probe) - 2 * measured) / tau**2
