"""Unrolled algorithms of deepinv around a denoiser."""

from __future__ import annotations

import copy

import pytest
import torch
from deepinv.models import MoDL, UNet
from deepinv.physics import MRI, Inpainting

from es_cli.networks.equivariant import EquivariantUNet
from es_cli.splitting.group import Batch, named_group
from es_cli.splitting.unrolled import ALGORITHMS, NEEDS_GRADIENT, Unrolled
from es_cli.splitting.virtual import VirtualOperator


def problem(kind):
    rng = torch.Generator().manual_seed(3)
    channels = 2 if kind == "MRI" else 1
    mask = (torch.rand(16, 16, generator=rng) < 0.6).float()
    physics = MRI(mask=mask) if kind == "MRI" else Inpainting((1, 16, 16), mask=mask[None])
    return physics, physics.A(torch.rand(2, channels, 16, 16, generator=rng)), channels


def denoiser(channels, kind=EquivariantUNet):
    torch.manual_seed(0)
    extra = {"batch_norm": False} if kind is UNet else {}
    return kind(channels, channels, channels_per_scale=(16, 16), **extra)


@pytest.mark.parametrize("kind", ["Inpainting", "MRI"])
@pytest.mark.parametrize(("algorithm", "g_first"), [(a, first) for a in ALGORITHMS for first in (False, True) if not (first and a in NEEDS_GRADIENT)])
def test_two_iterations_train_and_are_equivariant_with_an_equivariant_denoiser(kind, algorithm, g_first):
    physics, y, channels = problem(kind)
    network = Unrolled(denoiser(channels), algorithm, num_iter=2, g_first=g_first)
    image = network(y, physics)
    image.square().mean().backward()
    untouched = {name for name, p in network.named_parameters() if p.grad is None}
    assert all("g_param" in name for name in untouched)  # this denoiser does not ask for a noise level
    for element in named_group("D4", (channels, 16, 16)).elements()[1::3]:
        with torch.no_grad():
            moved = network(y, VirtualOperator(physics, Batch([element] * 2), True))
        assert torch.allclose(moved, element.inverse(image), atol=1e-5)


def test_hqs_is_modl():
    """deepinv's MoDL is HQS with the same weights in every iteration."""
    physics, y, _ = problem("MRI")
    with torch.no_grad():
        assert torch.allclose(Unrolled(denoiser(2), "HQS", 3)(y, physics), MoDL(denoiser(2), 3)(y, physics), atol=1e-6)


def test_denoiser_first_ends_nearer_to_the_measurements():
    physics, y, _ = problem("Inpainting")
    with torch.no_grad():
        far, near = (physics.A(Unrolled(denoiser(1, UNet), "HQS", 2, g_first=first, stepsize=10.0)(y, physics)) - y for first in (False, True))
    assert near.norm() < far.norm()


def test_iterations_may_have_weights_of_their_own():
    shared, own = (Unrolled(denoiser(1), num_iter=3, shared=shared) for shared in (True, False))
    count = sum(p.numel() for p in denoiser(1).parameters())
    assert [sum(p.numel() for p in n.parameters()) for n in (shared, own)] == [count + 6, 3 * count + 6]
    physics, y, _ = problem("Inpainting")
    own(y, physics).sum().backward()
    grads = [prior.denoiser.project.weight.grad for prior in own.algorithm.prior]
    assert not torch.allclose(grads[0], grads[1])


def test_what_is_trained_is_what_is_asked_for():
    network = Unrolled(denoiser(1), "DRS", 2, trainable_params=["stepsize", "beta"])
    trained = {name.split(".")[2] for name, p in network.named_parameters() if "params_algo" in name and p.requires_grad}
    assert trained == {"stepsize", "beta"}


def test_copies_are_independent_and_states_load():
    """Trap 21: what EMA and deepcopy do."""
    physics, y, _ = problem("Inpainting")
    network = Unrolled(denoiser(1), "ADMM", 2)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        before = twin(y, physics)
        for parameter in network.parameters():
            parameter.mul_(0.5)
        assert torch.equal(twin(y, physics), before) and not torch.equal(network(y, physics), before)
        network.load_state_dict(twin.state_dict())
        assert torch.equal(network(y, physics), before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"algorithm": "XYZ"}, "must be one of HQS, PGD"),
        ({"trainable_params": ["sigma"]}, "takes beta, g_param, lambda_reg, stepsize, got sigma"),
        ({"algorithm": "PGD", "g_first": True}, "gradient of the prior"),
    ],
)
def test_what_an_algorithm_does_not_know_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Unrolled(denoiser(1), **given)
