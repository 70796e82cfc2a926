"""Operators with parameters of their own for each sample: right for each, and never felt by the operator that they are made from."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics import MRI, Denoising, DynamicMRI, GaussianNoise, Inpainting, MultiCoilMRI, PoissonGaussianNoise, PoissonNoise
from properties import assert_adjoint

from es_cli.experiment import Scaling
from es_cli.splitting.averaging import TestRule, average
from es_cli.splitting.group import named_group
from es_cli.splitting.noise import rescaled
from es_cli.splitting.parameters import for_copies, of_one_sample, sample_parameters, with_parameters


def masks(count: int, *shape: int) -> torch.Tensor:
    drawn = (torch.rand(count, *shape, generator=torch.Generator().manual_seed(count)) < 0.5).float()
    drawn[..., 0] = 1
    return drawn


def complex_masks(count: int, *shape: int) -> torch.Tensor:
    return masks(count, 1, *shape).repeat(1, 2, *[1] * len(shape))


def coil_maps(count: int, coils: int = 3, size: int = 8) -> torch.Tensor:
    return torch.randn(count, coils, size, size, dtype=torch.complex64, generator=torch.Generator().manual_seed(count))


SAMPLED = {
    "Inpainting": (Inpainting((3, 8, 8), mask=torch.ones(3, 8, 8)), (3, 8, 8), {"mask": masks(4, 3, 8, 8)}),
    "MRI": (MRI(img_size=(8, 8)), (2, 8, 8), {"mask": complex_masks(4, 8, 8)}),
    "MRI in three dimensions": (MRI(img_size=(4, 8, 8), three_d=True), (2, 4, 8, 8), {"mask": complex_masks(4, 4, 8, 8)}),
    "DynamicMRI": (DynamicMRI(img_size=(5, 8, 8)), (2, 5, 8, 8), {"mask": complex_masks(4, 5, 8, 8)}),
    "MultiCoilMRI": (MultiCoilMRI(coil_maps=coil_maps(1), img_size=(8, 8)), (2, 8, 8), {"mask": complex_masks(4, 8, 8), "coil_maps": coil_maps(4)}),
}


@pytest.mark.parametrize("kind", SAMPLED)
def test_a_batch_is_measured_as_its_samples_alone(kind):
    physics, shape, parameters = SAMPLED[kind]
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    own = with_parameters(physics, parameters)
    y = own.A(x)
    for i in range(4):
        alone = with_parameters(physics, {name: value[i : i + 1] for name, value in parameters.items()})
        assert type(alone) is type(own)
        assert torch.allclose(y[i : i + 1], alone.A(x[i : i + 1]), atol=1e-6)
        assert torch.allclose(y[i : i + 1], of_one_sample(own, i).A(x[i : i + 1]), atol=1e-6)
        # what the first measurement does not see, the operator of everything does
        assert not torch.allclose(y[i : i + 1], physics.A(x[i : i + 1]), atol=1e-3)
    assert_adjoint(of_one_sample(own, 2), shape, tuple(y.shape[1:]))


@pytest.mark.parametrize("kind", SAMPLED)
def test_trap_16_masks_of_a_batch_do_not_stay_for_the_next(kind):
    physics, shape, parameters = SAMPLED[kind]
    before = {key: value.clone() for key, value in physics.state_dict().items()}
    own = with_parameters(physics, parameters)
    own.A(torch.randn(4, *shape))
    own.update(mask=torch.zeros_like(parameters["mask"]))
    assert physics.A(torch.randn(2, *shape)).shape[0] == 2
    assert all(torch.equal(physics.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    ("noise", "given"),
    [
        (GaussianNoise(0.5), {"sigma": torch.tensor([0.1, 0.2])}),
        (PoissonNoise(0.5, clip_positive=True), {"gain": torch.tensor([0.1, 0.2])}),
        (PoissonGaussianNoise(0.5, 0.5, clip_positive=True), {"sigma": torch.tensor([0.1, 0.2]), "gain": torch.tensor([0.3, 0.4])}),
    ],
    ids=["gaussian", "poisson", "poisson-gaussian"],
)
def test_trap_16_noise_levels_do_not_reach_the_parent(noise, given):
    physics = Denoising(noise)
    own = with_parameters(physics, given)
    own.noise_model.update_parameters(**{name: value * 7 for name, value in given.items()})
    for name in given:
        assert float(getattr(physics.noise_model, name)) == 0.5
    assert type(own.noise_model) is type(noise)
    assert getattr(own.noise_model, "clip_positive", True) and bool(getattr(own.noise_model, "normalize", True))


def test_trap_7_sigma_of_each_sample_is_that_of_its_own_noise_also_where_the_batch_is_as_wide_as_the_image():
    sigma = torch.arange(1, 9) / 10
    physics = with_parameters(Denoising(GaussianNoise(0.0)), {"sigma": sigma})
    torch.manual_seed(0)
    noise = physics(torch.zeros(8, 64, 8, 8))
    assert noise.shape == (8, 64, 8, 8)
    assert torch.allclose(noise.flatten(1).std(1), sigma, rtol=0.05)
    assert torch.allclose(noise[7].std((0, 1)), sigma[7].expand(8), rtol=0.2)


@pytest.mark.parametrize("shape", [(1,), (4, 1), (4, 1, 1, 1)])
def test_noise_levels_come_in_any_shape_that_has_one_for_each_sample(shape):
    physics = with_parameters(Denoising(), {"sigma": torch.full(shape, 0.25)})
    assert physics.noise_model.sigma.ndim == (0 if shape == (1,) else 1)
    assert physics(torch.zeros(4, 1, 8, 8)).shape == (4, 1, 8, 8)


def test_what_an_operator_does_not_have_is_no_parameter():
    with pytest.raises(ValueError, match="coils"):
        with_parameters(Denoising(), {"coils": torch.ones(1)})


@pytest.mark.parametrize(
    "noise", [GaussianNoise(0.4), PoissonNoise(0.4), PoissonGaussianNoise(0.4, 0.2)], ids=["gaussian", "poisson", "poisson-gaussian"]
)
def test_a_scaled_measurement_has_the_noise_of_its_scaled_operator(noise):
    """y / s, measured with the operator, has the mean and the variance of what the scaled operator measures of x / s."""
    physics, scale = Denoising(noise), torch.tensor([2.0, 5.0])
    x = torch.full((2, 1, 200, 200), 3.0)
    torch.manual_seed(0)
    y, scaled = Scaling("none").apply(scale, physics(x), physics)
    again = scaled(x / scale.view(2, 1, 1, 1))
    assert torch.allclose(y.flatten(1).mean(1), again.flatten(1).mean(1), rtol=0.02)
    assert torch.allclose(y.flatten(1).std(1), again.flatten(1).std(1), rtol=0.02)
    assert all(float(value) in (pytest.approx(0.4), pytest.approx(0.2)) for name, value in noise.named_buffers() if name in ("sigma", "gain"))


def test_scaling_divides_the_noise_level_that_each_sample_has():
    physics = with_parameters(Denoising(), {"sigma": torch.tensor([0.2, 0.6])})
    assert torch.allclose(rescaled(physics.noise_model, torch.tensor([2.0, 3.0])).sigma, torch.tensor([0.1, 0.2]))
    assert torch.allclose(physics.noise_model.sigma, torch.tensor([0.2, 0.6]))


def test_copies_of_a_batch_have_its_parameters_again():
    physics = with_parameters(SAMPLED["MultiCoilMRI"][0], SAMPLED["MultiCoilMRI"][2])
    copies, x = for_copies(physics, 3), torch.randn(4, 2, 8, 8)
    assert torch.equal(copies.A(x.repeat(3, 1, 1, 1)), physics.A(x).repeat(3, 1, 1, 1, 1))
    assert sample_parameters(SAMPLED["MultiCoilMRI"][0]) == {} and set(sample_parameters(physics)) == {"mask", "coil_maps"}


@pytest.mark.parametrize("kind", ["Inpainting", "MRI"])
def test_the_average_over_a_group_sees_the_mask_of_each_sample(kind):
    physics, shape, parameters = SAMPLED[kind]
    group = named_group("D4", shape)
    rule = TestRule(None, tuple(group.elements()))
    own = with_parameters(physics, parameters)
    y = own.A(torch.randn(4, *shape))

    def network(y, physics):
        return physics.A_adjoint(y) ** 3

    together = average(network, y, own, rule, group)
    alone = [average(network, y[i : i + 1], of_one_sample(own, i), rule, group) for i in range(4)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
