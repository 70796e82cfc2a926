"""Geometry: what the attributes of a file may say, and what a missing package is answered with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from es_cli.data.geometry import Geometry, as_affine
from es_cli.data.readers import open_array, read_geometry
from es_cli.data.writers import write_array
from es_cli.errors import DataError, OutputError

RNG = np.random.default_rng(11)
FULL = Geometry("hdf5", "float32", ("z", "y", "x"), (2.5, 1.1, 0.7), as_affine(np.diag([0.7, 1.1, 2.5, 1])), "mni")


def needs_zarr(suffix: str) -> None:
    if suffix == ".zarr":
        pytest.importorskip("zarr", reason="zarr 3 needs Python 3.11")


def test_voxel_size_needs_three_lengths() -> None:
    assert FULL.voxel_size == (0.7, 1.1, 2.5)
    assert Geometry("tiff", "uint8", ("y", "x"), (1.0, 1.0)).voxel_size is None
    assert Geometry("dicom", "int16", ("z", "y", "x"), (0.0, 1.0, 1.0)).voxel_size is None
    assert Geometry("cfl", "complex64", ("slice", "read", "phs1")).voxel_size is None


@pytest.mark.parametrize("matrix", [np.eye(3), np.full((4, 4), np.nan), "text", None])
def test_what_is_no_affine(matrix: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        as_affine(matrix)


@pytest.mark.parametrize("suffix", [".h5", ".hdf5"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "u1", "i8", "?"])
def test_hdf5_keeps_everything(tmp_path: Path, suffix: str, dtype: str) -> None:
    array = (RNG.standard_normal((3, 4, 5)) * 9).astype(dtype)
    write_array(tmp_path / f"a{suffix}", array, FULL)
    got, geometry = open_array(tmp_path / f"a{suffix}"), read_geometry(tmp_path / f"a{suffix}")
    assert got.dtype == array.dtype and geometry == Geometry("hdf5", array.dtype.name, FULL.axes, FULL.spacing, FULL.affine, "mni")
    np.testing.assert_array_equal(got, array)
    with h5py.File(tmp_path / f"a{suffix}") as file:
        assert list(file) == ["reconstruction"]


@pytest.mark.parametrize(
    "changed",
    [{"axes": ["y", "x"]}, {"axes": 5}, {"spacing": [1.0]}, {"spacing": [1.0, np.nan, 1.0]}, {"spacing": ["a", "b", "c"]}, {"affine": np.eye(3)}],
)
def test_attributes_that_make_no_sense_are_left_out(tmp_path: Path, changed: dict[str, Any]) -> None:
    write_array(tmp_path / "a.h5", np.zeros((3, 4, 5), np.float32), FULL)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["reconstruction"].attrs.update(changed)
    assert read_geometry(tmp_path / "a.h5") is None
    assert open_array(tmp_path / "a.h5").shape == (3, 4, 5)


def test_an_unknown_space(tmp_path: Path) -> None:
    write_array(tmp_path / "a.h5", np.zeros((3, 4, 5), np.float32), FULL)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["reconstruction"].attrs["space"] = "elsewhere"
    geometry = read_geometry(tmp_path / "a.h5")
    assert geometry is not None and geometry.space == "unknown"


@pytest.mark.parametrize("suffix", [".h5", ".nii", ".zarr", ".tif", ".cfl"])
def test_geometry_of_other_axes_is_left_out(tmp_path: Path, suffix: str) -> None:
    needs_zarr(suffix)
    write_array(tmp_path / f"a{suffix}", np.ones((4, 5), np.float32), FULL)
    geometry = read_geometry(tmp_path / f"a{suffix}")
    assert geometry is None or geometry.voxel_size in {None, (1, 1, 1)}


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png"])
def test_files_that_say_nothing(tmp_path: Path, suffix: str) -> None:
    write_array(tmp_path / f"a{suffix}", np.zeros((4, 5), np.float32))
    assert read_geometry(tmp_path / f"a{suffix}") is None


def test_voxel_sizes_go_from_one_format_to_the_next(tmp_path: Path) -> None:
    needs_zarr(".zarr")
    array = RNG.random((3, 4, 5)).astype(np.float32)
    write_array(tmp_path / "0.nii", array, FULL)
    names = ["0.nii", "1.h5", "2.zarr", "3.nii.gz", "4.tif", "5.nii"]
    for before, after in zip(names, names[1:], strict=False):
        write_array(tmp_path / after, open_array(tmp_path / before), read_geometry(tmp_path / before))
        made = read_geometry(tmp_path / after)
        assert made is not None and made.axes == FULL.axes
        assert made.voxel_size == pytest.approx(FULL.voxel_size, rel=1e-6)
        np.testing.assert_array_equal(open_array(tmp_path / after), array)


@pytest.mark.parametrize(("name", "package"), [("a.nii", "nibabel"), ("a.nii.gz", "nibabel"), ("a.dcm", "pydicom"), ("a.zarr.zip", "zarr")])
def test_a_missing_package_is_named_with_the_line_that_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(DataError, match=f"needs {package}, which is not installed") as caught:
        open_array(tmp_path / name)
    assert caught.value.fault.hint == "pip install 'es-cli[files]'" and caught.value.exit_code == 3


@pytest.mark.parametrize(("name", "package"), [("a.nii", "nibabel"), ("a.zarr", "zarr")])
def test_a_missing_package_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(OutputError, match=f"writing .* needs {package}") as caught:
        write_array(tmp_path / name, np.zeros((3, 4, 5)))
    assert "es-cli[files]" in caught.value.fault.hint and list(tmp_path.iterdir()) == []
