"""The distance between sinograms against that between the images behind them."""

from __future__ import annotations

import torch
from deepinv.loss import MCLoss

from es_cli.splitting.sinograms import SinogramMSE
from es_cli.splitting.tomography import Tomography


def test_details_of_an_image_weigh_as_much_as_its_coarse_shape():
    """Fourier slice theorem: errors of equal energy and unequal frequency are equally far, which a plain squared error is blind to."""
    physics = Tomography(angles=60, img_width=33, normalize=True)
    across = torch.arange(33.0) - 16
    window = torch.exp(-(across**2 + across[:, None] ** 2) / 80)
    waves = torch.stack([window * torch.cos(2 * torch.pi * f * across) for f in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4)])[:, None]
    sinograms = physics.A(waves / waves.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    filtered = SinogramMSE()(sinograms, torch.zeros_like(sinograms))
    plain = (sinograms**2).flatten(1).mean(1)
    assert plain.max() / plain.min() > 20
    assert filtered.max() / filtered.min() < 1.6


def test_each_angle_is_judged_alone_and_as_in_the_units_of_a_mean_squared_error():
    x, z = torch.randn(2, 3, 1, 40, 7, generator=torch.Generator().manual_seed(0))
    distance = SinogramMSE()
    alone = [distance(x[..., i : i + 1], z[..., i : i + 1]) for i in range(7)]
    assert torch.allclose(distance(x, z), torch.stack(alone).mean(0), rtol=1e-5)
    assert 0.9 < (distance(x, z) / ((x - z) ** 2).flatten(1).mean(1)).mean() < 1.1
    assert not distance(x, x).any()


def test_it_is_the_metric_of_a_loss_of_deepinv():
    physics = Tomography(angles=6, img_width=16, normalize=True)
    x = torch.rand(2, 1, 16, 16, requires_grad=True)
    loss = MCLoss(metric=SinogramMSE())(torch.zeros_like(physics.A(x.detach())), x, physics)
    loss.mean().backward()
    assert loss.shape == (2,) and x.grad is not None and x.grad.any()


def test_noise_that_is_independent_of_the_image_adds_a_constant():
    """The distance is a quadratic form (parallelogram law), so that noise of mean zero in what was measured moves no minimum."""
    a, b, noise = torch.randn(3, 2, 1, 20, 5, generator=torch.Generator().manual_seed(0))
    distance = SinogramMSE()
    both = distance(a, b + noise) + distance(a, b - noise)
    assert torch.allclose(both, 2 * distance(a, b) + 2 * distance(noise, torch.zeros_like(noise)), rtol=1e-5)
