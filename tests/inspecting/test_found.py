"""`es init --from` finds again what made a folder of measurements, and writes a spec that trains as it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inspecting_folders import coil_maps, columns, kspace, noise, phased, pixels, rough, save
from problems import train_in

from es_cli.catalog import load_spec
from es_cli.diagnostics.check import FIRST, first_look
from es_cli.experiment import build_experiment
from es_cli.inspecting.look import Look, look
from es_cli.inspecting.recipe import draft
from es_cli.splitting.tomography import Tomography

CPU = torch.device("cpu")
QUICK = ["training.steps=2", "training.batch_size=2", "training.validate_every=2", "training.preview=false"]
NARROW = {"ArtifactRemoval": "backbone_net", "DataConsistentMoDL": "denoiser"}
Check = Callable[[Look, Any], None]


def stack(folder: Path) -> Check:
    """Grey pictures, one mask of pixels for all, no noise."""
    mask = pixels(32, 0.4)
    save(folder, measurements=rough(20, 32) * mask)

    def check(found: Look, made: Any) -> None:
        assert found.physics == "Inpainting" and found.zeros.kind == "common"
        assert np.array_equal(made.operator.physics.mask[0, 0].bool().numpy(), mask)
        assert not (found.noise and found.noise.clear)

    return check


def colour_with_roles(folder: Path) -> Check:
    """Arrays named as in a benchmark: train, val and test, ground truth, a mask; noise."""
    mask = pixels(24, 0.5)
    x = np.stack([rough(30, 24, seed) for seed in range(3)], 1)
    y = ((x + noise(x.shape, 0.1)) * mask).astype(np.float32)
    save(folder, train_y=y[:20], train_x=x[:20], val_y=y[20:24], test_y=y[24:], test_x=x[24:], mask=mask[None].astype(np.float32))

    def check(found: Look, made: Any) -> None:
        assert found.physics == "Inpainting" and len(made.validation) == 4 and len(made.test) == 6
        assert made.train.x is None and made.test.x is not None
        assert np.array_equal(made.operator.physics.mask[0].bool().numpy(), np.broadcast_to(mask, (3, 24, 24)))
        assert found.noise.clear and 0.08 < made.operator.physics.noise_model.sigma.item() < 0.13
        assert made.spec.losses[0].loss.parameters["consistency_loss"].name == "R2RLoss"
        assert made.spec.physics.parameters["mask"].file == str(folder / "mask.npy")

    return check


def own_masks(folder: Path) -> Check:
    """A mask of its own for each sample."""
    masks = np.stack([pixels(24, 0.5, seed) for seed in range(12)])
    save(folder, y=rough(12, 24)[:, None] * masks[:, None])

    def check(found: Look, made: Any) -> None:
        assert found.physics == "Inpainting" and found.zeros.kind == "each" and abs(found.zeros.fraction - masks.mean()) < 0.01
        _, _, params = made.train.batch([0, 1])
        assert np.array_equal(params["mask"][:, 0].bool().numpy(), masks[made.train.index[:2]])

    return check


def column_mask(folder: Path) -> Check:
    """Single-coil k-space of columns, the middle whole, with noise."""
    mask = columns(48, acs=6, every=4)
    x = phased(16, 48)
    y = kspace(x, 0.1) * mask
    save(folder, train_y=y[:12], test_y=y[12:], test_x=x[12:])

    def check(found: Look, made: Any) -> None:
        assert found.physics == "MRI" and np.array_equal(made.operator.physics.mask[0, 0].bool().numpy(), mask)
        assert found.sampling.pattern == "columns" and found.sampling.acceleration == pytest.approx(1 / mask.mean())
        assert 6 <= found.sampling.acs <= 7
        assert made.spec.mask_generator.parameters["center_lines"] == found.sampling.acs and made.spec.mask_generator.parameters["dim"] == -1
        assert found.noise.clear and 0.08 < found.noise.sigma < 0.13
        assert made.spec.transforms.group == "rotations" and made.test.x is not None

    return check


def rows_as_pairs(folder: Path) -> Check:
    """The same as real and imaginary part, by rows, and not square."""
    mask = columns(40, acs=4, every=3, width=32).T
    y = kspace(phased(8, 32, width=40)) * mask
    save(folder, kspace=np.stack([y.real, y.imag], 1))

    def check(found: Look, made: Any) -> None:
        assert found.physics == "MRI" and found.sampling.pattern == "rows"
        assert np.array_equal(made.operator.physics.mask[0, 0].bool().numpy(), mask)
        assert made.spec.mask_generator.parameters["dim"] == -2 and made.spec.transforms.group == "reflections"

    return check


def scattered_points(folder: Path) -> Check:
    """K-space in two dimensions: scattered points and a square in the middle."""
    mask = pixels(32, 0.2)
    mask[12:20, 12:20] = True
    save(folder, data=kspace(phased(10, 32)) * mask)

    def check(found: Look, made: Any) -> None:
        assert found.physics == "MRI" and found.sampling.pattern == "points" and 8 <= found.sampling.acs <= 9
        assert np.array_equal(made.operator.physics.mask[0, 0].bool().numpy(), mask)
        assert made.spec.mask_generator.name == "BernoulliSplittingMaskGenerator"

    return check


def own_columns(folder: Path) -> Check:
    """K-space in files of a slice each, every slice with other columns."""
    folder.mkdir()
    x = phased(8, 32)
    masks = np.stack([np.roll(columns(32, acs=0, every=4), shift, 1) | columns(32, acs=6, every=32) for shift in (0, 1, 2, 3, 0, 1, 2, 3)])
    for i, y in enumerate(kspace(x) * masks):
        np.save(folder / f"slice_{i:02}.npy", y)

    def check(found: Look, made: Any) -> None:
        assert found.physics == "MRI" and found.zeros.kind == "each" and 6 <= found.sampling.acs <= 8
        _, _, params = made.train.batch([0, 1])
        assert np.array_equal(params["mask"][:, 0].bool().numpy(), masks[made.train.index[:2]])

    return check


def coils(folder: Path) -> Check:
    """K-space of four coils with the maps beside it."""
    mask = columns(24, acs=6, every=3)
    maps = coil_maps(4, 24)
    save(folder, kspace=kspace(phased(6, 24)[:, None] * maps) * mask, maps=maps)

    def check(found: Look, made: Any) -> None:
        assert found.physics == "MultiCoilMRI" and found.coils == 4
        assert np.array_equal(made.operator.physics.mask[0, 0].bool().numpy().reshape(24, 24), mask)
        assert np.allclose(made.operator.physics.coil_maps[0].numpy(), maps)

    return check


def one_slice_of_coils(folder: Path) -> Check:
    """One slice of six coils, which no name tells from six slices: maps come from ESPIRiT."""
    pytest.importorskip("sigpy")
    mask = columns(64, acs=14, every=2)
    folder.mkdir()
    np.savez(folder / "scan.npz", data=kspace(phased(1, 64) * coil_maps(6, 64)) * mask)

    def check(found: Look, made: Any) -> None:
        assert found.physics == "MultiCoilMRI" and found.coils == 6 and found.count == 1 and found.whole
        assert any("coils of one slice" in note for note in found.notes)
        assert tuple(made.operator.physics.coil_maps.shape) == (1, 6, 64, 64)

    return check


def sinograms(folder: Path) -> Check:
    """Sinograms with the angles in a file, ground truth, and noise."""
    angles = np.linspace(0, 180, 12, endpoint=False).astype(np.float32) + 3
    x = rough(10, 33) * np.hypot(*np.meshgrid(np.linspace(-1, 1, 33), np.linspace(-1, 1, 33))).__lt__(0.95)
    with torch.no_grad():
        y = Tomography(angles=torch.from_numpy(angles), img_width=33, normalize=False)(torch.from_numpy(x[:, None].astype(np.float32))).numpy()
    y = y + noise(y.shape, 1.0)
    save(folder, train=y[:8], test_y=y[8:], test_x=x[8:, None].astype(np.float32), angles=angles)

    def check(found: Look, made: Any) -> None:
        assert found.physics == "Tomography" and found.angles == 12 and not found.circle and not found.normalize
        assert made.operator.image.shape == (1, 33, 33) and made.test.x is not None
        assert torch.allclose(made.operator.physics.radon.theta.float().flatten().sort().values, torch.from_numpy(angles).float().sort().values, atol=1e-3)
        assert found.noise.clear and 0.8 < found.noise.sigma < 1.3

    return check


def unnamed_sinograms(folder: Path) -> Check:
    """Sinograms that nothing but their equal mass at all angles tells from pictures; as many detectors as pixels."""
    disc = np.hypot(*np.meshgrid(np.linspace(-1, 1, 32), np.linspace(-1, 1, 32))) < 0.9
    with torch.no_grad():
        y = Tomography(angles=20, img_width=32, circle=True, normalize=True)(torch.from_numpy((rough(6, 32) * disc)[:, None].astype(np.float32))).numpy()
    save(folder, scans=y[:, 0])

    def check(found: Look, made: Any) -> None:
        assert found.physics == "Tomography" and found.angles == 20 and found.circle
        assert made.operator.image.shape == (1, 32, 32) and any("evenly spaced" in note for note in found.notes)

    return check


def digits(folder: Path) -> Check:
    """Random projections of digits, with the matrix."""
    matrix = np.random.default_rng(0).normal(size=(60, 144)).astype(np.float32) / 12
    x = rough(24, 12).reshape(24, 144)
    save(folder, train_y=x[:20] @ matrix.T, test_y=x[20:] @ matrix.T, test_x=x[20:].reshape(-1, 1, 12, 12), A=matrix)

    def check(found: Look, made: Any) -> None:
        assert found.physics == "SensingMatrix" and found.size == (1, 12, 12)
        _, test_x, _ = made.test.batch([0])
        assert torch.allclose(made.operator.physics.A(test_x), made.test.batch([0])[0], atol=1e-4)

    return check


def noisy_pictures(folder: Path) -> Check:
    """Whole pictures with noise."""
    x = rough(12, 40)
    save(folder, pictures=x + noise(x.shape, 0.08))

    def check(found: Look, made: Any) -> None:
        assert found.physics == "Denoising" and not found.simulated
        assert 0.06 < made.operator.physics.noise_model.sigma.item() < 0.1
        assert [term.loss.name for term in made.spec.losses] == ["SureGaussianLoss"]

    return check


def clean_pictures(folder: Path) -> Check:
    """Whole pictures of several sizes without noise, in folders of train and test: measured once."""
    from PIL import Image

    for part, sizes in {"train": (80, 90, 80, 96), "test": (80, 70)}.items():
        (folder / part).mkdir(parents=True)
        for i, size in enumerate(sizes):
            Image.fromarray((255 * rough(1, size, seed=i, width=100)[0]).astype(np.uint8)).convert("RGB").save(folder / part / f"{part}{i}.png")

    def check(found: Look, made: Any) -> None:
        assert found.physics == "Inpainting" and found.simulated
        assert made.operator.image.shape == (3, 64, 64) and len(made.test) == 2

    return check


def masked_pngs(folder: Path) -> Check:
    """A folder of 8-bit PNGs, black where nothing was measured."""
    from PIL import Image

    mask = pixels(24, 0.5)
    folder.mkdir()
    for i, picture in enumerate(rough(8, 24)):
        Image.fromarray((255 * picture * mask).astype(np.uint8)).save(folder / f"{i}.png")

    def check(found: Look, made: Any) -> None:
        assert found.physics == "Inpainting" and np.array_equal(made.operator.physics.mask[0, 0].bool().numpy(), mask)

    return check


def hdf5_set(folder: Path) -> Check:
    """Several arrays of one HDF5 file, the mask of each sample among them."""
    import h5py

    masks = np.stack([pixels(16, 0.6, seed) for seed in range(10)])[:, None]
    x = rough(10, 16)[:, None]
    folder.mkdir()
    with h5py.File(folder / "set.h5", "w") as file:
        for part, rows in {"train": slice(8), "test": slice(8, 10)}.items():
            file[f"x_{part}"], file[f"y_{part}"], file[f"mask_{part}"] = x[rows], (x * masks)[rows], masks[rows].astype(np.float32)

    def check(found: Look, made: Any) -> None:
        assert found.physics == "Inpainting" and len(made.test) == 2
        assert made.spec.data.train.params["mask"].key == "mask_train"
        assert np.array_equal(made.train.batch([0])[2]["mask"][0].bool().numpy(), masks[made.train.index[0]])

    return check


def volume(folder: Path) -> Check:
    """A NIfTI volume, whose slices are samples, with a box that was never measured."""
    nibabel = pytest.importorskip("nibabel")
    mask = np.ones((20, 20), bool)
    mask[6:14, 4:12] = False
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image((300 * rough(9, 20) * mask).T, np.eye(4)), folder / "patient_brain.nii.gz")

    def check(found: Look, made: Any) -> None:
        assert found.physics == "Inpainting" and np.array_equal(made.operator.physics.mask[0, 0].bool().numpy(), mask)
        assert made.spec.data.scale == "per-sample" and len(made.train) + len(made.validation) == 9

    return check


def bayer(folder: Path) -> Check:
    """Raw mosaics."""
    mask = np.zeros((3, 16, 16), bool)
    mask[0, 1::2, 1::2] = mask[1, ::2, 1::2] = mask[1, 1::2, ::2] = mask[2, ::2, ::2] = True
    save(folder, mosaics=np.stack([rough(6, 16, seed) for seed in range(3)], 1) * mask)

    def check(found: Look, made: Any) -> None:
        assert found.physics == "Demosaicing" and np.array_equal(made.operator.physics.mask[0].bool().numpy(), mask)

    return check


def two_without_names(folder: Path) -> Check:
    """Two arrays of one shape: that with zeros was measured, the other is ground truth."""
    x, mask = rough(10, 24), pixels(24, 0.5)
    save(folder, a=x, b=x * mask)

    def check(found: Look, made: Any) -> None:
        assert found.roles.train.name == "b.npy" and made.train.x is None and len(made.test) == 10
        assert any("ground truth" in note for note in found.notes)

    return check


FOLDERS = [
    stack, colour_with_roles, own_masks, column_mask, rows_as_pairs, scattered_points, own_columns, coils, one_slice_of_coils, sinograms,
    unnamed_sinograms, digits, noisy_pictures, clean_pictures, masked_pngs, hdf5_set, volume, bayer, two_without_names,
]  # fmt: skip


@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_a_folder_gives_a_spec_with_the_operator_that_made_it_which_passes_the_check_and_trains(make: Callable[[Path], Check], tmp_path: Path) -> None:
    check = make(tmp_path / "data")
    found = look(str(tmp_path / "data"))
    (tmp_path / "spec.yaml").write_text(draft(found, tmp_path).text)
    made = build_experiment(load_spec(tmp_path / "spec.yaml"), CPU)
    check(found, made)
    seen = {finding.section: finding for finding in first_look(made, seconds=60).findings}
    assert set(seen) == set(FIRST)
    # sinograms of an operator that is not normalised are in units of their own
    assert [name for name, finding in seen.items() if finding.verdict != "good"] == (["operator"] if make is sinograms else []), seen
    assert seen["operator"].verdict != "no"
    spec = load_spec(tmp_path / "spec.yaml")
    quick = [*QUICK, f"model.{NARROW[spec.model.name]}.channels_per_scale=[4, 8]"]
    assert train_in(tmp_path / "run", load_spec(tmp_path / "spec.yaml", quick)).is_file()
