"""The main job on the files of imaging: no conversion before, none after."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel
import numpy as np
from problems import es, smooth, write_spec

from es_cli.data.geometry import Geometry
from es_cli.data.writers import write_array

AFFINE = ((0.7, 0.0, 0.0, 3.0), (0.0, 1.1, 0.0, 4.0), (0.0, 0.0, 2.5, 5.0), (0.0, 0.0, 0.0, 1.0))
GEOMETRY = Geometry("nifti", "float32", ("z", "y", "x"), (2.5, 1.1, 0.7), AFFINE, "scanner")


def mask_beside(folder: Path) -> np.ndarray:
    mask = (np.random.default_rng(1).random((16, 16)) < 0.6).astype(np.float32)
    np.save(folder / "mask.npy", mask)
    return mask


def test_volumes_in_nifti_volumes_out(tmp_path: Path) -> None:
    mask, slices = mask_beside(tmp_path), smooth(12, 16)
    for number in range(3):
        (tmp_path / "scans").mkdir(exist_ok=True)
        write_array(tmp_path / "scans" / f"{number}.nii.gz", slices[4 * number : 4 * number + 4] * mask, GEOMETRY)
    spec = write_spec(tmp_path / "spec.yaml", data={"train": {"measurements": "scans"}})
    assert es(["train", str(spec), "-o", str(tmp_path / "run"), "-q"]) == 0
    image = tmp_path / "image.nii"
    assert es(["reconstruct", "--ckpt", str(tmp_path / "run" / "model.safetensors"), str(tmp_path / "scans" / "0.nii.gz"), "-o", str(image)]) == 0
    before, after = nibabel.load(tmp_path / "scans" / "0.nii.gz"), nibabel.load(image)
    assert after.shape == before.shape == (16, 16, 4) and after.get_data_dtype() == np.float32
    np.testing.assert_allclose(after.affine, before.affine)


def test_a_data_set_of_deepinv_needs_no_keys(tmp_path: Path) -> None:
    mask, images = mask_beside(tmp_path), smooth(12, 16)[:, None]
    with h5py.File(tmp_path / "set.h5", "w") as file:
        for part, rows in [("train", slice(0, 8)), ("val", slice(8, 10)), ("test", slice(10, 12))]:
            file[f"x_{part}"], file[f"y_{part}"] = images[rows], images[rows] * mask
    held = {"measurements": "set.h5", "images": "set.h5"}
    spec = write_spec(tmp_path / "spec.yaml", data={"train": {"measurements": "set.h5"}, "validation": {"measurements": "set.h5"}, "test": held})
    assert es(["train", str(spec), "-o", str(tmp_path / "run"), "-q"]) == 0
    table = tmp_path / "table.csv"
    assert es(["evaluate", "--ckpt", str(tmp_path / "run" / "model.safetensors"), "--csv", str(table)]) == 0
    assert len(table.read_text().splitlines()) == 1 + 2  # the two of the test part


def test_parameters_that_a_data_set_of_deepinv_holds_are_not_ignored(tmp_path: Path, capfd) -> None:
    """Each sample has a mask of its own in the set: the spec must name it, and the answer says how."""
    masks = (np.random.default_rng(0).random((6, 1, 16, 16)) < 0.6).astype(np.float32)
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["y_train"], file["x_train"], file["mask_train"] = smooth(6, 16)[:, None] * masks, smooth(6, 16)[:, None], masks
    data = {"train": {"measurements": "set.h5"}}
    spec = write_spec(tmp_path / "spec.yaml", physics={"name": "Inpainting", "mask": "from-data"}, data=data)
    assert es(["train", str(spec), "-o", str(tmp_path / "run")]) == 2
    assert "add params: {mask: {file: set.h5, key: mask_train}}" in capfd.readouterr().err
    named = "data.train.params={mask: {file: set.h5, key: mask_train}}"
    assert es(["train", str(spec), named, "physics=Inpainting", "-o", str(tmp_path / "run")]) == 0


def test_a_folder_of_fastmri(tmp_path: Path) -> None:
    rng, mask = np.random.default_rng(2), np.zeros((16, 16), bool)
    mask[:, ::2] = mask[:, 7:9] = True
    (tmp_path / "volumes").mkdir()
    for number in range(2):
        images = smooth(4, 16, number) * np.exp(1j * rng.normal(size=(4, 1, 1)))
        kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
        with h5py.File(tmp_path / "volumes" / f"{number}.h5", "w") as file:
            file["kspace"], file["ismrmrd_header"] = (kspace * mask).astype(np.complex64), "<xml/>"
            file["reconstruction_esc"] = np.abs(images).astype(np.float32)
    spec = write_spec(
        tmp_path / "spec.yaml",
        physics={"name": "MRI", "mask": "from-data"},
        data={"train": {"measurements": "volumes"}},
        mask_generator={"name": "LineSplittingMaskGenerator", "split_ratio": 0.6, "center_lines": 2},
        model={"name": "DataConsistentMoDL", "num_iter": 1, "denoiser": {"name": "UNet", "in_channels": 2, "out_channels": 2, "channels_per_scale": [4, 8]}},
    )
    assert es(["train", str(spec), "-o", str(tmp_path / "run"), "-q"]) == 0
    image = tmp_path / "image.h5"
    assert es(["reconstruct", "--ckpt", str(tmp_path / "run" / "model.safetensors"), str(tmp_path / "volumes" / "1.h5"), "-o", str(image)]) == 0
    with h5py.File(image) as file:
        assert file["reconstruction"].shape == (4, 16, 16) and file["reconstruction"].dtype == np.complex64
