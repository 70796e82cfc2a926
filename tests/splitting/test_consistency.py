"""Noise-aware consistency terms: in expectation each is the error against the noiseless measurement, plus a constant that is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from deepinv.loss import MCLoss, R2RLoss, SureGaussianLoss
from deepinv.physics import GammaNoise, GaussianNoise, Inpainting, PoissonGaussianNoise, PoissonNoise
from deepinv.physics.generator import BernoulliSplittingMaskGenerator
from torch import nn

from es_cli.splitting.averaging import TestRule, average
from es_cli.splitting.consistency import Measured, Recorrupted, Split, Stein, Unsure
from es_cli.splitting.group import named_group
from es_cli.splitting.noise import level, noise_of_one, rescaled
from es_cli.splitting.objective import EquivariantSplitting, Objective, Pass
from es_cli.streams import generator

SIZE, DRAWS, BATCHES = 5, 500, 20
ALPHA = 0.3
NOISE = {
    "gaussian": GaussianNoise(0.2),
    "poisson": PoissonNoise(0.1),
    "gamma": GammaNoise(8.0),
    "poisson-gaussian": PoissonGaussianNoise(gain=0.1, sigma=0.15),
}


class Linear(nn.Module):
    """A linear reconstructor: a convolution of Aᵀy; `made` keeps its images."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        self.made = []

    def forward(self, y, physics):
        self.made.append(self.conv(physics.A_adjoint(y)))
        return self.made[-1]


def operator():
    rng = generator(1)
    mask = (torch.rand(1, SIZE, SIZE, generator=rng) < 0.8).float()
    return Inpainting((1, SIZE, SIZE), mask=mask), 0.4 + torch.rand(1, 1, SIZE, SIZE, generator=rng)


def splitter(ratio=0.6):
    return BernoulliSplittingMaskGenerator((1, SIZE, SIZE), split_ratio=ratio)


def constant_of(term, noise, u, inside):
    """The variance of what the image is compared with, over the part of y that was fed: what a term adds to the error."""
    if not isinstance(term, Recorrupted):
        return 0.0
    variance = {
        GaussianNoise: lambda: torch.full_like(u, float(noise.sigma) ** 2),
        PoissonNoise: lambda: float(noise.gain) * u,
        GammaNoise: lambda: u**2 / float(noise.l),
    }[type(noise)]()
    return float((inside * variance).sum() / inside.sum()) / ALPHA


def worst_deviation(term, noise):
    """How far loss − (error against the noiseless measurement + constant), and its gradient, are from 0 on average, in standard errors."""
    physics, x = operator()
    physics.noise_model = noise
    network = Linear()
    u = physics.A(x)
    group = named_group("D4", (1, SIZE, SIZE))
    element = group.elements()[3:4] * DRAWS
    one = splitter().step(1)["mask"] * physics.mask
    mask = one.expand(DRAWS, -1, -1, -1)
    loss = EquivariantSplitting(group, None, term, None)
    rows = []
    for batch in range(BATCHES):
        torch.manual_seed(batch)
        y = physics.mask * noise(u.expand(DRAWS, -1, -1, -1) + (1 - physics.mask))
        network.made = []
        value = loss.value(Pass(network, physics, y, None, seed=batch), mask, element)
        error = (mask * (physics.A(element[0].act(network.made[0])) - u) ** 2).sum() / mask.sum()
        rest = value - error - constant_of(term, noise, u, one)
        gradient = torch.autograd.grad(rest, network.conv.weight)[0]
        rows.append(torch.cat([rest.detach().view(1), gradient.flatten()]))
    table = torch.stack(rows)
    return float((table.mean(0).abs() / (table.std(0) / BATCHES**0.5)).max())


RIGHT = [
    ("gaussian", lambda: Recorrupted(nn.MSELoss(), ALPHA)),
    ("poisson", lambda: Recorrupted(nn.MSELoss(), ALPHA)),
    ("gamma", lambda: Recorrupted(nn.MSELoss(), ALPHA)),
    ("gaussian", lambda: Stein()),
    ("poisson", lambda: Stein()),
    ("poisson-gaussian", lambda: Stein(second_derivative=True)),
]


@pytest.mark.parametrize(("noise", "term"), RIGHT, ids=lambda v: v if isinstance(v, str) else type(v()).__name__)
def test_term_and_its_gradient_are_unbiased(noise, term):
    assert worst_deviation(term(), NOISE[noise]) < 4.5


class WrongFactor(Recorrupted):
    def forward(self, split):
        self.alpha, kept = 1.3 * self.alpha, self.alpha
        value = super().forward(split)
        self.alpha = kept
        return value


class UnmaskedTarget(Recorrupted):
    """deepinv 0.5.0, trap 3."""

    def forward(self, split):
        target = (split.y - (1 - self.alpha) * split.fed) / self.alpha
        return self.metric(split.physics.A(split.x), target) / split.mask.mean()


class UnmaskedVariance(Stein):
    def forward(self, split):
        return super().forward(replace(split, mask=torch.ones_like(split.mask)))


class AnotherSplit(Stein):
    """deepinv 0.5.0, trap 2: the probe meets a split of its own."""

    def forward(self, split):
        other, measured = split.mask.flip(-1), split.physics.A(split.x)
        there = split.measure(other * split.fed)
        return super().forward(replace(split, measure=lambda fed: measured + split.measure(other * fed) - there))


class Naive(Measured):
    def __init__(self):
        super().__init__(MCLoss())


WRONG = [lambda: WrongFactor(nn.MSELoss(), ALPHA), lambda: UnmaskedTarget(nn.MSELoss(), ALPHA), UnmaskedVariance, AnotherSplit, Naive]


@pytest.mark.parametrize("term", WRONG, ids=["factor", "unmasked target", "unmasked variance", "another split", "noise ignored"])
def test_a_mutation_is_noticed(term):
    assert worst_deviation(term(), NOISE["gaussian"]) > 8


def test_prediction_term_is_unbiased_under_recorruption():
    """It compares with entries that were not fed in, whose noise is independent: the error plus σ²."""
    physics, x = operator()
    physics.noise_model = NOISE["gaussian"]
    network, u = Linear(), physics.A(x)
    loss = EquivariantSplitting(named_group("trivial", x.shape), splitter(), Recorrupted(nn.MSELoss(), ALPHA), MCLoss(), weights=(0.0, 1.0))
    mask = splitter().step(1)["mask"].expand(DRAWS, -1, -1, -1) * physics.mask
    rest = physics.mask - mask
    differences = []
    for batch in range(BATCHES):
        torch.manual_seed(batch)
        y = physics(x.expand(DRAWS, -1, -1, -1))
        network.made = []
        value = loss.value(Pass(network, physics, y, None, batch), mask, loss.group.elements() * DRAWS)
        error = (rest * (physics.A(network.made[0]) - u) ** 2).sum() / rest.sum()
        differences.append((value - error - float(physics.noise_model.sigma) ** 2).detach())
    found = torch.stack(differences)
    assert found.mean().abs() < 4.5 * found.std() / BATCHES**0.5


def whole(physics, y, x, fed=None, network=None):
    """A split that gives everything to the network."""
    ones = torch.ones_like(y)
    network = network or Linear()
    return Split(ones, y, y if fed is None else fed, physics, x, physics.noise_model, lambda other: physics.A(network(other, physics)), generator(5))


def test_recorruption_equals_deepinvs_without_a_split():
    physics, x = operator()
    y, fed, made = (torch.rand(3, 1, SIZE, SIZE, generator=generator(i)) for i in (1, 2, 3))
    theirs = R2RLoss(alpha=ALPHA)
    model = nn.Module()
    model.get_corruption = lambda: fed
    assert torch.allclose(Recorrupted(nn.MSELoss(), ALPHA)(whole(physics, y, made, fed)), theirs(x_net=made, y=y, physics=physics, model=model))


def test_stein_equals_deepinvs_without_a_split_in_the_mean_over_probes():
    physics, _ = operator()
    physics.noise_model = GaussianNoise(0.2)
    y, network = torch.rand(4000, 1, SIZE, SIZE, generator=generator(1))[:1].expand(4000, -1, -1, -1), Linear()
    x = network(y, physics).detach()
    theirs = SureGaussianLoss(sigma=0.2, tau=1e-2, rng=generator(7))(y=y, x_net=x, physics=physics, model=network).detach()
    ours = Stein()(whole(physics, y, x, network=network)).detach()
    assert (ours - theirs.mean()).abs() < 5 * theirs.std() / len(y) ** 0.5


def test_unsure_climbs_towards_the_slope_and_lives_in_the_objective():
    physics, x = operator()
    y, network = physics.A(x).expand(200, -1, -1, -1), Linear()
    term = Unsure(0.1, step_sizes=(0.5, 0.0))
    derivative = network.conv.weight[0, 0, 1, 1].item()  # of each measured entry with respect to itself
    term(whole(physics, y, network(y, physics), network=network))
    inside = float(physics.mask.mean())
    assert torch.isclose(term.slopes[0], torch.tensor(0.1 * 2 * derivative * inside), atol=2e-3)
    assert torch.isclose(term.variance, 0.01 + 0.5 * term.slopes[0])
    objective = Objective(network, [("es", 1.0, EquivariantSplitting(named_group("trivial", x.shape), splitter(), term, MCLoss()))])
    assert set(objective.learned()) == {"0.consistency.variance", "0.consistency.gain", "0.consistency.slopes"}
    kept = {name: value + 1 for name, value in objective.learned().items()}
    objective.restore(kept)
    assert torch.equal(term.variance, kept["0.consistency.variance"])


def test_trap_8_no_graph_grows_with_the_steps_of_unsure():
    physics, x = operator()
    term = Unsure(0.1, gain=0.1)
    loss = EquivariantSplitting(named_group("D4", x.shape), splitter(), term, MCLoss())
    network = Linear()
    for step in range(3):
        loss(Pass(network, physics, physics.A(x), None, step)).backward()
        assert not any(buffer.requires_grad for buffer in term.buffers())
    before = term.variance.clone()
    with torch.no_grad():
        loss(Pass(network, physics, physics.A(x), None, 9))
    assert torch.equal(term.variance, before)  # looking at a loss teaches nothing


def test_trap_7_sigma_of_each_sample_multiplies_its_sample():
    """Also where the batch is as large as the image is wide."""
    sigma = torch.linspace(0.1, 0.5, SIZE)
    y = torch.zeros(SIZE, 1, SIZE, SIZE)
    noise = GaussianNoise(sigma=sigma)
    fed = Recorrupted(nn.MSELoss(), 0.5).feed(y, noise, generator(3))
    unit = Recorrupted(nn.MSELoss(), 0.5).feed(y, GaussianNoise(1.0), generator(3))
    assert torch.allclose(fed, unit * sigma.view(-1, 1, 1, 1))
    assert level(noise.sigma, y).shape == (SIZE, 1, 1, 1)
    assert torch.equal(noise_of_one(noise, 2, SIZE).sigma, sigma[2:3])


def test_rescaled_noise_is_that_of_the_rescaled_measurement():
    """The statistics of y / s under the noise of y equal those under the rescaled noise of x / s."""
    scale, x = torch.tensor([4.0]), torch.full((200_000,), 3.0)
    for noise in NOISE.values():
        torch.manual_seed(0)
        y, ours = noise(x[None]) / scale, rescaled(noise, scale)(x[None] / scale)
        assert torch.allclose(y.mean(), ours.mean(), rtol=0.02)
        assert torch.allclose(y.std(), ours.std(), rtol=0.03)


def test_trap_1_recorruption_works_inside_a_split_and_at_test():
    """deepinv crashes in training, and takes 200 calls at test."""
    physics, x = operator()
    physics.noise_model = GaussianNoise(0.1)
    y, network = physics(x.expand(3, -1, -1, -1)), Linear()
    group, term = named_group("D4", x.shape), Recorrupted(nn.MSELoss(), ALPHA)
    value = EquivariantSplitting(group, splitter(), term, MCLoss())(Pass(network, physics, y, None, 1))
    assert torch.isfinite(value)
    rule = TestRule(None, tuple(group.elements()))
    assert rule.network_calls == 8
    made = average(network, y, physics, rule, group, consistency=term, noise=physics.noise_model, seed=2)
    bare = average(network, y, physics, rule, group)
    assert not torch.allclose(made, bare)
    alone = average(network, y[1:2], physics, rule, group, consistency=term, noise=physics.noise_model, seed=2, max_batch=3)
    assert torch.allclose(alone[0], made[1], atol=1e-6)


@pytest.mark.parametrize("observed", [1, 2])
def test_trap_6_few_entries_and_extreme_ratios_give_no_nan(observed):
    _, x = operator()
    mask = torch.zeros(1, SIZE, SIZE)
    mask.view(-1)[:observed] = 1
    physics = Inpainting((1, SIZE, SIZE), mask=mask, noise_model=GaussianNoise(0.1))
    for ratio in (0.0, 1.0):
        for term in (Measured(MCLoss()), Recorrupted(nn.MSELoss(), ALPHA), Stein(), Unsure(0.1)):
            loss = EquivariantSplitting(named_group("D4", x.shape), splitter(ratio), term, MCLoss())
            assert torch.isfinite(loss(Pass(Linear(), physics, physics(x), None, 3)))


def test_scale_divides_the_noise_that_a_loss_brings():
    physics, _ = operator()
    own = Stein(own_noise=GaussianNoise(0.2))
    assert torch.allclose(own.noise(physics, torch.tensor([2.0, 4.0])).sigma, torch.tensor([0.1, 0.05]))
    assert own.noise(physics, None) is own.own_noise
    assert Stein().noise(physics, torch.tensor([2.0])) is physics.noise_model
