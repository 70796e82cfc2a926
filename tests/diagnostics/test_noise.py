"""What `es check` says of noise, for noise of known strength on pictures with detail at all scales."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from deepinv.physics import (
    MRI,
    Denoising,
    GammaNoise,
    GaussianNoise,
    Inpainting,
    PoissonGaussianNoise,
    PoissonNoise,
    Tomography,
    UniformNoise,
    ZeroNoise,
)
from inspecting_folders import columns, kspace, phased, pixels, rough
from problems import network, write_spec

from es_cli.catalog import load_spec
from es_cli.diagnostics.noise import assumed_variance, compare, fitting_noise, noise_finding
from es_cli.experiment import build_experiment

CPU = torch.device("cpu")
IMAGES = torch.from_numpy(rough(8, 48))[:, None]
AWARE = {"name": "EquivariantSplittingLoss", "consistency_loss": {"name": "R2RLoss"}}


def seeded(noise, y, seed=0):
    noise.rng_manual_seed(seed) if noise.rng is not None else torch.manual_seed(seed)
    return noise(y)


def holds(found, sigma):
    return found.lowest <= sigma <= found.highest


def mask_of(part):
    return torch.from_numpy(pixels(48, part).astype(np.float32))


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.4])
def test_noise_on_complete_images_is_measured_by_deepinv(sigma):
    y = seeded(GaussianNoise(sigma), IMAGES)
    found = compare(y, Denoising(), ZeroNoise()).found
    assert found.method.startswith("patches") and holds(found, sigma)
    assert found.level == pytest.approx(sigma, rel=0.1, abs=0.005)


@pytest.mark.parametrize(("sigma", "part"), [(0.05, 0.3), (0.2, 0.6), (0.2, 0.3)])
def test_noise_on_some_of_the_pixels_is_measured_between_neighbours(sigma, part):
    mask = mask_of(part)
    y = seeded(GaussianNoise(sigma), IMAGES) * mask
    found = compare(y, Inpainting((1, 48, 48), mask=mask[None]), ZeroNoise()).found
    assert found.method.startswith("differences") and holds(found, sigma)
    assert found.level == pytest.approx(sigma, rel=0.35)


def test_noise_in_k_space_is_measured_where_there_is_no_signal():
    mask = columns(48, 8, 3)
    y = torch.from_numpy(kspace(phased(8, 48), sigma=0.1) * mask)
    y = torch.stack([y.real, y.imag], 1)
    found = compare(y, MRI(mask=torch.from_numpy(mask.astype(np.float32)), img_size=(2, 48, 48)), ZeroNoise()).found
    assert "k-space" in found.method and holds(found, 0.1)
    assert found.level == pytest.approx(0.1, rel=0.15)


def test_noise_of_sinograms_is_measured_along_the_detectors():
    physics = Tomography(angles=20, img_width=48, circle=False, normalize=True)
    y = seeded(GaussianNoise(0.05), physics.A(IMAGES))
    found = compare(y, physics, ZeroNoise()).found
    assert holds(found, 0.05) and found.level == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("noise", [PoissonNoise(0.05), PoissonGaussianNoise(gain=0.03, sigma=0.05), GammaNoise(30.0)])
def test_noise_that_follows_the_light_is_measured_against_its_model(noise):
    y = seeded(noise, IMAGES)
    assert compare(y, Denoising(), noise).found.level == pytest.approx(1, abs=0.15)
    if isinstance(noise, PoissonNoise):
        assert compare(y, Denoising(), PoissonNoise(0.2)).found.level == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("noise", [GaussianNoise(0.3), PoissonNoise(0.1), PoissonGaussianNoise(gain=0.1, sigma=0.2), GammaNoise(5.0)])
def test_the_variance_of_a_model_is_that_of_its_draws(noise):
    u = torch.tensor([0.5, 2.0]).view(2, 1, 1, 1).expand(2, 1, 200, 200)
    drawn = seeded(noise, u)
    expected = assumed_variance(noise, u).expand(u.shape)[:, 0, 0, 0]
    assert torch.allclose(drawn.flatten(1).var(1), expected, rtol=0.03)


def test_a_model_without_a_number_has_no_variance():
    assert assumed_variance(UniformNoise(0.1), IMAGES) is None
    assert float(assumed_variance(ZeroNoise(), IMAGES)) == 0


@pytest.fixture
def noisy(tmp_path):
    """An experiment on pictures of which 60 % of the pixels were measured with noise of deviation 0.1: what the spec says of it is given."""

    def made(sigma_said, losses="EquivariantSplittingLoss", sigma=0.1, **changes):
        mask = mask_of(0.6).numpy()
        np.save(tmp_path / "mask.npy", mask)
        y = IMAGES.numpy() + sigma * np.random.default_rng(0).normal(size=IMAGES.shape)
        np.save(tmp_path / "y.npy", (y * mask).astype(np.float32))
        physics = {"name": "Inpainting", "mask": {"file": "mask.npy"}}
        if sigma_said:
            physics["noise_model"] = {"name": "GaussianNoise", "sigma": sigma_said}
        changes = {"physics": physics, "data": {"train": {"measurements": "y.npy"}}, "losses": [losses]} | changes
        return build_experiment(load_spec(write_spec(tmp_path / "spec.yaml", **changes)), CPU)

    return made


def found_in(experiment):
    return noise_finding(experiment, quick=True)


def test_consistency_with_noisy_data_fits_the_noise(noisy):
    found = found_in(noisy(0.1))
    assert found.verdict == "doubtful" and found.reason.startswith("MCLoss fits the noise") and "R2RLoss" in found.advice
    assert found.numbers["losses_that_fit_noise"] and json.loads(json.dumps(found.numbers)) == found.numbers
    assert found_in(noisy(0.1, "MCLoss")).reason.startswith("MCLoss fits the noise")


def test_a_loss_that_knows_the_noise_is_good(noisy):
    found = found_in(noisy(0.1, AWARE))
    assert found.verdict == "good" and not found.advice and not found.numbers["losses_that_fit_noise"]
    assert found.numbers["measured"]["sigma"] == pytest.approx(0.1, rel=0.15)
    # 0.1² over the mean square of the pictures
    assert found.numbers["share_of_energy"] == pytest.approx(0.01 / float(IMAGES.square().mean() + 0.01), rel=0.1)


@pytest.mark.parametrize("said", [0.3, 0.04])
def test_a_level_that_the_data_contradict_is_doubtful_where_a_loss_relies_on_it(said, noisy):
    for loss in (AWARE, {"name": "EquivariantSplittingLoss", "consistency_loss": {"name": "SureGaussianLoss"}}, "R2RLoss", "SureGaussianLoss"):
        found = found_in(noisy(said, loss))
        assert found.verdict == "doubtful" and f"with sigma {said}" in found.reason, loss
        assert float(found.advice.partition("sigma: ")[2].partition("}")[0]) == pytest.approx(0.1, rel=0.15)


def test_a_spec_without_noise_for_noisy_data_is_doubtful(noisy):
    found = found_in(noisy(None))
    assert found.verdict == "doubtful" and "says no noise" in found.reason
    assert "GaussianNoise" in found.advice and "R2RLoss" in found.advice


@pytest.mark.parametrize("losses", [
    {"name": "EquivariantSplittingLoss", "consistency_loss": None},
    {"name": "EquivariantSplittingLoss", "consistency_loss": {"name": "SureGaussianLoss", "unsure": True, "sigma": 0.05}},
    "SplittingLoss",
])  # fmt: skip
def test_losses_that_noise_does_no_harm_need_no_level(losses, noisy):
    found = found_in(noisy(None, losses))
    assert found.verdict == "good" and "no loss fits it" in found.reason


def test_what_little_noise_there_is_may_be_fitted(noisy):
    assert found_in(noisy(None, sigma=0.0)).verdict == "good"
    assert found_in(noisy(0.005, sigma=0.005)).verdict == "good"


def test_a_weight_of_nothing_fits_nothing(noisy):
    assert not fitting_noise(noisy(0.1, {"name": "MCLoss", "weight": 0}).objective)
    silent = {"name": "EquivariantSplittingLoss", "consistency_loss": {"name": "MCLoss", "weight": 0}}
    assert not fitting_noise(noisy(0.1, silent).objective)


def test_noise_of_random_sums_cannot_be_seen_and_is_taken_as_told(tmp_path):
    matrix = np.random.default_rng(0).normal(size=(60, 256)).astype(np.float32)
    np.save(tmp_path / "matrix.npy", matrix)
    np.save(tmp_path / "y.npy", rough(6, 16).reshape(6, 256) @ matrix.T)
    physics = {"name": "SensingMatrix", "matrix": {"file": "matrix.npy"}, "img_size": [1, 16, 16], "noise_model": {"name": "GaussianNoise", "sigma": 3.0}}
    changes = {"physics": physics, "data": {"train": {"measurements": "y.npy"}}, "model": {"name": "ArtifactRemoval", "backbone_net": network(1)}}
    found = found_in(build_experiment(load_spec(write_spec(tmp_path / "spec.yaml", **changes)), CPU))
    assert found.verdict == "doubtful" and found.reason.startswith("MCLoss fits the noise")
    assert "measured" not in found.numbers
