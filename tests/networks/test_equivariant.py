"""Networks that are equivariant by construction: f(T_g x) = T_g f(x), and so f(y, A T_g) = T_g⁻¹ f(y, A), without averaging."""

from __future__ import annotations

import copy

import pytest
import torch
from deepinv.loss import MCLoss
from deepinv.models import ArtifactRemoval, UNet
from deepinv.physics import MRI, Inpainting
from deepinv.physics.generator import BernoulliSplittingMaskGenerator

from es_cli.networks.equivariant import CircularCNN, EquivariantUNet
from es_cli.networks.group_convolution import ELEMENTS, GroupConv2d
from es_cli.splitting.consistency import Measured
from es_cli.splitting.group import Batch, named_group
from es_cli.splitting.masks import draw_split, sampling_mask
from es_cli.splitting.objective import EquivariantSplitting, Pass
from es_cli.splitting.unrolled import DataConsistentMoDL
from es_cli.splitting.virtual import VirtualOperator

TOLERANCE = 1e-5


def images(batch=2, channels=1, size=16):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(5))


def trained(network, channels=1):
    """The network after a few steps: equivariance must not hang on how weights were drawn."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    for _ in range(25):
        optimizer.zero_grad()
        (network(images(channels=channels)) - images(channels=channels).relu()).square().mean().backward()
        optimizer.step()
    return network.eval()


def defect(network, element, x):
    """How far f(T_g x) is from T_g f(x), in units of how much what the network adds to its input varies."""
    with torch.no_grad():
        varies = (network(x) - x).std()
        assert varies > 0.01, "a network of dead layers commutes with everything"
        return (network(element.act(x)) - element.act(network(x))).abs().max() / varies


def unet(**kwargs):
    torch.manual_seed(0)
    return EquivariantUNet(**{"in_channels": 1, "out_channels": 1, "channels_per_scale": (16, 16, 32), **kwargs})


@pytest.mark.parametrize("make", [unet, lambda **kwargs: CircularCNN(channels=32, **kwargs)], ids=["unet", "cnn"])
@pytest.mark.parametrize("group", ["D4", "C4", "reflections"])
def test_commutes_with_every_element_of_its_group(make, group):
    network = trained(make(group=group))
    assert max(defect(network, element, images()) for element in named_group(group, (1, 16, 16)).elements()) < TOLERANCE


def test_circular_padding_and_complex_images_keep_it():
    network = trained(unet(in_channels=2, out_channels=2, circular_padding=True), channels=2)
    assert max(defect(network, element, images(channels=2)) for element in named_group("D4", (2, 16, 16)).elements()) < TOLERANCE


def test_a_plain_network_fails_the_same_test():
    network = trained(UNet(1, 1, channels_per_scale=[8, 16, 16], batch_norm=False))
    assert min(defect(network, element, images()) for element in named_group("D4", (1, 16, 16)).elements()[1:]) > 100 * TOLERANCE


def test_a_network_of_turns_alone_does_not_reflect():
    network, elements = trained(unet(group="C4")), named_group("D4", (1, 16, 16)).elements()
    assert sorted(bool(defect(network, element, images()) < TOLERANCE) for element in elements) == [False] * 4 + [True] * 4


@pytest.mark.parametrize("group", ["trivial", "D4"])
def test_circular_cnn_commutes_with_every_shift(group):
    network = trained(CircularCNN(channels=32, dilations=(1, 2, 4), group=group))
    shifts = named_group("shifts", (1, 16, 16)).draw(5, seed=0)
    assert max(defect(network, shift, images()) for shift in shifts) < TOLERANCE
    assert defect(trained(unet()), shifts[0], images()) > 100 * TOLERANCE


@pytest.mark.parametrize("group", list(ELEMENTS))
def test_each_convolution_turns_a_field_as_its_elements_say(group):
    """Against the actions of the project's own groups: a lifted field's copy g is the image convolved with the filter moved by g, and moving
    the image moves pixels and permutes copies, in the same way for every map and layer."""
    elements = named_group(group, (1, 8, 8)).elements()
    torch.manual_seed(1)
    lifting, conv, project = GroupConv2d(1, 1, group, lifting=True), GroupConv2d(1, 1, group), GroupConv2d(1, 1, group, projecting=True)
    x = images(batch=1, size=8)
    filters = [w for w in lifting.expanded()[0]]
    assert all(any(torch.equal(w, g.act(lifting.weight[:, :, 0])[0]) for w in filters) for g in elements)
    with torch.no_grad():
        still = lifting(x)
        for g in elements:
            moved = g.inverse(lifting(g.act(x)))
            # one permutation of the copies, the same before and after a group convolution
            order = [next(j for j in range(len(elements)) if torch.allclose(moved[:, i], still[:, j], atol=1e-6)) for i in range(len(elements))]
            assert sorted(order) == list(range(len(elements)))
            assert torch.allclose(g.inverse(conv(lifting(g.act(x)))), conv(still)[:, order], atol=1e-6)
            assert torch.allclose(g.inverse(project(lifting(g.act(x)))), project(still), atol=1e-6)


@pytest.mark.parametrize("kind", ["Inpainting", "MRI"])
@pytest.mark.parametrize("wrap", [ArtifactRemoval, lambda net: DataConsistentMoDL(net, 2)], ids=["artifact removal", "unrolled"])
def test_reconstructor_of_an_equivariant_denoiser_is_equivariant_in_y_and_a(kind, wrap):
    """f(y, A T_g) = T_g⁻¹ f(y, A), so that Reynolds averaging changes nothing and `transforms: none` loses nothing at test."""
    physics, y, channels = problem(kind)
    network = wrap(trained(unet(in_channels=channels, out_channels=channels), channels))
    plain = wrap(trained(UNet(channels, channels, channels_per_scale=[4, 8], batch_norm=False), channels))
    for element in named_group("D4", (channels, 16, 16)).elements()[1:]:
        g = Batch([element] * len(y))
        with torch.no_grad():
            moved, still = network(y, VirtualOperator(physics, g, True)), network(y, physics)
            assert (moved - element.inverse(still)).abs().max() < TOLERANCE
            assert (plain(y, VirtualOperator(physics, g, True)) - element.inverse(plain(y, physics))).abs().max() > TOLERANCE


def test_the_loss_of_equivariant_splitting_does_not_depend_on_g():
    physics, y, _ = problem("Inpainting")
    splitter = BernoulliSplittingMaskGenerator(tuple(y.shape[1:]), split_ratio=0.7)
    group = named_group("D4", (1, 16, 16))
    loss = EquivariantSplitting(group, splitter, Measured(MCLoss()), MCLoss())
    mask = draw_split(splitter, y.shape, sampling_mask(physics), 5)
    network = ArtifactRemoval(unet().eval())
    with torch.no_grad():
        values = torch.stack([loss.value(Pass(network, physics, y, None, 0), mask, [g] * len(y)) for g in group.elements()])
    assert (values - values[0]).abs().max() < TOLERANCE * values[0]


def problem(kind, size=16):
    rng = torch.Generator().manual_seed(3)
    channels = 2 if kind == "MRI" else 1
    mask = (torch.rand(size, size, generator=rng) < 0.6).float()
    physics = MRI(mask=mask) if kind == "MRI" else Inpainting((1, size, size), mask=mask[None])
    return physics, physics.A(torch.rand(2, channels, size, size, generator=rng)), channels


def test_weights_are_expanded_once_at_evaluation_and_again_after_any_change(monkeypatch):
    network, x, calls = unet().eval(), images(), []
    inner = GroupConv2d.expanded
    monkeypatch.setattr(GroupConv2d, "expanded", lambda self: calls.append(1) or inner(self))
    convolutions = sum(isinstance(m, GroupConv2d) for m in network.modules())

    def made():
        calls.clear()
        with torch.inference_mode():
            out = network(x)
        return out, len(calls)

    first, count = made()
    assert count == convolutions
    again, count = made()
    assert count == 0 and torch.equal(first, again)
    with torch.no_grad():  # as the moving average does
        torch._foreach_lerp_(list(network.parameters()), [torch.ones_like(p) for p in network.parameters()], 0.01)
    changed, count = made()
    assert count == convolutions and not torch.equal(changed, first)
    assert torch.allclose(changed, unet_of(network)(x))


def unet_of(network):
    fresh = unet().eval()
    fresh.load_state_dict(network.state_dict())
    return fresh


def test_gradients_flow_after_evaluation_and_copies_are_their_own():
    """Trap 21: copies, as EMA and deepcopy make them, work, and share nothing."""
    network = unet().eval()
    with torch.inference_mode():
        before = network(images()).clone()
    twin = copy.deepcopy(network)
    network(images()).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        assert torch.allclose(twin(images()), before)
        assert torch.equal(network(images()), images())


def test_compute_is_that_of_a_plain_unet_and_weights_an_eighth():
    """Multiplications of one forward pass, counted; the README's ratio of times follows from them."""
    from torch.utils.flop_counter import FlopCounterMode

    ours, plain = unet(channels_per_scale=(16, 32, 32)), UNet(1, 1, channels_per_scale=[16, 32, 32], batch_norm=False)
    counts = []
    for network in (ours, plain):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(images())
        counts.append(counter.get_total_flops())
    assert counts[0] <= 1.2 * counts[1]
    weights = [sum(p.numel() for p in network.parameters()) for network in (ours, plain)]
    assert 7 < weights[1] / weights[0] < 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: unet(channels_per_scale=(12, 16)), "12 channels are no multiple of 8"),
        (lambda: unet(channels_per_scale=(8,)), "two scales"),
        (lambda: unet(out_channels=2), "residual"),
        (lambda: unet(group="D8"), "must be one of trivial, reflections, C4, D4"),
        (lambda: unet()(images(size=18)), "18 × 18 pixels.*multiples of 4"),
        (lambda: CircularCNN(dilations=(0,)), "above 0"),
        (lambda: GroupConv2d(1, 1, "D4", kernel_size=2), "odd size"),
    ],
)
def test_what_cannot_be_equivariant_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_images_that_are_not_square_pass():
    assert unet()(torch.zeros(1, 1, 8, 16)).shape == (1, 1, 8, 16)
    network = trained(unet(group="reflections"))
    x = torch.randn(1, 1, 8, 16)
    assert max(defect(network, element, x) for element in named_group("reflections", (1, 8, 16)).elements()) < TOLERANCE
