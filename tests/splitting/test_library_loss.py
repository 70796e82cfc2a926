"""Deepinv's losses as terms of an objective, against deepinv itself and against sums worked out by hand."""

from __future__ import annotations

import pytest
import torch
from deepinv.loss import EILoss, MCLoss, MOILoss, R2RLoss, SplittingLoss, SureGaussianLoss, SurePGLoss
from deepinv.models import ArtifactRemoval
from deepinv.physics import MRI, CompressedSensing, Denoising, GaussianNoise, Inpainting, PoissonGaussianNoise, ZeroNoise
from deepinv.physics.generator import BernoulliSplittingMaskGenerator, GaussianMaskGenerator

from es_cli.splitting.actions import turn_and_flip
from es_cli.splitting.consistency import Measured
from es_cli.splitting.group import FiniteGroup, named_group
from es_cli.splitting.library_loss import LibraryLoss, SeededSplits, quick_to_clone
from es_cli.splitting.masks import Splitter, sampling_mask, split_axes
from es_cli.splitting.objective import EquivariantSplitting, Objective, Pass
from es_cli.splitting.transforms import GroupTransform
from es_cli.splitting.virtual import with_noise
from es_cli.streams import reseed, stream_seed

SIZE = 8


class Small(torch.nn.Module):
    """A network that is neither linear nor equivariant."""

    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(1)
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, sigma=None):
        return x + torch.tanh(self.conv(x))


def problem(kind, batch=3):
    rng = torch.Generator().manual_seed(3)
    channels = 2 if kind == "MRI" else 1
    x = torch.rand(batch, channels, SIZE, SIZE, generator=rng)
    mask = (torch.rand(SIZE, SIZE, generator=rng) < 0.6).float()
    physics = {
        "Inpainting": lambda: Inpainting((1, SIZE, SIZE), mask=mask[None]),
        "MRI": lambda: MRI(mask=mask),
        "Denoising": lambda: Denoising(ZeroNoise()),
        "CompressedSensing": lambda: CompressedSensing(m=20, img_size=(1, SIZE, SIZE), rng=torch.Generator().manual_seed(0)),
    }[kind]()
    return physics, physics.A(x), ArtifactRemoval(Small(channels))


def splits(y, ratio=0.7):
    splitter = Splitter(BernoulliSplittingMaskGenerator(tuple(y.shape[1:]), split_ratio=ratio), split_axes(None, y.ndim))
    return SeededSplits(splitter, tuple(y.shape[1:]))


def gradient(network, value):
    network.zero_grad()
    value.backward()
    return network.backbone_net.conv.weight.grad.clone()


def quarter_turn():
    return GroupTransform(FiniteGroup([turn_and_flip(1)]))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", ["Inpainting", "MRI", "Denoising", "CompressedSensing"])
def test_splitting_alone_equals_deepinvs_under_the_same_mask(kind, normalize):
    physics, y, network = problem(kind)
    ours = LibraryLoss(SplittingLoss(mask_generator=splits(y), normalize_loss=normalize))
    value = ours(Pass(network, physics, y, None, 5))
    found = gradient(network, value)

    theirs = SplittingLoss(mask_generator=splits(y), normalize_loss=normalize)
    reseed(theirs, stream_seed(5, "loss", 1))
    adapted = theirs.adapt_model(network)
    expected = theirs(adapted(y, physics, update_parameters=True), y, physics, adapted).mean()
    assert torch.allclose(value, expected, rtol=1e-5)
    assert torch.allclose(found, gradient(network, expected), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["Inpainting", "MRI", "Denoising"])
def test_splitting_alone_is_equivariant_splitting_without_group_and_consistency(kind):
    """Both divide the mean error by the fraction that was predicted."""
    physics, y, network = problem(kind)
    loss = SplittingLoss(mask_generator=splits(y))
    value = LibraryLoss(loss)(Pass(network, physics, y, None, 5))
    reseed(loss, stream_seed(5, "loss", 1))
    mask = loss.mask_generator.step(len(y), input_mask=sampling_mask(physics))["mask"]
    group = named_group("trivial", y.shape)
    es = EquivariantSplitting(group, loss.mask_generator.splitter, None, MCLoss())
    assert torch.allclose(value, es.value(Pass(network, physics, y, None, 0), mask, group.elements() * len(y)), rtol=1e-5)


def test_no_split_is_empty():
    """On so few entries deepinv predicts nothing in one draw of four, and gives NaN (METHOD.md trap 6)."""
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 0, :3] = 1
    physics = Inpainting((1, SIZE, SIZE), mask=mask)
    y = physics.A(torch.rand(1, 1, SIZE, SIZE))
    ours = LibraryLoss(SplittingLoss(mask_generator=splits(y, 0.9)))
    network = ArtifactRemoval(Small(1))
    assert all(torch.isfinite(ours(Pass(network, physics, y, None, seed))) for seed in range(50))


def test_sum_of_losses_is_that_worked_out_by_hand():
    physics, y, network = problem("MRI")
    terms = [("mc", 1.0, LibraryLoss(MCLoss())), ("ei", 10.0, LibraryLoss(EILoss(transform=quarter_turn())))]
    total, values = Objective(network, terms)(y, physics, 3)
    x = network(y, physics)
    turned = torch.rot90(x, 1, (-2, -1))
    consistency = ((physics.A(x) - y) ** 2).mean()
    equivariance = ((network(physics.A(turned), physics) - turned) ** 2).mean()
    assert torch.allclose(values["mc"], consistency) and torch.allclose(values["ei"], equivariance, rtol=1e-5)
    assert torch.allclose(total, consistency + 10 * equivariance, rtol=1e-5)


def test_sure_and_equivariance_are_each_what_they_are_alone():
    physics, y, network = problem("Denoising")
    physics = with_noise(physics, GaussianNoise(sigma=0.1))
    sure = SureGaussianLoss(sigma=0.1, rng=torch.Generator())
    ei = EILoss(transform=quarter_turn(), apply_noise=False)
    total, values = Objective(network, [("sure", 1.0, LibraryLoss(sure)), ("ei", 2.0, LibraryLoss(ei))])(y, physics, 3)
    reseed(sure, stream_seed(3, "loss", 1))
    x = network(y, physics)
    assert torch.allclose(values["sure"], sure(y=y, x_net=x, physics=physics, model=network).mean())
    turned = torch.rot90(x, 1, (-2, -1))
    assert torch.allclose(total, values["sure"] + 2 * ((network(turned, physics) - turned) ** 2).mean(), rtol=1e-5)


@pytest.mark.parametrize("adapting", ["es", "splitting", "r2r"])
def test_beside_a_loss_that_adapts_the_model_others_see_the_bare_network_on_the_full_measurement(adapting):
    """In whichever order they stand."""
    physics, y, network = problem("Inpainting")
    physics = with_noise(physics, GaussianNoise(sigma=0.1))
    splitter = splits(y).splitter
    first = {
        "es": lambda: EquivariantSplitting(named_group("D4", y.shape), splitter, Measured(MCLoss()), MCLoss()),
        "splitting": lambda: LibraryLoss(SplittingLoss(mask_generator=splits(y))),
        "r2r": lambda: LibraryLoss(R2RLoss()),
    }[adapting]()
    bare = ("mc", 0.5, LibraryLoss(MCLoss()))
    total, values = Objective(network, [("adapting", 1.0, first), bare])(y, physics, 3)
    swapped, _ = Objective(network, [bare, ("adapting", 1.0, first)])(y, physics, 3)
    alone, _ = Objective(network, [("adapting", 1.0, first)])(y, physics, 3)
    consistency = ((physics.A(network(y, physics)) - y) ** 2).mean()
    assert torch.allclose(values["mc"], consistency)
    assert torch.allclose(total, alone + 0.5 * consistency, rtol=1e-5) and torch.allclose(total, swapped, rtol=1e-5)


def test_r2r_takes_the_noise_level_of_each_sample():
    """deepinv fails on σ of shape (B,), or scales the columns by it where B is their number (METHOD.md trap 7)."""
    physics, y, network = problem("Denoising", batch=SIZE)
    sigma = torch.linspace(0.01, 1, SIZE)
    value = LibraryLoss(R2RLoss(alpha=0.2), follows={"noise_model"})(Pass(network, with_noise(physics, GaussianNoise(sigma=sigma)), y, None, 4))
    torch.manual_seed(stream_seed(4, "loss"))
    each = sigma.view(-1, 1, 1, 1).expand_as(y)
    fed = y + torch.normal(torch.zeros_like(y), each) * (0.2 / 0.8) ** 0.5
    target = (y - fed * 0.8) / 0.2
    assert torch.allclose(value, ((network(fed, physics) - target) ** 2).mean(), rtol=1e-4)


def test_sure_takes_the_noise_level_of_each_sample():
    physics, y, network = problem("Denoising")
    loss = LibraryLoss(SureGaussianLoss(sigma=9.0, rng=torch.Generator()), follows={"sigma"})
    sigma = torch.tensor([0.1, 0.2, 0.3])
    value = loss(Pass(network, with_noise(physics, GaussianNoise(sigma=sigma)), y, None, 4))
    theirs = SureGaussianLoss(sigma=1.0, rng=torch.Generator())
    theirs.sigma2 = sigma**2
    reseed(theirs, stream_seed(4, "loss", 1))
    assert torch.allclose(value, theirs(y=y, x_net=network(y, physics), physics=physics, model=network).mean())


@pytest.mark.parametrize("loss", [lambda: SureGaussianLoss(0.1, unsure=True), lambda: SurePGLoss(0.1, 0.1, unsure=True)], ids=["gaussian", "poisson"])
def test_what_unsure_learns_is_a_buffer_without_a_graph_and_evaluation_leaves_it_alone(loss):
    """deepinv chains one graph through all steps, and no state dict holds σ (METHOD.md trap 8)."""
    physics, y, network = problem("Denoising")
    physics = with_noise(physics, PoissonGaussianNoise())
    term = LibraryLoss(loss())
    before = {key: value.clone() for key, value in term.state_dict().items()}
    assert "learned_sigma2" in before
    for seed in range(3):
        term(Pass(network, physics, y, None, seed)).backward()
    after = {key: value.clone() for key, value in term.state_dict().items()}
    assert not any(value.requires_grad for value in after.values())
    assert all(not torch.equal(after[key], value) for key, value in before.items())
    objective = Objective(network.eval(), [("unsure", 1.0, term)])
    assert torch.isfinite(objective.held_out(y, physics, [1, 2, 3])).all()
    assert all(torch.equal(value, after[key]) for key, value in term.state_dict().items())
    resumed = Objective(network.train(), [("unsure", 1.0, LibraryLoss(loss()))])
    resumed.restore(objective.learned())
    assert torch.equal(resumed(y, physics, 9)[0], objective(y, physics, 9)[0])


@pytest.mark.parametrize("make", [lambda y: SplittingLoss(mask_generator=splits(y)), lambda y: R2RLoss(alpha=0.15)], ids=["splitting", "r2r"])
def test_evaluation_is_one_call_of_the_network_and_builds_no_graph(make):
    """deepinv's models average five calls, switch gradients on by themselves and keep no corruption to compare with (METHOD.md traps 4, 23, 24)."""
    physics, y, network = problem("Inpainting", batch=2)
    physics = with_noise(physics, GaussianNoise(sigma=0.1))
    objective = Objective(network.eval(), [("loss", 1.0, LibraryLoss(make(y)))])
    calls = []
    network.backbone_net.register_forward_hook(lambda module, given, made: calls.append(made.requires_grad))
    objective.held_out(y, physics, [1, 2])
    assert calls == [False, False] and not network.training


def test_operators_are_cloned_without_changing_the_first():
    """`Physics.clone` of deepinv takes a third of a second."""
    physics, y, network = problem("MRI")
    kept = physics.mask.clone()
    clone = quick_to_clone(physics).clone()
    clone.update(mask=torch.ones(1, 2, SIZE, SIZE))
    clone.A = lambda x: x
    assert torch.equal(physics.mask, kept) and not torch.equal(clone.mask, kept)
    assert physics.A(y).shape == y.shape and clone.A(y) is y
    generator = GaussianMaskGenerator((2, SIZE, SIZE), acceleration=2)
    values = [LibraryLoss(MOILoss(physics_generator=generator))(Pass(network, physics, y, None, seed)) for seed in (1, 1, 2)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert torch.equal(physics.mask, kept)
