"""What zeros are taken for: masks, or dark backgrounds; and how k-space was sampled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deepinv.physics import Tomography
from inspecting_folders import coil_maps, columns, kspace, phased, pixels, rough

from es_cli.inspecting.kspace import centre_of, sampling_of, sees_one_picture
from es_cli.inspecting.sinograms import angle_axis, padded_width
from es_cli.inspecting.zeros import zeros_of_images


def discs(count: int, size: int) -> np.ndarray:
    """Bright discs of several sizes and places that fade into black."""
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    rng = np.random.default_rng(0)
    centres, radii = rng.uniform(-0.3, 0.3, (count, 2)), rng.uniform(0.2, 0.5, count)
    return np.stack([np.maximum(0, 1 - np.hypot(x - a, y - b) / r) for (a, b), r in zip(centres, radii, strict=True)]).astype(np.float32)


def test_a_dark_background_is_no_mask() -> None:
    found = zeros_of_images(list(discs(20, 32)[:, None]))
    assert found.kind == "none" and found.dark


def test_a_mask_is_found_over_a_dark_background() -> None:
    mask = pixels(32, 0.5)
    found = zeros_of_images(list((discs(60, 32) * mask)[:, None]))
    assert found.kind == "common" and not (found.mask[0] & ~mask).any()


@pytest.mark.parametrize("mask", [pixels(32, 0.5), columns(32, 4, 3), columns(32, 4, 3).T], ids=["pixels", "columns", "rows"])
def test_a_mask_is_found_entry_by_entry(mask: np.ndarray) -> None:
    found = zeros_of_images(list((rough(6, 32) * mask)[:, None]))
    assert found.kind == "common" and np.array_equal(found.mask[0], mask)


def test_few_samples_with_masks_of_their_own_are_not_one_mask() -> None:
    found = zeros_of_images([(rough(1, 32) * pixels(32, 0.5, seed)) for seed in range(3)])
    assert found.kind == "each"


@pytest.mark.parametrize(("size", "acs", "every"), [(64, 8, 4), (65, 7, 5), (320, 26, 8)])
def test_columns_are_counted(size: int, acs: int, every: int) -> None:
    mask = columns(size, acs, every)
    found = sampling_of(mask)
    assert found.pattern == "columns" and found.lines == mask[0].sum() and found.acceleration == pytest.approx(size / mask[0].sum())
    assert acs <= found.acs <= acs + 2
    assert sampling_of(mask.T).pattern == "rows"


def test_full_kspace_and_points() -> None:
    assert sampling_of(np.ones((16, 16), bool)).pattern == "full"
    scattered = pixels(32, 0.3)
    scattered[11:21, 11:21] = True
    found = sampling_of(scattered)
    assert found.pattern == "points" and 10 <= found.acs <= 11


def test_kspace_has_its_energy_in_one_place_and_images_do_not() -> None:
    spectrum = kspace(phased(4, 32))
    assert centre_of(list(spectrum)) == "middle"
    assert centre_of(list(np.fft.ifftshift(spectrum, axes=(-2, -1)))) == "corner"
    assert centre_of(list(phased(4, 32))) is None


@pytest.mark.parametrize("seed", range(4))
def test_coils_of_one_slice_are_told_from_slices(seed: int) -> None:
    mask = columns(64, 14, 2)
    assert sees_one_picture(kspace(phased(1, 64, seed) * coil_maps(6, 64)) * mask)
    assert not sees_one_picture(kspace(phased(6, 64, seed)) * mask)
    assert not sees_one_picture(kspace(np.abs(phased(6, 64, seed))) * mask)


def test_pictures_are_no_sinograms() -> None:
    assert angle_axis(list(rough(6, 32))) is None
    assert angle_axis(list(discs(6, 32))) is None
    assert angle_axis([np.ones((32, 32), np.float32)]) is None


def test_the_width_behind_a_sinogram_with_room_for_the_corners() -> None:
    for width in (16, 33, 65, 128):
        sinogram = Tomography(angles=4, img_width=width, normalize=False)(torch.zeros(1, 1, width, width))
        assert padded_width(sinogram.shape[-2]) == width
