from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from problems import es, smooth, train_in

from es_cli.catalog import load_spec
from es_cli.cli.options import bytes_of
from es_cli.data.geometry import Geometry
from es_cli.data.piecewise import PiecewiseArray
from es_cli.data.readers import open_array, read_geometry
from es_cli.data.writers import write_array
from es_cli.errors import OutputError, UsageError
from es_cli.reconstruct import Reconstructor
from es_cli.serving import large, limits


@pytest.fixture
def model(inpainting: Path) -> Path:
    """A checkpoint for one mask of 16 × 16, in whose folder we are."""
    return train_in(inpainting.parent / "run", load_spec(inpainting, ["training.steps=1"]))


@pytest.fixture
def big(inpainting: Path, monkeypatch) -> Path:
    """y.npy (2, 1, 40, 64) and its masks."""
    monkeypatch.chdir(inpainting.parent)
    masks = (np.random.default_rng(0).random((2, 40, 64)) < 0.6).astype(np.float32)
    masks[0, :20, :32] = 0  # a part of the image where nothing was measured
    np.save("masks.npy", masks)
    np.save("y.npy", (smooth(2, 64)[:, :40] * masks)[:, None])
    return inpainting.parent


def run(model: Path, *arguments: str) -> int:
    return es(["reconstruct", "--ckpt", str(model), *arguments])


def test_larger_images_need_their_mask_and_are_made_in_tiles(model, big, capfd):
    assert run(model, "y.npy", "-o", "x.npy") == 3
    assert "--param mask=from-data" in capfd.readouterr().err and not Path("x.npy").exists()
    assert run(model, "y.npy", "-o", "x.npy", "--param", "mask=masks.npy") == 0
    assert "y.npy: 40 × 64 pixels in tiles of 40" in capfd.readouterr().err
    assert run(model, "y.npy", "-o", "x.h5", "--param", "mask=from-data", "-q") == 0
    held = np.load("x.npy")
    assert held.shape == (2, 1, 40, 64) and held.dtype == np.float32 and np.isfinite(held).all()
    # the mask differs only where the picture itself is 0
    assert np.abs(open_array(Path("x.h5")) - held).max() < 0.1
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []


def test_each_sample_has_its_own_mask_in_its_tiles(model, big):
    made = Reconstructor.load(model, "cpu")
    y, masks = np.load("y.npy"), np.load("masks.npy")
    both = large.reconstruct_large(made, lambda: y, {"mask": masks}, "y", limits.Limits(), None, None)[0].read()
    for i in range(2):
        alone = large.reconstruct_large(made, lambda i=i: y[i], {"mask": masks[i]}, "y", limits.Limits(), None, None)[0].read()
        assert np.array_equal(both[i], alone)


@pytest.mark.parametrize(("shape", "mask"), [((3, 7, 7), None), ((1, 12, 64), None), ((64,), None), ((40, 64), (16, 16)), ((40, 64), (2, 2, 40, 64))])
def test_what_does_not_fit_is_refused(model, big, capfd, shape, mask):
    np.save("odd.npy", np.ones(shape, np.float32))
    extra = []
    if mask is not None:
        np.save("mask.npy", np.ones(mask, np.float32))
        extra = ["--param", "mask=mask.npy"]
    assert run(model, "odd.npy", "-o", "x.npy", *extra) == 3
    assert "odd.npy" in (said := capfd.readouterr().err) or "mask" in said
    assert not Path("x.npy").exists()


def test_tiles_go_through_a_pipe(model, big, environment):
    command = [sys.executable, "-m", "es_cli", "reconstruct", "--ckpt", str(model), "--param", "mask=from-data", "-q"]
    done = subprocess.run([*command, "-", "-o", "-"], input=Path("y.npy").read_bytes(), env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # on as many threads: others round otherwise
    assert subprocess.run([*command, "y.npy", "-o", "x.npy"], env=environment, timeout=120).returncode == 0
    assert done.stdout == Path("x.npy").read_bytes()


def test_slices_lie_along_their_axis_again(model, big, monkeypatch):
    y = np.load("test_y.npy")[:, 0]
    for axis in (0, 1, 2, -1):
        write_array(Path("volume.nii.gz"), np.moveaxis(y, 0, axis), Geometry("nifti", "float32", ("z", "y", "x"), (3.0, 0.5, 0.25)))
        assert run(model, "volume.nii.gz", "-o", "x.nii.gz", "--axis", str(axis), "--overwrite", "-q") == 0
        assert run(model, "test_y.npy", "-o", "x.npy", "--overwrite", "-q") == 0
        assert np.allclose(np.moveaxis(open_array(Path("x.nii.gz")), axis, 0), np.load("x.npy")[:, 0], atol=1e-6)
    assert read_geometry(Path("x.nii.gz")).voxel_size == (0.25, 0.5, 3.0)
    assert run(model, "volume.nii.gz", "-o", "z.nii", "--axis", "3") == run(model, "volume.nii.gz", "-o", "z.nii", "--axis", "1") == 3


def test_complex_volumes_are_made_slice_by_slice_where_they_are_large(mri, monkeypatch):
    monkeypatch.chdir(mri.parent)
    model = train_in(mri.parent / "run", load_spec(mri, ["training.steps=1"]))
    assert run(model, "test_y.npy", "-o", "whole.npy", "-q") == 0
    for module in (limits, large):
        monkeypatch.setattr(module, "PLENTY", 10)
        monkeypatch.setattr(module, "HELD", 10)
    monkeypatch.setattr(large, "AT_ONCE", 3)
    assert run(model, "test_y.npy", "-o", "slices.npy", "-q") == 0
    assert Path("slices.npy").stat().st_size == Path("whole.npy").stat().st_size
    assert np.load("slices.npy").dtype == np.complex64 and np.allclose(np.load("slices.npy"), np.load("whole.npy"), atol=1e-6)


def test_where_memory_is_short_images_of_the_trained_size_are_cut_with_their_mask(model, big, monkeypatch, capfd):
    monkeypatch.setattr(large, "free_bytes", lambda device, allowed: 20_000)
    monkeypatch.setattr("es_cli.tiles.ALIGNED", 4)
    assert run(model, "test_y.npy", "-o", "x.npy", "--memory", "2G") == 0
    assert "pixels in tiles of" in capfd.readouterr().err
    assert np.load("x.npy").shape == (4, 1, 16, 16)


def test_what_is_not_finite_is_found_in_its_tile(model, big, capfd):
    y = np.load("y.npy")
    y[1, 0, 39, 63] = np.nan
    np.save("y.npy", y)
    assert run(model, "y.npy", "-o", "x.npy", "--param", "mask=masks.npy") == 3
    assert "NaN" in capfd.readouterr().err and not Path("x.npy").exists()
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []


def test_progress_of_one_large_image_is_told_in_parts(model, big):
    shares: list[float] = []
    y, masks = np.load("y.npy"), np.load("masks.npy")
    large.reconstruct_large(Reconstructor.load(model, "cpu"), lambda: y, {"mask": masks}, "y", limits.Limits(), None, None, on_part=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) > 2


def test_an_array_in_pieces(tmp_path):
    out = PiecewiseArray(tmp_path / "x.npy", (2, 4, 3), 0, np.dtype(np.float32))
    out.put(1, slice(1, 3), np.ones((2, 3), np.float32))
    out.put(slice(0, 1), None, np.full((1, 4, 3), 2, np.float32))
    assert out.read()[0].min() == 2 and out.read()[1].sum() == 6
    temporary = out.file
    out.save(tmp_path / "x.npy", None)
    assert np.load(tmp_path / "x.npy").sum() == 30 and not temporary.exists()
    lost = PiecewiseArray(tmp_path / "y.npy", (2,), 0, np.dtype(np.float32))
    temporary = lost.file
    del lost
    assert not temporary.exists() and not (tmp_path / "y.npy").exists()
    with pytest.raises(OutputError):
        PiecewiseArray(tmp_path / "z.npy", (1 << 50,), 0, np.dtype(np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.parametrize(("text", "size"), [("2G", 2 << 30), ("500M", 500 << 20), ("1.5GiB", 3 << 29), ("100kb", 100 << 10), ("7", 7)])
def test_sizes_as_people_write_them(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "2X", "-1G", "0"])
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError, match="no size"):
        bytes_of(text)


def test_the_manifest_knows_what_was_made_in_tiles(model, big):
    assert run(model, "y.npy", "-o", "images/", "--param", "mask=masks.npy", "-q") == 0
    (entry,) = json.loads(Path("images/manifest.json").read_text())["files"]
    assert entry["output"] == "y.recon.npy" and entry["status"] == "done"
