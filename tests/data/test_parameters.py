"""Parameters of samples from files: which shapes and values they may have, and what is said about others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from es_cli.data.parameters import OwnZeros, Parameter, open_parameter
from es_cli.errors import DataError
from es_cli.spec.component import ArrayFile

COLOUR = Parameter("mask", (3, 8, 6))
GREY = Parameter("mask", (1, 8, 6))
KSPACE = Parameter("mask", (2, 8, 6), pair=True)
MAPS = Parameter("coil_maps", (4, 8, 6), pair=True)
SIGMA, GAIN = Parameter("sigma", ()), Parameter("gain", ())
MASKS = (np.random.default_rng(0).random((5, 8, 6)) < 0.5).astype(np.float32)


def opened(tmp_path: Path, array: np.ndarray, parameter: Parameter, count: int) -> np.ndarray:
    np.save(tmp_path / "p.npy", array)
    return open_parameter(ArrayFile(file=str(tmp_path / "p.npy")), parameter, count).read(np.array([count - 1, 0]), np.empty(0))


@pytest.mark.parametrize("parameter", [COLOUR, GREY, KSPACE], ids=["colour", "grey", "k-space"])
@pytest.mark.parametrize("dtype", [np.float64, np.bool_, np.uint8])
def test_a_mask_for_each_sample_has_any_number_of_channels_that_the_operator_understands(tmp_path, parameter, dtype):
    channels = parameter.shape[0]
    expected = np.repeat(MASKS[[4, 0], None], channels, 1)
    for given in (MASKS, MASKS[:, None], np.repeat(MASKS[:, None], channels, 1)):
        read = opened(tmp_path, given.astype(dtype), parameter, 5)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("parameter", [COLOUR, KSPACE], ids=["colour", "k-space"])
def test_one_mask_for_all_samples(tmp_path, parameter):
    channels = parameter.shape[0]
    for given in (MASKS[0], MASKS[:1], MASKS[:1, None], np.repeat(MASKS[:1], channels, 0)):
        np.testing.assert_array_equal(opened(tmp_path, given, parameter, 5), np.repeat(MASKS[:1, None], channels, 1))


def test_a_mask_that_could_be_read_in_two_ways_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"could be one for all.*\(1, 3, 8, 6\) or \(3, 3, 8, 6\)"):
        opened(tmp_path, MASKS[:3], COLOUR, 3)
    assert opened(tmp_path, MASKS[:2], KSPACE, 2).shape == (2, 2, 8, 6)  # the channels of k-space share one mask, so that it cannot


@pytest.mark.parametrize(
    ("array", "parameter", "words"),
    [
        (MASKS[:, :7], COLOUR, r"mask of shape \(5, 7, 6\).*wanted \(8, 6\) or \(3, 8, 6\), real, for all samples, or \(5, …\)"),
        (MASKS[:4], COLOUR, "mask of 4 samples, but there are 5.*wanted"),
        (MASKS.astype(complex), KSPACE, "complex128"),
        (0.5 * MASKS, COLOUR, r"p\.npy\[0\]: the mask holds values other than 0 and 1"),
        (np.concatenate([MASKS[:4], 0 * MASKS[:1]]), COLOUR, r"p\.npy\[4\]: the mask is 0 everywhere"),
        (np.stack([MASKS, 1 - MASKS], 1), KSPACE, "differs between real and imaginary"),
        (np.full((5, 4, 8, 6), np.nan, complex), MAPS, "coil_maps holds NaN"),
        (np.zeros((5, 4, 8, 6), complex), MAPS, "0 everywhere"),
        (np.ones((5, 3, 8, 6), complex), MAPS, r"wanted \(4, 8, 6\), complex"),
        (np.array([0.1, 0.2, -1, 1, 1]), SIGMA, r"p\.npy\[2\]: sigma is -1; it must be above 0"),
        (np.array([0.1, 0.2, 0, 1, 1]), GAIN, "gain is 0"),
        (np.ones(4), SIGMA, "sigma of 4 samples, but there are 5.*wanted one number, or 5 of them"),
        (np.ones((5, 2)), SIGMA, r"sigma of shape \(5, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_wanted_before_anything_is_trained(tmp_path, array, parameter, words):
    np.save(tmp_path / "p.npy", array)
    with pytest.raises(DataError, match=words) as caught:
        open_parameter(ArrayFile(file=str(tmp_path / "p.npy")), parameter, 5)
    assert caught.value.fault.hint and caught.value.exit_code == 3


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 1, 1, 1)])
def test_noise_levels_have_one_number_for_each_sample(tmp_path, shape):
    np.testing.assert_array_equal(opened(tmp_path, np.arange(5.0).reshape(shape), SIGMA, 5), np.float32([4, 0]))


@pytest.mark.parametrize("array", [np.array(2.0), np.array([2.0]), np.array([[2.0]])])
def test_one_noise_level_for_all(tmp_path, array):
    np.testing.assert_array_equal(opened(tmp_path, array, GAIN, 5), np.float32([2]))


def test_coil_maps_are_complex_or_pairs_of_channels(tmp_path):
    rng = np.random.default_rng(0)
    maps = (rng.normal(size=(5, 4, 8, 6)) + 1j * rng.normal(size=(5, 4, 8, 6))).astype(np.complex64)
    for given in (maps, np.stack([maps.real, maps.imag], 1)):
        read = opened(tmp_path, given, MAPS, 5)
        assert read.dtype == np.complex64
        np.testing.assert_array_equal(read, maps[[4, 0]])
    np.testing.assert_array_equal(opened(tmp_path, maps[2], MAPS, 5), maps[2:3])


def test_keys_folders_and_pictures_hold_parameters_too(tmp_path):
    from PIL import Image

    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"], file["mask"] = np.ones((5, 8, 6)), MASKS
    for kind in ("arrays", "pictures"):
        (tmp_path / kind).mkdir()
    for i, mask in enumerate(MASKS):
        np.save(tmp_path / "arrays" / f"{i}.npy", mask)
        Image.fromarray((255 * mask).astype(np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    at = np.array([3, 1])
    for source in ({"file": "scan.h5", "key": "mask"}, {"file": "arrays"}, {"file": "pictures/*.png"}):
        stored = open_parameter(ArrayFile(**{**source, "file": str(tmp_path / source["file"])}), GREY, 5)
        np.testing.assert_array_equal(stored.read(at, np.empty(0)), MASKS[at, None])
    (tmp_path / "arrays" / "0.npy").unlink()
    with pytest.raises(DataError, match="4 samples, but there are 5"):
        open_parameter(ArrayFile(file=str(tmp_path / "arrays")), GREY, 5)
    with pytest.raises(DataError, match=r"mask of shape \(8, 6\)"):
        open_parameter(ArrayFile(file=str(tmp_path / "arrays")), Parameter("mask", (1, 4, 6)), 4)


@pytest.mark.parametrize(
    ("y_shape", "parameter"), [((5, 1, 8, 6), GREY), ((5, 2, 8, 6), KSPACE), ((5, 2, 4, 8, 6), KSPACE)], ids=["grey", "k-space", "coils"]
)
def test_from_data_reads_the_zeros_of_each_sample(y_shape, parameter):
    mask: Any = MASKS.reshape(5, *[1] * (len(y_shape) - 3), 8, 6)
    y = mask * np.ones(y_shape, np.float32)
    y[:, 1:2] = 0  # a value that happens to be 0 in one channel was measured all the same
    read = OwnZeros(parameter, [f"sample {i}" for i in range(5)]).read(np.arange(5), y)
    np.testing.assert_array_equal(read, np.broadcast_to(MASKS[:, None], (5, *parameter.shape)))
    with pytest.raises(DataError, match="sample 3: the mask is 0 everywhere"):
        OwnZeros(parameter, [f"sample {i}" for i in range(5)]).read(np.array([3]), 0 * y[:1])
