"""The main job on the files of imaging: no conversion before, none after."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from deepinv.datasets import generate_dataset
from deepinv.physics import GaussianNoise, Inpainting
from deepinv.physics.generator import BernoulliSplittingMaskGenerator, SigmaGenerator
from problems import es, smooth, write_spec

from es_cli.catalog import load_spec
from es_cli.data.geometry import Geometry
from es_cli.data.writers import write_array
from es_cli.experiment import build_experiment

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


class Pictures(torch.utils.data.Dataset):
    def __init__(self, count: int, seed: int) -> None:
        self.held = torch.from_numpy(smooth(count, 16, seed)[:, None])

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.held[index]


@pytest.fixture
def deepinv_set(tmp_path: Path) -> Path:
    """A spec for a data set that deepinv wrote, each sample of which has a mask and a noise level of its own."""
    masks = BernoulliSplittingMaskGenerator((1, 16, 16), split_ratio=0.6)
    physics = Inpainting((1, 16, 16), mask=0.6, noise_model=GaussianNoise(0.1))
    parts = {"train_dataset": Pictures(8, 0), "val_dataset": Pictures(3, 1), "test_dataset": Pictures(4, 2)}
    made = generate_dataset(physics=physics, save_dir=str(tmp_path), physics_generator=masks + SigmaGenerator(0.01, 0.1), verbose=False, **parts)
    Path(str(made)).rename(tmp_path / "set.h5")
    held = {"measurements": "set.h5", "images": "set.h5"}
    return write_spec(
        tmp_path / "spec.yaml",
        physics={"name": "Inpainting", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}},
        data={"train": {"measurements": "set.h5"}, "validation": held, "test": held},
        losses=[{"name": "EquivariantSplittingLoss", "consistency_loss": {"name": "R2RLoss"}}],
    )


def test_parameters_that_a_data_set_of_deepinv_holds_are_those_of_its_samples(deepinv_set: Path, capfd) -> None:
    folder = deepinv_set.parent
    made = build_experiment(load_spec(deepinv_set), torch.device("cpu"))
    with h5py.File(folder / "set.h5") as file:
        for part, data in (("train", made.train), ("val", made.validation), ("test", made.test)):
            y, _, params = data.batch(list(range(len(data))))
            for name, values in {"y": y, **params}.items():
                np.testing.assert_array_equal(values.numpy(), file[f"{name}_{part}"][()])
        masks = file["mask_test"][()]
        named = {"data.train.params.mask": "ones.npy"}
        np.save(folder / "ones.npy", np.ones((8, 16, 16)))
        own = build_experiment(load_spec(deepinv_set, [f"{key}={value}" for key, value in named.items()]), torch.device("cpu")).train
        params = own.batch([1, 2])[2]
        assert params["mask"].all() and np.array_equal(params["sigma"].numpy(), file["sigma_train"][1:3])
    model = str(folder / "run" / "model.safetensors")
    assert es(["train", str(deepinv_set), "-o", str(folder / "run"), "-q"]) == 0
    np.save(folder / "masks.npy", masks)
    scores = []
    given = ["--measurements", str(folder / "set.h5"), "--images", str(folder / "set.h5")]
    for more in ([], given, ["--param", f"mask={folder / 'masks.npy'}"], ["--param", f"mask={folder / 'one.npy'}"]):
        np.save(folder / "one.npy", np.ones((16, 16)))
        capfd.readouterr()
        assert es(["evaluate", "--ckpt", model, "--json", *more]) == 0
        scores.append(json.loads(capfd.readouterr().out)["metrics"])
    assert scores[0] == scores[1] == scores[2] != scores[3]


def test_noise_levels_of_a_data_set_in_several_files_are_joined(deepinv_set: Path, capfd) -> None:
    folder = deepinv_set.parent
    (folder / "sets").mkdir()
    for number in range(2):
        shutil.copy(folder / "set.h5", folder / "sets" / f"{number}.h5")
    data = "data={train: {measurements: sets}, validation: {measurements: set.h5}, test: {measurements: sets, images: sets}}"
    made = build_experiment(load_spec(deepinv_set, [data]), torch.device("cpu"))
    sigma = made.train.batch(list(range(len(made.train))))[2]["sigma"]
    assert len(made.train) == 16 and torch.equal(sigma[:8], sigma[8:]) and len(sigma.unique()) == 8
    assert es(["train", str(deepinv_set), data, "-o", str(folder / "run"), "-q"]) == 0
    capfd.readouterr()
    assert es(["evaluate", "--ckpt", str(folder / "run" / "model.safetensors"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["n"] == 8


def test_what_a_data_set_of_deepinv_holds_and_the_operator_does_not_take_is_refused(deepinv_set: Path, capfd) -> None:
    folder = deepinv_set.parent
    for physics, words in [
        ("{name: Inpainting}", ["set.h5 holds sigma_train", "Inpainting without noise takes no sigma"]),
        ("{name: Denoising, noise_model: {name: GaussianNoise, sigma: 0.1}}", ["set.h5 holds mask_train", "takes no mask"]),
    ]:
        assert es(["train", str(deepinv_set), f"physics={physics}", "losses=[EquivariantSplittingLoss]", "-o", str(folder / "run")]) == 2
        err = capfd.readouterr().err
        assert all(word in err for word in words), err
    np.save(folder / "y.npy", np.zeros((4, 16, 16)))
    assert es(["train", str(deepinv_set), "data.validation={measurements: y.npy}", "-o", str(folder / "run")]) == 2
    assert "data.validation.params.mask" in capfd.readouterr().err
    assert not (folder / "run").exists()


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
