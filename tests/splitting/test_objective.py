"""The objective against deepinv's own, under the same split and the same g."""

from __future__ import annotations

import pytest
import torch
from deepinv.loss import EquivariantSplittingLoss, MCLoss, SplittingLoss
from deepinv.models import ArtifactRemoval, EquivariantReconstructor
from deepinv.physics import MRI, Denoising, GaussianNoise, Inpainting, ZeroNoise
from deepinv.physics.generator import BernoulliSplittingMaskGenerator
from deepinv.transform import Reflect, Rotate

from es_cli.splitting.averaging import TestRule, average
from es_cli.splitting.consistency import Measured
from es_cli.splitting.group import named_group
from es_cli.splitting.masks import draw_split, sampling_mask
from es_cli.splitting.objective import EquivariantSplitting, Objective, Pass
from es_cli.splitting.virtual import with_noise
from es_cli.streams import stream_seed


class Small(torch.nn.Module):
    """A network that is neither linear nor equivariant."""

    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(1)
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, sigma=None):
        return x + torch.tanh(self.conv(x))


def problem(kind, batch=3, size=8):
    rng = torch.Generator().manual_seed(3)
    channels = 2 if kind == "MRI" else 1
    x = torch.rand(batch, channels, size, size, generator=rng)
    mask = (torch.rand(size, size, generator=rng) < 0.6).float()
    physics = {
        "Inpainting": lambda: Inpainting((1, size, size), mask=mask[None]),
        "MRI": lambda: MRI(mask=mask),
        "Denoising": lambda: Denoising(ZeroNoise()),
    }[kind]()
    return physics, physics.A(x), ArtifactRemoval(Small(channels))


def splitter(y, **kwargs):
    return BernoulliSplittingMaskGenerator(tuple(y.shape[1:]), split_ratio=0.7, **kwargs)


def loss(y, group="D4", **kwargs):
    sides = {"consistency": Measured(MCLoss()), "prediction": MCLoss()} | kwargs
    return EquivariantSplitting(named_group(group, y.shape), splitter(y), **sides)


@pytest.mark.parametrize("kind", ["Inpainting", "MRI"])
def test_value_and_gradient_equal_deepinv_under_the_same_split(kind):
    physics, y, network = problem(kind)
    mask = draw_split(splitter(y), y.shape, sampling_mask(physics), 5)
    ours = loss(y, "trivial")
    value = ours.value(Pass(network, physics, y, None, 0), mask, ours.group.elements() * len(y))
    value.backward()
    gradient = network.backbone_net.conv.weight.grad.clone()
    network.zero_grad()

    theirs = EquivariantSplittingLoss(mask_generator=splitter(y))
    adapted = theirs.adapt_model(network)
    adapted.mask_generator.step = lambda *args, **kwargs: {"mask": mask}
    adapted.train()
    x_net = adapted(y, physics, update_parameters=True)
    expected = theirs(x_net=x_net, y=y, physics=physics, model=adapted).mean()
    expected.backward()
    assert torch.allclose(value, expected, rtol=1e-5)
    assert torch.allclose(gradient, network.backbone_net.conv.weight.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["Inpainting", "MRI"])
def test_reconstruction_under_g_equals_deepinvs_equivariant_reconstructor(kind):
    """deepinv, as here, transforms the operator and undoes it on the image; each element alone, and the whole group averaged."""
    physics, y, network = problem(kind)
    transform = Rotate(n_trans=4, multiples=90, positive=True) * Reflect(n_trans=2, dim=[-1])
    theirs = EquivariantReconstructor(network, transform, transform).eval()
    group = named_group("D4", y.shape)
    ours = average(network, y, physics, TestRule(None, tuple(group.elements())), group, max_batch=5)
    with torch.no_grad():
        assert torch.allclose(ours, theirs(y, physics), atol=1e-5)


def test_random_splits_at_evaluation_are_the_mean_over_their_own_draws():
    physics, y, network = problem("Inpainting")
    group, rule = named_group("trivial", y.shape), TestRule(splits=3)
    ours = average(network, y, physics, rule, group, splitter(y), seed=9)
    singles = []
    for j in range(3):
        mask = draw_split(splitter(y), (1, *y.shape[1:]), physics.mask, stream_seed(9, "test-split", j)).expand_as(y)
        y1, physics1 = SplittingLoss.split(mask, y, physics)
        singles.append(network(y1, physics1))
    assert torch.allclose(ours, torch.stack(singles).mean(0), atol=1e-6)
    assert rule.network_calls == 3
    # a sample's image does not depend on the batch that it comes in
    assert torch.allclose(average(network, y[2:], physics, rule, group, splitter(y), seed=9), ours[2:], atol=1e-6)


@pytest.mark.parametrize("batch", [3, 1])
def test_memory_bound_does_not_change_the_average(batch):
    physics, y, network = problem("MRI", batch=batch)
    group = named_group("D4", y.shape)
    rule = TestRule(2, tuple(group.elements()))
    full = average(network, y, physics, rule, group, splitter(y), max_batch=64)
    for bound in (1, 6):
        assert torch.allclose(average(network, y, physics, rule, group, splitter(y), max_batch=bound), full, atol=1e-5)


def test_sides_can_be_switched_off_and_add_up():
    """deepinv turns `consistency_loss=None` into MCLoss (METHOD.md trap 5)."""
    physics, y, network = problem("MRI")
    values = [loss(y, **off)(Pass(network, physics, y, None, 4)) for off in ({}, {"consistency": None}, {"prediction": None})]
    assert values[1] > 0 and values[2] > 0
    assert torch.allclose(values[0], values[1] + values[2])


def test_empty_side_weighs_nothing():
    """deepinv gives NaN (METHOD.md trap 6)."""
    physics, y, network = problem("Inpainting")
    ours = loss(y)
    value = ours.value(Pass(network, physics, y, None, 0), physics.mask.expand_as(y), ours.group.elements()[:1] * len(y))
    assert torch.isfinite(value)


def test_same_seed_same_loss_and_another_seed_another():
    physics, y, network = problem("Denoising")
    objective = Objective(network, [("es", 2.0, loss(y))])
    total, terms = objective(y, physics, 7)
    assert torch.equal(total, objective(y, physics, 7)[0])
    assert not torch.equal(total, objective(y, physics, 8)[0])
    assert torch.allclose(total, 2 * terms["es"])


def test_held_out_error_is_of_the_sample_whatever_batch_it_comes_in():
    """Validation draws are keyed by the sample: order and batch size change nothing."""
    physics, y, network = problem("MRI", batch=4)
    objective = Objective(network, [("es", 1.0, loss(y))])
    seeds = [11, 12, 13, 14]
    together = objective.held_out(y, physics, seeds)
    alone = torch.cat([objective.held_out(y[i : i + 1], physics, seeds[i : i + 1]) for i in (3, 2, 1, 0)]).flip(0)
    assert torch.allclose(together, alone, rtol=1e-4)


def test_held_out_error_does_not_see_the_held_out_entries():
    """In evaluation mode deepinv's loss leaks: the averaged image has seen every pixel (METHOD.md trap 24)."""
    physics, y, network = problem("Inpainting", batch=1)
    ours = loss(y, "trivial")
    mask = draw_split(ours.splitter, y.shape, physics.mask, stream_seed(21, "split"))
    rest = physics.mask - mask
    identity = ArtifactRemoval(torch.nn.Identity())
    identity.backbone_net.forward = lambda x, sigma=None: x
    value = ours.held_out(Pass(identity, physics, y, None, 0), [21])
    # what was held out reached the network as zero, so that its error is its whole energy
    assert torch.allclose(value, ((rest * y) ** 2).sum() / rest.sum())


def test_noise_level_of_each_sample_follows_its_copies():
    """A denoiser that is told σ must be told its own sample's, whichever element it sees."""
    physics, y, _ = problem("Inpainting")
    sigmas = torch.tensor([0.1, 0.2, 0.3])
    noisy = with_noise(physics, GaussianNoise(sigma=sigmas))
    network = ArtifactRemoval(torch.nn.Identity())
    network.backbone_net.forward = lambda x, sigma=None: x + sigma.view(-1, 1, 1, 1)
    group = named_group("D4", y.shape)
    made = average(network, y, noisy, TestRule(None, tuple(group.elements())), group, max_batch=6)
    assert torch.allclose(made - y, sigmas.view(3, 1, 1, 1).expand_as(y), atol=1e-6)
