"""MATLAB's files: both formats give what MATLAB shows, and only numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from es_cli.data.readers import array_header, open_array, read_geometry
from es_cli.data.stacks import open_stack
from es_cli.data.writers import write_array
from es_cli.errors import DataError, OutputError
from es_cli.spec.schema import Source

RNG = np.random.default_rng(8)
SHAPE = (5, 3, 4)  # as MATLAB shows it
TYPES = {"f8": "double", "f4": "single", "u1": "uint8", "i2": "int16", "u4": "uint32", "?": "logical", "c16": "double", "c8": "single"}


def save(path: Path, version: str, **arrays: np.ndarray) -> Path:
    """As MATLAB writes it: up to 7 by scipy, 7.3 as HDF5 with reversed axes behind a block of its own."""
    if version != "7.3":
        scipy.io.savemat(path, {name: array.astype(np.uint8) if array.dtype == bool else array for name, array in arrays.items()}, do_compression=version == "7")
        return path
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            values = array.T
            if array.dtype.kind == "c":
                part = array.real.dtype
                values = np.ascontiguousarray(values).view([("real", part), ("imag", part)])
            dataset = file.create_dataset(name, data=values.astype(np.uint8) if array.dtype == bool else values)
            dataset.attrs["MATLAB_class"] = np.bytes_(TYPES[array.dtype.str[1:].replace("b1", "?")])
        file.create_dataset("#refs#/a", data=np.zeros(3))
    return path


def refused(path: Path, word: str, key: str | None = None) -> None:
    with pytest.raises(DataError, match=word) as caught:
        open_array(path, key)
    assert path.name in caught.value.fault.where and caught.value.fault.hint


@pytest.mark.parametrize("version", ["5", "7", "7.3"])
@pytest.mark.parametrize("dtype", ["f8", "f4", "u1", "i2", "u4", "c16", "c8"])
def test_axes_and_types_as_in_matlab(tmp_path: Path, version: str, dtype: str) -> None:
    array = (RNG.standard_normal(SHAPE) * 9).astype(dtype)
    array = array * array.dtype.type(1 + 2j) if array.dtype.kind == "c" else array
    path = save(tmp_path / "a.mat", version, y=array, mask=np.ones((2, 2)))
    got = open_array(path, "y")
    assert got.dtype == array.dtype and array_header(path, "y") == (SHAPE, array.dtype)
    np.testing.assert_array_equal(got, array)
    np.testing.assert_array_equal(open_stack(Source(file=str(path), key="y"), pictures=False, seed=0).read([4, 1]), array[[4, 1]])
    refused(path, "y, mask|mask, y")
    refused(path, "did you mean mask", "mas")
    assert read_geometry(path, "y") is None


def test_truth_values(tmp_path: Path) -> None:
    array = RNG.random((4, 5)) > 0.5
    assert open_array(save(tmp_path / "a.mat", "7.3", m=array)).tolist() == array.tolist()
    scipy.io.savemat(tmp_path / "b.mat", {"m": array})
    got = open_array(tmp_path / "b.mat")
    np.testing.assert_array_equal(got, array)


def test_only_numbers(tmp_path: Path) -> None:
    held: dict[str, Any] = {"text": "abc", "cell": np.array([1, "a"], object), "struct": {"a": 1}, "sparse": scipy.sparse.eye(3).tocsc()}
    scipy.io.savemat(tmp_path / "a.mat", held)
    refused(tmp_path / "a.mat", "no numeric array")
    scipy.io.savemat(tmp_path / "b.mat", held | {"y": np.ones((3, 4))})
    np.testing.assert_array_equal(open_array(tmp_path / "b.mat"), np.ones((3, 4)))
    for name, kind in [("text", "char"), ("cell", "cell"), ("struct", "struct"), ("sparse", "sparse")]:
        refused(tmp_path / "b.mat", f"of class {kind}", name)
    with h5py.File(tmp_path / "c.mat", "w", userblock_size=512) as file:
        file.create_dataset("text", data=np.zeros(3, np.uint16)).attrs["MATLAB_class"] = np.bytes_("char")
    refused(tmp_path / "c.mat", "of class char")


@pytest.mark.parametrize("version", ["5", "7", "7.3"])
def test_damage_is_answered_and_quiet(tmp_path: Path, version: str, capfd: pytest.CaptureFixture[str]) -> None:
    path, rng, answers = save(tmp_path / "a.mat", version, y=RNG.standard_normal(SHAPE)), np.random.default_rng(5), 0
    content = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(124, min(len(content), 900), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            open_array(path)
        except DataError:
            answers += 1
    for part in [0.0, 0.1, 0.5, 0.9]:
        path.write_bytes(content[: int(part * len(content))])
        refused(path, "not a whole|no array")
    assert answers > 0
    assert capfd.readouterr().err == ""


def test_it_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"write \.h5"):
        write_array(tmp_path / "a.mat", np.zeros((3, 4)))
