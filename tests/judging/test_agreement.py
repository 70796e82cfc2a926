"""The measured part of an image, and the nearest image that agrees with its measurements."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from deepinv.physics import GammaNoise, GaussianNoise, PoissonNoise
from operators import OPERATORS, made, random

from es_cli.errors import UsageError
from es_cli.judging.agreement import consistent, measured_part
from es_cli.splitting.operators import sampling_mask

ANY = SimpleNamespace(consistency=None)  # a reconstruction whose noise is that of its operator
ILL_POSED = {"Blur", "Blur-valid", "Downsampling", "Tomography", "Tomography-number", "Tomography-fan", "ComposedLinearPhysics", "StackedLinearPhysics", "MultiCoilMRI-3D"}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_invented_part_is_not_measured_and_the_measured_part_has_nothing_more_to_give(name, tmp_path):
    physics, x = made(name, tmp_path).physics, random(made(name, tmp_path).image.shape)
    part = measured_part(physics, x)
    rest, tolerance = x - part, 3e-2 if name in ILL_POSED else 1e-4
    assert physics.A(rest).norm() <= tolerance * physics.A(x).norm()
    assert (measured_part(physics, part) - part).norm() <= 10 * tolerance * part.norm()
    assert abs(float((part * rest).sum())) <= tolerance * float((x * x).sum()), "the parts are orthogonal"


@pytest.mark.parametrize("name", ["Inpainting", "MRI", "CompressedSensing", "MultiCoilMRI", "Downsampling-file", "SinglePixelCamera"])
def test_without_noise_the_image_measures_what_was_measured_and_keeps_its_invented_part(name, tmp_path):
    physics, x = made(name, tmp_path).physics, random(made(name, tmp_path).image.shape)
    y = physics.A(random(x.shape[1:]).flip(-1))
    found = consistent(ANY, physics, x, y)
    assert (physics.A(found) - y).norm() <= 1e-3 * y.norm()
    kept, had = found - measured_part(physics, found), x - measured_part(physics, x)
    assert (kept - had).norm() <= 1e-2 * x.norm()


@pytest.mark.parametrize("name", ["Inpainting", "MRI", "CompressedSensing", "MultiCoilMRI", "Blur"])
def test_with_noise_the_image_moves_until_its_residual_is_that_of_the_noise(name, tmp_path):
    physics, x = made(name, tmp_path).physics, random(made(name, tmp_path).image.shape)
    clean = physics.A(x)
    physics.noise_model = GaussianNoise(0.05 * float(clean.square().mean().sqrt()))
    full = torch.ones_like(clean) if sampling_mask(physics) is None else sampling_mask(physics).expand_as(clean)
    level = (full.flatten(1).sum(1) * physics.noise_model.sigma**2).sqrt()
    far = consistent(ANY, physics, x, 1.5 * clean)
    residual = (full * (physics.A(far) - 1.5 * clean)).flatten(1).norm(dim=1)
    assert torch.allclose(residual, level, rtol=5e-3)
    near = clean + 0.5 * physics.noise_model.sigma * full * torch.randn_like(clean)
    assert torch.equal(consistent(ANY, physics, x, near), x), "what agrees stays as it is"


def test_poisson_noise_allows_more_where_there_is_more_light(tmp_path):
    physics = made("Inpainting", tmp_path).physics
    physics.noise_model = PoissonNoise(gain=0.1)
    x = random((1, 16, 16)).abs() + 1
    found = consistent(ANY, physics, x, 3 * physics.A(x))
    wanted = 0.1 * physics.A(x).flatten(1).sum(1)
    assert torch.allclose((physics.A(found) - 3 * physics.A(x)).square().flatten(1).sum(1), wanted, rtol=5e-3)


def test_noise_of_unknown_size_is_refused(tmp_path):
    physics = made("Inpainting", tmp_path).physics
    physics.noise_model = GammaNoise(l=3.0)
    with pytest.raises(UsageError, match="GammaNoise is not known"):
        consistent(ANY, physics, random((1, 16, 16)), physics.A(random((1, 16, 16))))
