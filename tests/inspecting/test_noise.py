"""Noise levels from measured entries alone: right where there is noise, an upper bound where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from inspecting_folders import columns, kspace, noise, phased, pixels, rough

from es_cli.inspecting.noise import noise_of_images, noise_of_kspace


@pytest.mark.parametrize(("sigma", "part"), [(0.05, 1.0), (0.2, 1.0), (0.05, 0.6), (0.2, 0.3)])
def test_of_noisy_pictures_within_a_fifth(sigma: float, part: float) -> None:
    y = rough(20, 48)[:, None]
    y = y + noise(y.shape, sigma)
    mask = pixels(48, part)[None]
    found = noise_of_images(list(y * mask), [mask] * 20)
    assert found is not None and found.clear and found.sigma == pytest.approx(sigma, rel=0.2)


def test_of_a_little_noise_in_a_few_pixels_an_upper_bound() -> None:
    y, mask = rough(20, 48)[:, None], pixels(48, 0.3)[None]
    found = noise_of_images(list((y + noise(y.shape, 0.05)) * mask), [mask] * 20)
    assert found is not None and 0.05 < found.sigma < 0.08


def test_of_clean_pictures_a_bound_and_no_claim() -> None:
    found = noise_of_images(list(rough(8, 48)[:, None]), [np.ones((1, 48, 48), bool)] * 8)
    assert found is not None and not found.clear and found.sigma < 0.05


def test_what_was_not_measured_is_not_looked_at() -> None:
    y, mask = rough(8, 48)[:, None] + noise((8, 1, 48, 48), 0.1), pixels(48, 0.5)[None]
    wrong = np.where(mask, y, 1e3)
    assert noise_of_images(list(wrong), [mask] * 8) == noise_of_images(list(y * mask), [mask] * 8)


def test_nothing_to_compare_is_no_estimate() -> None:
    assert noise_of_images([rough(1, 16)], [np.zeros((1, 16, 16), bool)]) is None


@pytest.mark.parametrize("mask", [columns(64, 8, 4), np.ones((64, 64), bool), pixels(64, 0.3)], ids=["columns", "full", "points"])
def test_of_kspace_within_a_fifth(mask: np.ndarray) -> None:
    found = noise_of_kspace(list(kspace(phased(8, 64), 0.1) * mask))
    assert found is not None and found.clear and found.sigma == pytest.approx(0.1, rel=0.2)


def test_of_kspace_without_noise_no_claim() -> None:
    found = noise_of_kspace(list(kspace(phased(8, 64)) * columns(64, 8, 4)))
    assert found is not None and not found.clear
