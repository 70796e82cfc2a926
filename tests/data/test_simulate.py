"""Simulation: once, keyed by the sample, and leaving the global generator alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise, Inpainting, PoissonNoise

from es_cli.data.simulate import simulate
from es_cli.data.stacks import ArrayStack
from es_cli.errors import DataError

IMAGES = np.random.default_rng(4).random((7, 3, 8, 8)).astype(np.float32)


def noisy(own_rng: bool) -> Denoising:
    return Denoising(GaussianNoise(sigma=0.1, rng=torch.Generator().manual_seed(1) if own_rng else None))


@pytest.mark.parametrize("own_rng", [False, True])
def test_each_sample_has_noise_of_its_own(own_rng: bool) -> None:
    whole = np.stack(simulate(IMAGES, noisy(own_rng), seed=5))
    assert whole.dtype == np.float32 and whole.shape == IMAGES.shape
    np.testing.assert_array_equal(whole, simulate(IMAGES, noisy(own_rng), seed=5))
    np.testing.assert_array_equal(whole[:3], simulate(IMAGES[:3], noisy(own_rng), seed=5))
    assert not np.array_equal(whole, simulate(IMAGES, noisy(own_rng), seed=6))
    noise = whole - IMAGES
    assert abs(noise.std() - 0.1) < 0.01
    assert not np.array_equal(noise[0], noise[1])


def test_the_size_of_a_batch_changes_nothing() -> None:
    stack = ArrayStack(IMAGES, [str(i) for i in range(7)])
    expected = simulate(IMAGES, noisy(False), 0)
    for batch_size in [1, 3, 32]:
        np.testing.assert_array_equal(simulate(stack, noisy(False), 0, batch_size=batch_size), expected)


def test_other_noise_and_no_noise() -> None:
    first = simulate(IMAGES, Denoising(PoissonNoise(gain=0.1)), 0)
    np.testing.assert_array_equal(first, simulate(IMAGES, Denoising(PoissonNoise(gain=0.1)), 0))
    mask = torch.zeros(3, 8, 8)
    mask[:, ::2] = 1
    np.testing.assert_array_equal(simulate(IMAGES, Inpainting((3, 8, 8), mask=mask), 0), IMAGES * mask.numpy())


def test_the_global_generator_goes_on_as_before() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    simulate(IMAGES, noisy(False), 0)
    assert torch.equal(torch.rand(3), expected)


def test_several_measurements_of_one_image() -> None:
    with pytest.raises(DataError, match="several arrays"):
        simulate(IMAGES, lambda x: [x, x], 0)
